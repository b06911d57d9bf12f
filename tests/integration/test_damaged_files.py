"""Files with a few wrong bytes: `kopt.export.verify` refuses each before a runtime sees it; a runtime that is given one
without the check may only answer or raise a typed error, and where it ends its process, that is counted here."""

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "unit" / "export"))
from safekeeping_cases import exported, model, moved

import kopt

pytestmark = pytest.mark.slow
MUTATIONS = 500
LOAD = """
import json, resource, sys
import kopt
from kopt.core.errors import KoptError
# A dimension that changed asks for any amount of memory; TensorFlow's address space alone is some 5 GB.
resource.setrlimit(resource.RLIMIT_AS, (10 << 30, 10 << 30))
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    path = json.loads(line)
    try:
        runner = kopt.measure.load(path)
        runner.predict(kopt.measure.random_inputs(runner.inputs, 2, seed=0))
        said = "answered"
    except KoptError as error:
        said = type(error).__name__
    except MemoryError:
        said = "MemoryError"
    except Exception as error:
        said = "UNTYPED " + repr(error)[:200]
    print(json.dumps(said), flush=True)
"""


def mutated(data, generator):
    """Change bytes, cut the end, take a part out or put one in."""
    data = bytearray(data)
    kind = generator.choice(("bytes", "bytes", "cut", "out", "in"))
    start = generator.randrange(len(data))
    if kind == "bytes":
        for _ in range(generator.choice((1, 1, 4, 16))):
            data[generator.randrange(len(data))] ^= generator.randrange(1, 256)
    elif kind == "cut":
        del data[start:]
    elif kind == "out":
        del data[start : start + generator.randrange(1, 64)]
    else:
        data[start:start] = generator.randbytes(generator.randrange(1, 64))
    return bytes(data)


class Child:
    """A process that opens files and runs them; a new one comes when it died. It has two minutes."""

    def __init__(self):
        self._process = None

    def open(self, path):
        if self._process is None:
            self._process = subprocess.Popen(
                ["timeout", "120", sys.executable, "-c", LOAD],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert self._line() == "ready"
        self._process.stdin.write(json.dumps(str(path)) + "\n")
        self._process.stdin.flush()
        said = self._line()
        if said is None:
            code = self._process.wait()
            self.close()
            return f"died with {code}"
        return said

    def _line(self):
        line = self._process.stdout.readline()
        return json.loads(line) if line else None

    def close(self):
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


@pytest.fixture(scope="module", params=[".tflite", ".onnx"])
def original(request, tmp_path_factory):
    return exported(tmp_path_factory.mktemp("original"), request.param)


@pytest.mark.parametrize("suffix", ["", ".json", ".reference.npz"])
def test_verify_refuses_each(original, tmp_path, suffix):
    generator = random.Random(suffix)
    path = moved(original, tmp_path)
    assert kopt.export.verify(path).ok
    file = Path(f"{path}{suffix}")
    whole = file.read_bytes()
    for number in range(MUTATIONS):
        file.write_bytes(mutated(whole, generator))
        verification = kopt.export.verify(path)
        assert not verification.ok, number
        assert "runtime" not in {one.checked for one in verification.verdicts}
    file.write_bytes(whole)
    assert kopt.export.verify(path).ok


def test_a_runtime_without_the_check_answers_or_raises_a_typed_error(original, tmp_path):
    generator, child, said = random.Random(1), Child(), []
    whole = original.read_bytes()
    path = tmp_path / original.name
    try:
        for _ in range(4 * MUTATIONS):
            path.write_bytes(mutated(whole, generator))
            said.append(child.open(path))
    finally:
        child.close()
    counts = {one: said.count(one) for one in sorted(set(said))}
    print(original.suffix, counts)
    assert not [one for one in counts if one.startswith("UNTYPED")], counts
    assert "died with 124" not in counts


def directory_and_files(directory, kind):
    """Return what is opened, and the files in it that may be damaged."""
    if kind == "saved_model":
        path = exported(directory)
        return path, sorted(file for file in path.rglob("*") if file.is_file())
    path = directory / "line.keras"
    model().save(path)
    return path, [path]


@pytest.mark.parametrize(("kind", "count"), [("saved_model", 250), ("keras", 750)])
def test_tensorflow_and_keras_answer_or_raise_a_typed_error(kind, count, tmp_path):
    path, files = directory_and_files(tmp_path, kind)
    generator, child, said = random.Random(2), Child(), []
    try:
        for _ in range(count):
            file = generator.choice(files)
            whole = file.read_bytes()
            file.write_bytes(mutated(whole, generator))
            said.append(child.open(path))
            file.write_bytes(whole)
    finally:
        child.close()
    counts = {one: said.count(one) for one in sorted(set(said))}
    print(kind, counts)
    assert not [one for one in counts if one.startswith(("UNTYPED", "died"))], counts
    assert counts["LoadError"] > count / 4
