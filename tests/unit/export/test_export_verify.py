"""`kopt.export.verify` and `kopt verify`: damage is found wherever it is."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safekeeping_cases import exported, flip, moved, statuses

import kopt
from kopt.cli import main
from kopt.core.errors import LoadError
from kopt.core.files import sha256
from kopt.export.manifest import manifest_text, read_manifest
from kopt.export.reference import read_reference

ALL_OK = dict.fromkeys(("manifest", "content", "reference", "runtime", "signature", "parameters", "outputs"), "ok")


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    return exported(tmp_path_factory.mktemp("original"))


@pytest.fixture
def path(original, tmp_path):
    return moved(original, tmp_path)


def test_what_was_moved_whole_holds_bit_for_bit(path):
    verification = kopt.export.verify(path)
    assert statuses(verification) == ALL_OK
    assert verification.verdicts[-1].found == "the same bit for bit"
    assert kopt.core.records.shipping.safekeeping.Verification.from_json(verification.to_json()) == verification


def test_the_reference_is_four_inputs_and_what_the_line_makes_of_them(path):
    inputs, outputs = read_reference(Path(f"{path}.reference.npz"))
    assert inputs["x"].shape == (4, 2)
    assert set(map(tuple, inputs["x"].tolist())) < {(a, a + 1) for a in range(0, 12, 2)}
    np.testing.assert_array_equal(outputs["y"], inputs["x"] @ [[2], [-3]] + 1)


def test_the_reference_is_the_same_bytes_in_every_export(path, tmp_path):
    (tmp_path / "again").mkdir()
    again = exported(tmp_path / "again")
    assert sha256(f"{again}.reference.npz") == sha256(f"{path}.reference.npz")
    assert read_manifest(again).parameters_sha256 == read_manifest(path).parameters_sha256
    assert read_manifest(again).examples_sha256 == read_manifest(path).examples_sha256


@pytest.mark.parametrize("place", [0, 100, -1])
@pytest.mark.parametrize(
    ("file", "checked"),
    [
        ("line/saved_model.pb", "content"),
        ("line/variables/variables.data-00000-of-00001", "content"),
        ("line.reference.npz", "reference"),
    ],
)
def test_a_bit_of_a_file_is_found_before_anything_opens_it(path, file, checked, place):
    flip(path.parent / file, place)
    found = statuses(kopt.export.verify(path))
    assert found[checked] == "failed"
    assert "runtime" not in found


@pytest.mark.slow
def test_a_bit_anywhere_in_the_manifest_is_found(path):
    manifest = Path(f"{path}.json")
    whole = manifest.read_bytes()
    for place in range(len(whole)):
        flip(manifest, place)
        assert statuses(kopt.export.verify(path)) == {"manifest": "failed"}, place
        manifest.write_bytes(whole)


@pytest.mark.parametrize("name", ["line/saved_model.pb", "line.json", "line.reference.npz"])
def test_what_was_cut_short_or_is_gone_is_found(path, name):
    file = path.parent / name
    file.write_bytes(file.read_bytes()[:-10])
    assert not kopt.export.verify(path).ok
    file.unlink()
    assert not kopt.export.verify(path).ok


def test_line_ends_that_git_changed_are_no_damage(path):
    manifest = Path(f"{path}.json")
    manifest.write_bytes(manifest.read_bytes().replace(b"\n", b"\r\n"))
    assert kopt.export.verify(path).ok


def test_two_files_that_changed_places_are_found(path, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(path, other)
    flip(other / "fingerprint.pb", 3)
    text = manifest_text(dataclasses.replace(read_manifest(path), sha256=sha256(other), reference=None))
    Path(f"{other}.json").write_text(text)
    assert statuses(kopt.export.verify(other))["content"] == "ok"
    for source, target in ((path, "third"), (other, path.name), (tmp_path / "third", "other")):
        source.rename(tmp_path / target)
    assert statuses(kopt.export.verify(path))["content"] == "failed"
    assert statuses(kopt.export.verify(other))["content"] == "failed"


def resealed(path, **changes):
    """Write another manifest, as somebody would who means to deceive; return what is found."""
    Path(f"{path}.json").write_text(manifest_text(dataclasses.replace(read_manifest(path), **changes)))
    return statuses(kopt.export.verify(path))


def test_other_parameters_or_another_signature_than_the_manifest_has_are_found(path):
    artifact = read_manifest(path)
    assert resealed(path, parameters_sha256="0" * 64) == {**ALL_OK, "parameters": "failed"}
    other = (dataclasses.replace(artifact.inputs[0], name="z"),)
    assert resealed(path, inputs=other, parameters_sha256=artifact.parameters_sha256) == {
        **ALL_OK,
        "signature": "failed",
    }


@pytest.mark.parametrize(("error", "status"), [(5e-5, "ok"), (5e-4, "failed"), (np.nan, "failed")])
def test_outputs_may_differ_by_a_tenth_of_what_the_scheme_may(path, error, status):
    # float32 may be off by 1e-3 of the root mean square of the output, so 1e-4 of it is accepted on replay.
    file = Path(f"{path}.reference.npz")
    inputs, outputs = read_reference(file)
    rms = np.sqrt(np.mean(np.square(outputs["y"])))
    with open(file, "wb") as sink:
        np.savez(sink, **{"input/x": inputs["x"], "output/y": outputs["y"] + np.float32(error) * rms})
    reference = dataclasses.replace(read_manifest(path).reference, sha256=sha256(file))
    assert resealed(path, reference=reference) == {**ALL_OK, "outputs": status}


def test_a_pointer_of_git_lfs_is_said_to_be_one(path):
    file = path / "variables" / "variables.data-00000-of-00001"
    file.write_text(f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 1234\n")
    (failed,) = [one for one in kopt.export.verify(path).verdicts if one.status == "failed"]
    assert "is a Git LFS pointer, not the file of 1234 bytes" in failed.found
    assert "git lfs pull" in failed.found


def test_a_file_that_dvc_has_not_fetched_is_said_to_be_one(path):
    shutil.rmtree(path)
    Path(f"{path}.dvc").write_text("outs:\n- md5: d41d8cd98f00b204e9800998ecf8427e.dir\n  path: line\n")
    assert "run `dvc pull" in kopt.export.verify(path).verdicts[0].found


def test_the_command_ends_with_0_1_or_2(path, capsys):
    assert main(["verify", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["schema"] == "Verification/1"
    flip(path / "saved_model.pb", 50)
    assert main(["verify", str(path)]) == 1
    assert "FAILED" in capsys.readouterr().out
    assert main(["verify", str(path.parent / "nowhere"), "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["error"] == "LoadError"


def test_a_large_input_is_kept_once_and_a_larger_one_not_at_all(tmp_path):
    class Runner:
        inputs = outputs = (kopt.core.records.artifacts.TensorInfo("x", (None, None), "float32"),)

        def predict(self, arrays):
            return arrays["x"][:, :1]

    for values, examples in ((200_000, 1), (300_000, None)):  # 0.8 MB and 1.2 MB an example
        arrays = {"x": np.zeros((6, values), np.float32)}
        made = kopt.export.reference.write_reference(tmp_path / "r.npz", "r.npz", Runner(), arrays)
        assert (made and len(read_reference(tmp_path / "r.npz")[0]["x"])) == examples


def test_what_is_no_reference_is_said(tmp_path):
    (tmp_path / "r.npz").write_bytes(b"PK\x03\x04 and then nothing")
    with pytest.raises(LoadError, match="holds no reference"):
        read_reference(tmp_path / "r.npz")
