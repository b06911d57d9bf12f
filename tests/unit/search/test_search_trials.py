import dataclasses

from search_cases import candidate

from kopt.search.catalog import CATALOG
from kopt.search.trials import Trials


def test_what_a_killed_writer_left_beside_a_finished_candidate_goes(tmp_path, monkeypatch):
    monkeypatch.setattr("kopt.search.trials.require_intact", lambda path: candidate("a", 0.9).artifact)
    trials, row = Trials(tmp_path, {}), CATALOG["onnx"]
    directory = trials.start(row)
    trials.finish(row, dataclasses.replace(candidate("onnx", 0.9), config=row.config))
    (directory / ".candidate.json.x.kopt-tmp").mkdir()
    assert trials.finished(row) is not None
    assert sorted(path.name for path in directory.iterdir()) == ["candidate.json"]
