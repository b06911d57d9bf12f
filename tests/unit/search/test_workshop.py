"""The parent's end of trials, with small programs in place of the child process."""

import json
import re
import sys

import pytest

from kopt.core.errors import OutputError
from kopt.core.records.search.techniques import ChannelsConfig, RecoverConfig, Step
from kopt.search.trials.made import RECIPE, Job
from kopt.search.trials.workshop import Made, NotMade, Workshop

STEPS = (Step("channels", ChannelsConfig(0.5)), Step("recover", RecoverConfig(1)))
# What the child process does, without kopt, which would load TensorFlow: it makes every target.
CHILD = """
import hashlib, json, pathlib, sys, time
job = json.loads(pathlib.Path(sys.argv[1]).read_text())
source = pathlib.Path(job["source"]).read_text() if job["source"] else ""
for count, target in enumerate(job["targets"], len(job["steps"]) - len(job["targets"]) + 1):
    source += job["steps"][count - 1]["technique"] + " "
    path = pathlib.Path(target) / "model.keras"
    path.write_text(source)
    made = {"schema": "MadeModel/1", "steps": job["steps"][:count], "summary": "made", "changed": True, "seconds": 2.0}
    made["remark"] = job["remark"]
    made.update(sha256=hashlib.sha256(path.read_bytes()).hexdigest(), fingerprint=source)
    (path.parent / "made.json").write_text(json.dumps(made))
    print("made", count, flush=True)
    {then}
"""


def workshop(tmp_path, program="", lessons=None, **settings):
    path = tmp_path / "child.py"
    path.write_text(CHILD.replace("{then}", program or "pass"))
    return Workshop(
        tmp_path, tmp_path / "supplies", {"model": "m"}, lessons or {}, command=(sys.executable, str(path)), **settings
    )


def test_steps_are_made_in_order_and_once(tmp_path):
    one = workshop(tmp_path)
    made = one.make(STEPS)
    assert isinstance(made, Made)
    assert made.path.read_text() == "channels recover "
    assert made.seconds == 4.0
    before = made.path.stat().st_mtime_ns
    assert workshop(tmp_path, "sys.exit('not again')").make(STEPS) == made
    assert made.path.stat().st_mtime_ns == before


def test_recipes_that_begin_alike_share_what_they_begin_with(tmp_path):
    one = workshop(tmp_path)
    first = one.make(STEPS[:1])
    longer = one.make(STEPS)
    assert longer.path.read_text() == "channels recover "
    job = Job.from_json((longer.path.parent / RECIPE).read_text())
    assert job.source == str(first.path)
    assert job.targets == (str(longer.path.parent),)


def test_what_does_not_train_does_not_depend_on_lessons(tmp_path):
    a, b = workshop(tmp_path, lessons={"lessons": "a"}), workshop(tmp_path, lessons={"lessons": "b"})
    assert a.directory(STEPS[:1]) == b.directory(STEPS[:1])
    assert a.directory(STEPS) != b.directory(STEPS)


def test_a_damaged_model_is_made_again(tmp_path):
    one = workshop(tmp_path)
    made = one.make(STEPS)
    made.path.write_text("half of it")
    assert one.finished(STEPS) is None
    assert one.make(STEPS).path.read_text() == "channels recover "


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        (
            "if count == 2: (path.parent / 'failure.txt').write_text('ConfigError: no'); sys.exit(1)",
            "^ConfigError: no$",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", r"died \(SIGSEGV\); log: .*log.txt\n"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "SIGKILL, most often for want of memory"),
        ("print('last words', flush=True); import os; os._exit(3)", r"(?s)exit code 3.*last words"),
    ],
)
def test_a_child_that_dies_is_a_reason(tmp_path, program, reason):
    found = workshop(tmp_path, program).make(STEPS)
    assert isinstance(found, NotMade)
    assert re.search(reason, found.reason)
    assert not found.out_of_time


def test_what_crashes_is_made_again_without_onednn_and_so_is_what_follows(tmp_path):
    crash = "import os, signal; count == 2 and os.environ.get('TF_ENABLE_ONEDNN_OPTS') != '0'"
    crash += " and ((path.parent / 'made.json').unlink(), os.kill(os.getpid(), signal.SIGSEGV))"
    one = workshop(tmp_path, crash)
    made = one.make(STEPS)
    assert made.path.read_text() == "channels recover "
    remark = "made without oneDNN, because with it the process died (SIGSEGV)"
    assert Job.from_json((made.path.parent / RECIPE).read_text()).remark == remark
    assert made.record.remark == remark
    assert one.finished(STEPS[:1]).record.remark == ""
    assert one.make((*STEPS, STEPS[1])).record.remark == remark


def test_nothing_is_made_of_a_model_that_is_known_or_unchanged(tmp_path):
    stops = "if job['known'] and source in job['known']: break"
    found = workshop(tmp_path, stops).make(STEPS, known=["channels "])
    assert found == NotMade("the same model as another one, because widths are rounded")
    assert workshop(tmp_path).finished(STEPS[:1]) is not None
    assert workshop(tmp_path).finished(STEPS) is None
    assert workshop(tmp_path, "sys.exit('not asked')").make(STEPS, known=["channels "]) == found
    assert isinstance(workshop(tmp_path).make(STEPS, known=["another"]), Made)


def test_what_was_made_before_the_end_is_kept(tmp_path):
    found = workshop(tmp_path, "if count == 2: (path.parent / 'made.json').unlink(); sys.exit(1)").make(STEPS)
    assert isinstance(found, NotMade)
    assert workshop(tmp_path).finished(STEPS[:1]) is not None
    assert workshop(tmp_path).make(STEPS).path.read_text() == "channels recover "


def test_too_long_is_a_failure_and_no_time_left_is_none(tmp_path):
    sleepy = "time.sleep(60)"
    late = workshop(tmp_path, sleepy, trial_seconds=0.5).make(STEPS)
    assert late == NotMade("It took more than 0.5 s and was ended; `Training.trial_seconds` sets the limit.")
    ended = workshop(tmp_path, sleepy, trial_seconds=50).make(STEPS, seconds_left=0.5)
    assert ended.out_of_time


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            "print('Cannot write m/model.keras: No space left. Make room.'); sys.exit(75)",
            "^Cannot write m/model.keras: No",
        ),
        (
            "sys.exit(75)",
            "^Cannot write .*channels-0.5.*Make room there, or choose another `workdir`, and start the same",
        ),
    ],
)
def test_a_child_without_room_ends_the_run(tmp_path, program, message):
    """75 is EX_TEMPFAIL of sysexits.h."""
    with pytest.raises(OutputError, match=message):
        workshop(tmp_path, program).make(STEPS)


def test_a_directory_says_what_is_made_in_it(tmp_path):
    made = workshop(tmp_path).make(STEPS)
    recipe = json.loads((made.path.parent / RECIPE).read_text())
    assert [step["technique"] for step in recipe["steps"]] == ["channels", "recover"]
    assert (made.path.parent / "log.txt").read_text() == "made 1\nmade 2\n"
