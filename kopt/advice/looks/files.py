"""The files that a model could ship as, made in a directory that goes, and timed in turn."""

import tempfile
from pathlib import Path

from kopt import export, measure
from kopt.advice.looks.subject import Subject
from kopt.core.environment import machine
from kopt.core.errors import KoptError
from kopt.core.records.profiles.circumstances import DeployedFile, Deployment
from kopt.export.integers import warned_already

_SCHEMES = ("float32", "float16", "dynamic", "int8")
_SECONDS = 0.5
_SAMPLES = 64


def deployment(subject: Subject) -> Deployment:
    """Export the model in four schemes, and time it and the files with one thread; float32 also with all cores."""
    x, cores = subject.inputs, machine().cores
    with tempfile.TemporaryDirectory() as directory, export.traced(subject.model) as source:
        made: list[tuple[str, str, int, Path]] = []
        failed: list[DeployedFile] = []
        for scheme in _SCHEMES:
            path, name = Path(directory, f"{scheme}.tflite"), f"tflite-{scheme}"
            try:
                with warned_already():  # only timed
                    export.tflite(source, path, scheme=scheme, calibration=x, samples=_SAMPLES)
            except KoptError as error:
                failed.append(DeployedFile(name, scheme, 1, None, None, reason=str(error)))
                continue
            made.append((name, scheme, 1, path))
            if scheme == "float32" and cores > 1:
                made.append((f"{name}, {cores} threads", scheme, cores, path))
        runners = [measure.load(subject.model), *(measure.load(path, threads=threads) for *_, threads, path in made)]
        timed = measure.latency(runners, x, max_seconds=_SECONDS)
        assert isinstance(timed, list)
        times = [one.latency_ms for one in timed]
        files = [
            DeployedFile(name, scheme, threads, time, path.stat().st_size)
            for (name, scheme, threads, path), time in zip(made, times[1:], strict=True)
        ]
    return Deployment((DeployedFile("keras", "float32", None, times[0], None), *files, *failed))
