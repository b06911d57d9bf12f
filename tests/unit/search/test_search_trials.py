import dataclasses

from search_cases import candidate

from kopt.core.records.candidates import ExportConfig
from kopt.core.records.search.recipes import Recipe
from kopt.search.trials.records import Trials


def test_what_a_killed_writer_left_beside_a_finished_candidate_goes(tmp_path, monkeypatch):
    monkeypatch.setattr("kopt.search.trials.records.require_intact", lambda path: candidate("a", 0.9).artifact)
    trials, row = Trials(tmp_path, {}), Recipe(export=ExportConfig("onnx"))
    directory = trials.start(row)
    trials.finish(row, dataclasses.replace(candidate("onnx", 0.9), config=row.export))
    (directory / ".candidate.json.x.kopt-tmp").mkdir()
    assert trials.finished(row) is not None
    assert sorted(path.name for path in directory.iterdir()) == ["candidate.json", "recipe.json"]
