"""`memdash plan` as a shell sees it: the table, the verdict, what is written, and mistakes in one line."""

from __future__ import annotations

import json
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

from memdash.commands import main
from memdash.commands._plan_page import page, with_micro_batch
from memdash.errors import ExitCode

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
    assert plan["rows"][0]["terms"]["framework"] == 500 * 2**20
    assert main(["plan", str(config), "--set", "device.kind=cpu", "--json"]) == ExitCode.OK
    plan = json.loads(capsys.readouterr().out)
    assert plan["room"]["source"].startswith("/")  # the file that limits this machine
    assert plan["rows"][0]["terms"]["framework"] > 50 * 2**20  # Python and torch
    assert main(["plan", str(config), "--capacity", "1KB"]) == ExitCode.OUT_OF_MEMORY
    assert "No micro-batch fits" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["none.toml"], "none.toml: no such file"),
        (["CONFIG", "--capacity", "much"], "--capacity: 'much' is not a size"),
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


def test_the_page_says_why_nothing_was_scaled_and_that_a_capacity_is_unknown() -> None:
    row = {
        "micro_batch": 2,
        "peak_bytes": {"longest": 300, "p99": 200, "median": 100},
        "terms": {"parameters": 100, "gradients": 0, "activations": 200},
        "verdict": "unknown",
        "first_over": None,
    }
    lengths = {"examples": 9, "mean": 2.0, "median": 2, "p90": 3, "p99": 4, "longest": 50, "longest_usual": 4}
    data = {**lengths, "num_outliers": 12, "outliers": [[3, 50], [7, 49]]}
    plan = {
        "config": "x.toml",
        "model": {"parameters": 100, "trainable": 10},
        "data": {**data, "padding": {"global": 25.0, "global_usual": 2.0, "trained": 3.0}, "policy": "batch"},
        "steps": 5,
        "group": 2,
        "configured": 2,
        "precision": "bf16",
        "largest": None,
        "room": {"capacity_bytes": None, "framework_bytes": 0, "granularity": 1, "source": ""},
        "rows": [row],
        "method": {"scaled": False, "why_not": "it decides by size", "checked_error": None, "traces": 7, "cpu_s": 1.0},
    }
    text = "\n".join(page(plan, simulated=False))
    assert "100 parameters (10 trained), bf16" in text
    assert "capacity  unknown: give --capacity or --gpu" in text
    assert "example 3 (50), 7 (49) and 10 more; without: longest 4, global padding 2.0x" in text
    assert "one for each size, because it decides by size." in text
    assert "fits" not in text
