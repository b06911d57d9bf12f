import dataclasses

from search_cases import candidate

from kopt.search.trials.leftovers import unused

VERSIONS = {"kopt": "1", "tensorflow": "2.21"}


def finished(workdir, name, source="model", versions=VERSIONS):
    made = candidate(name, 0.9)
    made = dataclasses.replace(
        made, artifact=dataclasses.replace(made.artifact, source_sha256=source, versions=dict(versions))
    )
    folder = workdir / "candidates" / name
    folder.mkdir(parents=True)
    (folder / "candidate.json").write_text(made.to_json())
    return folder, made.artifact


def test_what_else_lies_there_is_named_with_the_reason(tmp_path):
    own, artifact = finished(tmp_path, "own")
    assert unused(tmp_path, (own,), (artifact,)) == ()
    finished(tmp_path, "other-a", source="another")
    finished(tmp_path, "other-b", source="another")
    finished(tmp_path, "older", versions={"kopt": "1", "tensorflow": "2.20"})
    finished(tmp_path, "settings")
    damaged, _ = finished(tmp_path, "zdamaged")
    (damaged / "candidate.json").write_text("{")
    (tmp_path / "candidates" / "unfinished").mkdir()
    found = unused(tmp_path, (own,), (artifact,))
    assert [text.removeprefix(f"{tmp_path} also holds ") for text in found] == [
        "1 finished candidate made with other versions (tensorflow 2.20, now 2.21); not used and left as it is.",
        "2 finished candidates of another model; not used and left as they are.",
        "1 finished candidate of this model with other data or settings (a `tf.data.Dataset` whose examples change "
        "each time it is read, as augmentation changes them, is other data); not used and left as it is.",
        "1 finished candidate that cannot be read; not used and left as it is.",
    ]


def test_an_empty_directory_holds_nothing(tmp_path):
    assert unused(tmp_path, (), ()) == ()
