"""`memdash plan` as a shell sees it: the table, the verdict, what is written, and mistakes in one line."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from memdash import wire
from memdash.commands import _before_start, main
from memdash.commands._before_start import before_start
from memdash.commands._plan_page import advice, page, with_micro_batch
from memdash.commands._planning import probe
from memdash.config import RunConfig
from memdash.errors import ExitCode
from memdash.replay.timeline import Timeline
from memdash.store.run_directory import list_runs

pytest.importorskip("torch")
TOY = Path(__file__).parents[1] / "runner" / "toy_task.py"


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The toy task on a simulated device that holds some slices and not the whole group."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    shutil.copy(TOY, tmp_path)
    path = tmp_path / "toy.toml"
    path.write_text(
        '[task]\nname = "toy_task:toy"\noptions = { width = 64 }\n\n'
        '[train]\nglobal_batch = 8 # examples\n\n[device]\nkind = "simulated"\ncapacity = "220KB"\n'
    )
    return path


def test_it_names_the_step_that_will_not_fit_and_what_does(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(config)]) == ExitCode.OUT_OF_MEMORY
    out = capsys.readouterr().out
    assert "capacity  215 KiB (device.capacity, simulated)" in out
    rows = {line.split()[0]: line for line in out.splitlines() if "━" in line and " KiB" in line}
    assert "WILL OOM at step 1 (example " in rows["8*"]
    assert rows["1"].endswith("fits")
    assert "The largest micro-batch that fits: 2 (the global batch stays 8)" in out


def test_applied_it_fits_and_the_rest_of_the_file_stays(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fitting = config.with_name("fitting.toml")
    assert main(["plan", str(config), "--apply", str(fitting), "--json"]) == ExitCode.OK
    plan = json.loads(capsys.readouterr().out)
    written = tomllib.loads(fitting.read_text())
    assert written["train"] == {"micro_batch": plan["largest"], "global_batch": 8}
    assert "# examples" in fitting.read_text()
    assert main(["plan", str(fitting)]) == ExitCode.OK
    assert main(["plan", str(config), "--apply", str(fitting)]) == ExitCode.USAGE
    assert "exists already" in capsys.readouterr().err


def test_other_capacities(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(config), "--gpu", "t4", "--json"]) == ExitCode.OK
    plan = json.loads(capsys.readouterr().out)
    assert plan["room"]["source"] == "--gpu t4"
    assert plan["rows"][0]["terms"]["framework"] == (500 + 17) * 2**20
    assert main(["plan", str(config), "--set", "device.kind=cpu", "--json"]) == ExitCode.OK
    plan = json.loads(capsys.readouterr().out)
    assert plan["room"]["source"].startswith("free of /")  # the file that limits this machine
    assert plan["rows"][0]["terms"]["framework"] > 50 * 2**20  # Python and torch
    assert main(["plan", str(config), "--set", "device.kind=cpu", "--set", "memory.host_budget=20MiB"]) == 12
    out = capsys.readouterr().out
    assert "20.0 MiB (memory.host_budget)" in out
    assert "No micro-batch fits" in out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["none.toml"], "none.toml: no such file"),
        (["CONFIG", "--capacity", "much"], "--capacity: 'much' is not a size"),
        (["CONFIG", "--capacity", "16"], "--capacity 16: is less than a MiB"),
        (["CONFIG", "--apply", "/elsewhere.toml"], "relative paths in it start from"),
        (["CONFIG", "--apply", "x.toml", "--set", "train.epochs=2"], "leave --set out"),
        (["CONFIG", "--set", "task.options={count=0}"], "there are no examples to train on"),
        (["CONFIG", "--set", "task.options={width='x'}"], "the task cannot be planned: TypeError"),
    ],
)
def test_mistakes_are_told(config: Path, argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["plan", *(text.replace("CONFIG", str(config)) for text in argv)])
    out, err = capsys.readouterr()
    assert code == (ExitCode.ERROR if "TypeError" in message else ExitCode.USAGE)
    assert out == ""
    assert message in err.strip().splitlines()[-1] or message in err.strip().splitlines()[-2]


@pytest.mark.parametrize(
    ("text", "train"),
    [
        ("", {"micro_batch": 4}),
        ("[run]\nname = 'x'\n", {"micro_batch": 4}),
        ("[train]\nmicro_batch = 16 # press b\n[data]\nmax_length = 8\n", {"micro_batch": 4}),
        ("[train]\nglobal_batch = 16\n[data]\nmax_length = 8\n", {"micro_batch": 4, "global_batch": 16}),
        ("train.micro_batch = 16\n", {"micro_batch": 4}),
        ("train.epochs = 2\n", {"micro_batch": 4, "epochs": 2}),
        ("[ train ] # all\nmicro_batch=1", {"micro_batch": 4}),
    ],
)
def test_only_the_micro_batch_is_changed(text: str, train: dict[str, Any]) -> None:
    before, after = tomllib.loads(text), tomllib.loads(with_micro_batch(text, 4))
    assert after.pop("train") == train
    before.pop("train", None)
    assert after == before


def test_what_cannot_be_edited_is_left_to_the_user(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = config.read_text()
    config.write_text("train = { global_batch = 8 }\n" + text.replace("[train]\nglobal_batch = 8 # examples\n", ""))
    target = config.with_name("fitting.toml")
    assert main(["plan", str(config), "--apply", str(target)]) == ExitCode.USAGE
    assert "set train.micro_batch = 2 by hand" in capsys.readouterr().err
    assert not target.exists()


def a_plan(verdict: str = "unknown", **changes: Any) -> dict[str, Any]:
    over = {"step": 7, "example": 3, "length": 50, "line": 2204} if verdict == "oom" else None
    row = {
        "micro_batch": 2,
        "peak_bytes": {"longest": 300, "p99": 200, "median": 100},
        "worst_bytes": 300,
        "terms": {"parameters": 100, "gradients": 0, "activations": 200},
        "verdict": verdict,
        "first_over": over,
        "first_steps": {"bytes": 300, "cells": 100},
        "cells": 1000,
        "host": None,
    }
    lengths = {"examples": 9, "mean": 2.0, "median": 2, "p90": 3, "p99": 4, "longest": 50, "longest_usual": 4}
    data = {**lengths, "num_outliers": 12, "outliers": [[3, 50], [7, 49]], "outlier_lines": [2204, 17]}
    way = {"keys": {}, "blow_up": 3.0, "blow_up_usual": 2.0, "usual_bytes": 200, "worst_bytes": 300, "loses": ""}
    ways = [
        {**way, "name": "batch", "is_possible": True},
        {**way, "name": "bucket", "usual_bytes": 100, "is_possible": True},
        {**way, "name": "isolate", "worst_bytes": 120, "is_possible": True},
        {**way, "name": "global", "worst_bytes": 10, "is_possible": False},
    ]
    plan = {
        "config": "x.toml",
        "model": {"parameters": 100, "trainable": 10},
        "data": {**data, "ways": ways, "policy": "batch", "source": "reviews.csv", "passes": []},
        "steps": 5,
        "group": 2,
        "configured": 2,
        "precision": "bf16",
        "largest": None,
        "room": {"capacity_bytes": None, "framework_bytes": 0, "granularity": 1, "source": "", "holder": "tensors"},
        "rows": [row],
        "variants": None,
        "choices": {"fastest": None, "smallest": None},
        "disk": {"text": "no checkpoints", "budget_bytes": None, "light_bytes": 1, "verdict": "unknown"},
        "wall": "",
        "method": {"scaled": False, "why_not": "it decides by size", "checked_error": None, "traces": 7, "cpu_s": 1.0},
    }
    plan["method"]["as_cuda"] = False
    if verdict == "oom":
        plan["room"] |= {"capacity_bytes": 200, "source": "device.capacity"}
    return plan | changes


def test_the_page_says_why_nothing_was_scaled_and_that_a_capacity_is_unknown() -> None:
    text = "\n".join(page(a_plan(), simulated=False))
    assert "100 parameters (10 trained), bf16" in text
    assert "capacity  unknown: give --capacity or --gpu" in text
    assert "example 3, reviews.csv:2204, length 50; example 7, reviews.csv:17, length 49 and 10 more" in text
    assert "one for each size, because it decides by size." in text
    assert "fits" not in text


def test_an_example_that_a_short_run_does_not_meet_is_told() -> None:
    room = a_plan("oom")["room"]
    told = "The 4 steps of this run meet no such example; an epoch of 5 steps would."
    assert told in list(page(a_plan("fits", steps=4, room=room), simulated=False))
    for verdict, steps in (("fits", 5), ("oom", 4)):
        assert told not in list(page(a_plan(verdict, steps=steps, room=room), simulated=False))


def test_the_advice_tells_what_lowers_the_worst_slice_from_what_does_not() -> None:
    said = list(advice(a_plan("oom")))
    assert said[0] == "bucket would lower the usual slice, not the worst one."
    assert said[1] == "The worst slice at micro-batch 2, 300 B, is lowered by: isolate 120 B."  # `global` it cannot do
    assert said[2].startswith("No micro-batch fits")
    assert "WILL OOM at step 7 (example 3, reviews.csv:2204, length 50)" in "\n".join(
        page(a_plan("oom"), simulated=True)
    )


@pytest.mark.parametrize(
    ("verdict", "asks", "answers", "goes_on"),
    [
        ("fits", True, [], True),
        ("oom", False, [], True),
        ("oom", True, [""], False),
        ("oom", True, ["y"], True),
        ("oom", True, ["p", "N"], False),
        ("oom", True, [EOFError()], False),
    ],
)
def test_only_what_will_not_fit_is_asked_about(
    verdict: str, asks: bool, answers: list[Any], goes_on: bool, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    asked = iter(answers)

    def answer(question: str) -> str:
        said = next(asked)
        if isinstance(said, Exception):
            raise said
        return str(said)

    monkeypatch.setattr("builtins.input", answer)
    plan = a_plan(verdict)
    if verdict == "fits":
        plan["room"] |= {"capacity_bytes": 400, "source": "x"}
    monkeypatch.setattr(_before_start, "ask", lambda *_: plan)
    before = before_start(RunConfig(), Path("x.toml"), asks=asks)
    assert before.goes_on == goes_on
    assert list(asked) == []
    assert before.message is not None
    assert wire.decode(wire.from_supervisor, wire.encode(before.message).strip()) == before.message
    out, err = capsys.readouterr()
    assert ("WILL OOM at step 7" in err) == (verdict == "oom")
    assert ("padding" in out) == ("p" in answers)


def test_a_plan_that_is_not_there_in_time_holds_nothing_up(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(_before_start, "WAIT_S", 0.01)
    before = before_start(RunConfig(), Path("x.toml"), asks=True)
    assert before == (True, None)
    assert "no plan: the plan was not made within 0 s; starting without" in capsys.readouterr().err


@pytest.mark.timeout(300)
def test_a_run_says_its_plan_and_keeps_it(config: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MEMDASH_NO_PLAN")
    monkeypatch.setattr(_before_start, "WAIT_S", 240.0)
    assert main(["run", str(config), "--headless", "--set", "train.max_steps=1", "--set", "device.capacity=1MB"]) == 0
    assert "memdash: plan: micro-batch 8 fits: about " in capsys.readouterr().err
    directory = list_runs()[0]
    plan = directory.plan()
    assert plan is not None
    assert (plan.micro_batch, plan.splits[-1].verdict, plan.source) == (8, "fits", "device.capacity, simulated")
    timeline = Timeline(directory)
    assert plan in list(timeline.everything(timeline.end_s))
    timeline.close()


@pytest.mark.timeout(300)
def test_a_probe_measures_what_was_estimated(config: Path, capsys: Any) -> None:
    sets = ["--set", "device.capacity=1MB", "--set", "budget.wall=1s"]
    assert main(["plan", str(config), "--probe", "--json", *sets]) == ExitCode.OK
    plan = json.loads(capsys.readouterr().out)
    found, (row,) = plan["probe"], [row for row in plan["rows"] if row["micro_batch"] == plan["configured"]]
    assert "why_not" not in found, found
    assert found["peak_bytes"] == pytest.approx(row["first_steps"]["bytes"], rel=0.02)
    assert found["resident_bytes"] == pytest.approx(row["host"]["total_bytes"], rel=0.15)
    assert found["run_s"] > 0


def test_no_probe_for_a_gpu_that_is_not_here(config: Path) -> None:
    assert "a GPU that is not here" in probe(a_plan(), RunConfig(), config.parent, elsewhere=True)["why_not"]
    small = a_plan()
    small["rows"][0]["host"] = {"free_bytes": 1000, "total_bytes": 900}
    assert "may need more than is free" in probe(small, RunConfig(), config.parent, elsewhere=False)["why_not"]
