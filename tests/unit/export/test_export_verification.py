import math

import pytest

from kopt.core.errors import LoadError, ParityError
from kopt.core.records.artifacts import Artifact, OutputParity, Parity
from kopt.core.schemes import get_scheme
from kopt.export.file_parameters import parameters_sha256
from kopt.export.manifest import manifest_text, read_manifest, require_intact
from kopt.export.verification import require_parity


def parity(rmse, rms=2.0, nonfinite_a=0, nonfinite_b=0):
    return Parity("a", "b", 4, (OutputParity("out", rmse, rmse, rmse, rms, 1.0, 1.0, nonfinite_a, nonfinite_b),))


def test_the_bound_is_relative_to_the_output():
    scheme = get_scheme("float16")  # 2 % of a root mean square of 2 is 0.04
    require_parity(parity(0.0399), scheme, step=0.0)
    with pytest.raises(ParityError, match=r"off by 0.0401 .* 0.04 is the most that float16 explains"):
        require_parity(parity(0.0401), scheme, step=0.0)


def test_a_quantized_output_may_be_off_by_one_step():
    # A softmax over a thousand classes answers about 0.001 each, less than one step of 1/256.
    require_parity(parity(0.003, rms=0.001), get_scheme("int8"), step=1 / 256)


def test_nan_is_refused_even_where_the_rest_fits():
    with pytest.raises(ParityError, match="holds 1 NaN or infinite numbers on 4 examples; the model gives 0"):
        require_parity(parity(0.0, nonfinite_a=1), get_scheme("int8"), step=0.0)


def test_a_model_that_gives_nan_itself_may_do_so_in_the_file():
    require_parity(parity(0.0, nonfinite_a=1, nonfinite_b=1), get_scheme("float32"), step=0.0)


def test_a_distance_that_is_nan_is_no_match():
    with pytest.raises(ParityError):
        require_parity(parity(math.nan), get_scheme("float32"), step=0.0)


@pytest.fixture
def artifact(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(b"content")
    digest = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"  # printf content | sha256sum
    made = Artifact(str(path), "tflite", "int8", 7, 27, digest, "", (), (), (), {}, {})
    made.manifest_path.write_text(manifest_text(made))
    return made


def test_a_manifest_moves_with_its_file(artifact, tmp_path):
    (tmp_path / "moved").mkdir()
    for name in ("m.tflite", "m.tflite.json"):
        (tmp_path / name).rename(tmp_path / "moved" / name)
    assert require_intact(tmp_path / "moved" / "m.tflite").path == str(tmp_path / "moved" / "m.tflite")


def test_a_changed_file_is_not_the_one_described(artifact, tmp_path):
    (tmp_path / "m.tflite").write_bytes(b"contenT")
    with pytest.raises(LoadError, match=r"is not the file that its manifest describes.*export it again"):
        require_intact(artifact.path)


def test_a_missing_or_foreign_manifest_is_said(artifact, tmp_path):
    artifact.manifest_path.write_text("{}")
    with pytest.raises(LoadError, match="is not a manifest of kopt"):
        read_manifest(artifact.path)
    artifact.manifest_path.unlink()
    with pytest.raises(LoadError, match=r"m.tflite.json does not exist"):
        read_manifest(artifact.path)


def test_of_a_format_that_nothing_reads_the_parameters_have_no_hash(tmp_path):
    (tmp_path / "model.engine").write_bytes(b"an engine")
    assert parameters_sha256(tmp_path / "model.engine", "tensorrt") == ""
