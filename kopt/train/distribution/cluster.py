"""TF_CONFIG: the environment variable by which the processes of a distributed training know each other."""

import json
from typing import Any

from kopt.core.errors import ConfigError
from kopt.core.records.training.distribution import Cluster

_JOBS = ("chief", "worker", "ps", "evaluator")
_EXAMPLE = '{"cluster": {"worker": ["10.0.0.1:2222", "10.0.0.2:2222"]}, "task": {"type": "worker", "index": 0}}'


def parse_tf_config(text: str) -> Cluster | None:
    """Return the cluster that TF_CONFIG describes; `None` if it is empty or names no cluster.

    Args:
        text: value of the environment variable.

    Raises:
        ConfigError: not JSON, a part that is missing or of another form, an address without a port, an address that
            comes twice, or a task that the cluster does not have.

    Source:
        TensorFlow, guide "Distributed training with TensorFlow", "Setting up the TF_CONFIG environment variable".
    """
    if not text.strip():
        return None
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise _malformed(f"it is not JSON ({error})", text) from None
    if not isinstance(config, dict):
        raise _malformed(f"it is a JSON {type(config).__name__}, not an object", text)
    if not config.get("cluster"):
        if config.get("task"):
            raise _malformed("it has a `task` but no `cluster`", text)
        return None
    jobs = _jobs(config["cluster"], text)
    task_type, task_index = _task(config.get("task"), jobs, text)
    return Cluster(jobs, task_type, task_index)


def _jobs(cluster: Any, text: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(cluster, dict):
        raise _malformed("`cluster` is not an object of jobs", text)
    jobs: dict[str, tuple[str, ...]] = {}
    for job, addresses in cluster.items():
        if job not in _JOBS:
            raise _malformed(f"`cluster` has the job {job!r}; jobs are {', '.join(_JOBS)}", text)
        if not isinstance(addresses, list) or not addresses:
            raise _malformed(f"`cluster.{job}` is not a list of addresses", text)
        for address in addresses:
            _check_address(address, job, text)
        jobs[job] = tuple(addresses)
    known = [address for addresses in jobs.values() for address in addresses]
    twice = sorted({address for address in known if known.count(address) > 1})
    if twice:
        raise _malformed(f"the address {twice[0]!r} comes twice", text)
    return jobs


def _check_address(address: Any, job: str, text: str) -> None:
    host, _, port = address.rpartition(":") if isinstance(address, str) else ("", "", "")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise _malformed(f"`cluster.{job}` has {address!r}, which is not `host:port`", text)


def _task(task: Any, jobs: dict[str, tuple[str, ...]], text: str) -> tuple[str, int]:
    if not isinstance(task, dict) or "type" not in task or "index" not in task:
        raise _malformed("`task` with `type` and `index` is missing: it tells this process which one it is", text)
    kind, index = task["type"], task["index"]
    if isinstance(index, str) and index.isdigit():
        index = int(index)  # Some launchers write it as text, and TensorFlow takes that.
    if isinstance(index, bool) or not isinstance(index, int):
        raise _malformed(f"`task.index` is {index!r}, not a whole number", text)
    if kind == "evaluator" and kind not in jobs:
        return kind, index  # An evaluator stands beside the cluster.
    if kind not in jobs:
        raise _malformed(f"`task.type` is {kind!r}; the cluster has {', '.join(jobs)}", text)
    if not 0 <= index < len(jobs[kind]):
        raise _malformed(f"`task.index` is {index}; `cluster.{kind}` has {len(jobs[kind])} address(es)", text)
    return kind, index


def _malformed(problem: str, text: str) -> ConfigError:
    return ConfigError(f"TF_CONFIG cannot be used: {problem}. It must look like {_EXAMPLE}. Received: {text[:300]}")
