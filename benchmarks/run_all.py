"""Run every benchmark in a process of its own, show a table, and keep the numbers in `results.json`."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

FOLDER = Path(__file__).parent
SCRIPTS = (
    "import_time",
    "latency_runtimes",
    "conversion_overhead",
    "fashion_mnist_int8",
    "training_speed",
    "training_costs",
    "input_pipeline",
    "rematerialization",
    "precision",
    "costs_applications",
    "large_model_profile",
    "sensitivity",
    "training_profile_overhead",
    "pruning_overhead",
    "quantization_overhead",
    "post_training",
    "distillation",
    "channel_pruning",
    "serving_load",
    "monitoring_overhead",
)


def run(script: str) -> dict[str, Any]:
    """Return what a script printed, or a result with `error` if it did not come to one."""
    done = subprocess.run([sys.executable, FOLDER / f"{script}.py"], capture_output=True, text=True)
    if done.returncode not in (0, 1) or not done.stdout:
        return {"name": script, "holds": False, "error": f"exit code {done.returncode}", "log": done.stderr[-2000:]}
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def table(results: list[dict[str, Any]]) -> Table:
    """Return one row a claim."""
    shown = Table("Benchmark", "Claim", "Measured", "Bound", "Holds", title="Claims")
    for result in results:
        if "error" in result:
            shown.add_row(result["name"], result["error"], "-", "-", "no", style="red")
            continue
        for claim, value in result["ratio"].items():
            holds = claim not in result["failing"]
            style = "" if holds else "red"
            bound = result["bound"][claim]
            shown.add_row(result["name"], claim, f"{value:.4g}", bound, "yes" if holds else "no", style=style)
    return shown


def main() -> int:
    """Return 0 if every claim holds."""
    progress, results = Console(stderr=True), []
    for script in SCRIPTS:
        progress.print(f"{script} ...")
        results.append(run(script))
        if "log" in results[-1]:
            progress.print(results[-1]["log"], markup=False)
    (FOLDER / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    Console().print(table(results))
    return 0 if all(result["holds"] for result in results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
