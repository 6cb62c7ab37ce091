"""What is wrong, where, and what to do: one line for each mistake."""

from __future__ import annotations

import json

import pytest

from memdash.config import RunConfig, changed_keys, runner_keys
from memdash.config_file import load_config
from memdash.config_text import STARTER, config_schema, starter_config
from memdash.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def write(text: str):
        path = tmp_path / "run.toml"
        path.write_text(text)
        return path

    return write


MISTAKES = {
    "unknown key": (
        "[train]\nmicro_bach = 4\n",
        "run.toml:2: unknown key `train.micro_bach`",
        "did you mean `micro_batch`?",
    ),
    "command as a shell would read it": (
        '[run]\ncommand = "python train.py"\n',
        "run.toml:2: `run.command` = 'python train.py': expected `array`, got `str`",
        'such as ["python", "train.py"',
    ),
    "command that is not there": (
        '[run]\ncommand = ["no-such-program", "train.py"]\n',
        "run.toml:2: `run.command` = ['no-such-program', 'train.py']: there is no program no-such-program on the PATH",
        "relative paths start from the config's directory",
    ),
    "command beside the config that is not there": (
        '[run]\ncommand = ["./fit"]\n',
        "`run.command` = ['./fit']: there is no program ./fit in ",
        "",
    ),
    "command that is a config": ('[run]\ncommand = ["run.toml"]\n', "run.toml is not a program", "such as"),
    "command without a program": ('[run]\ncommand = ["", "x"]\n', "the first is the program", "such as"),
    "command and a key of the runner": (
        '[run]\ncommand = ["sh"]\n\n[train]\nmicro_batch = 4\n',
        "run.toml:5: `train.micro_batch` = 4: only memdash's own runner heeds it",
        "take it out; the program has options of its own",
    ),
    "command and several keys of the runner": (
        '[run]\ncommand = ["sh"]\nseed = 3\n[budget]\ndisk = "9GB"\n[checkpoint]\nkeep_last = 1\n',
        "run.toml:3: `run.seed` = 3: only memdash's own runner heeds it",
        "take it out, and checkpoint.keep_last, budget.disk",
    ),
    "command on a simulated device": (
        '[run]\ncommand = ["sh"]\n[device]\nkind = "simulated"\ncapacity = "1GiB"\n',
        "run.toml:4: `device.kind` = 'simulated': only memdash's own runner heeds it",
        "take it out, and device.capacity",
    ),
    "unknown table": ("[trian]\n", "run.toml:1: unknown key `trian`", "did you mean `train`?"),
    "key of another table": ("[train]\nmax_length = 4\n", "unknown key `train.max_length`", "belongs in [data]"),
    "wrong type": (
        '[train]\n\nmicro_batch = "4"\n',
        "run.toml:3: `train.micro_batch` = '4': expected `int`, got `str`",
        "",
    ),
    "micro over global": (
        "[train]\nglobal_batch = 8\nmicro_batch = 16\n",
        "run.toml:3: `train.micro_batch` = 16: more than `train.global_batch` = 8",
        "choose one of 1, 2, 4, 8",
    ),
    "not positive": ("[train]\nglobal_batch = 0\n", "`train.global_batch` = 0: must be more than 0", ""),
    "negative": ("[train]\nwarmup_steps = -1\n", "`train.warmup_steps` = -1: must not be negative", ""),
    "no epochs": ("[train]\nepochs = 0\n", "`train.epochs` = 0.0: must be more than 0", ""),
    "unknown task": ('[task]\nname = "text-clasification"\n', "no such task", "did you mean `text-classification`?"),
    "own task not there": ('[task]\nname = "mine:build"\n', "there is no mine.py in", ""),
    "own task misspelt": ('[task]\nname = "mine:bu ild"\n', "not of the form module:function", ""),
    "missing file": ('[data]\nsource = "nowhere.csv"\n', "`data.source` = 'nowhere.csv': no such file", "start from"),
    "built-in misspelt": (
        '[data]\nsource = "python-doc"\n',
        "no such file",
        "did you mean the built-in `python-docs`?",
    ),
    "package missing": (
        '[data]\nsource = "package:no_such/reviews.csv"\n',
        "`data.source` = 'package:no_such/reviews.csv': no such file",
        "install the package `no_such`",
    ),
    "items of what has none": (
        '[data]\npadding = "flat"\n',
        "run.toml:2: `data.padding` = 'flat': an example of the task language-modelling is one item",
        '"bucket"',
    ),
    "unknown choice": (
        '[device]\nkind = "gpu"\n',
        "run.toml:2: `device.kind` = 'gpu': not a known value",
        "one of 'auto', 'cuda', 'cpu', 'simulated'",
    ),
    "choice misspelt": (
        '[train]\nschedule = "cosin"\n',
        "'cosin': not a known value",
        "one of 'linear', 'cosine', 'constant'",
    ),
    "choice of another type": ("[device]\nkind = 3\n", "`device.kind` = 3: not a known value", "one of 'auto'"),
    "rows of what has none": ('[data]\nwhere = { lang = "en" }\n', "`python-docs` has no columns", ""),
    "no capacity": ('[device]\nkind = "simulated"\n', "a simulated device needs a capacity", "2GiB"),
    "bad size": ('[device]\ncapacity = "lots"\n', "'lots' is not a size", ""),
    "bad budget": ('[memory]\nhost_budget = "0B"\n', "`memory.host_budget` = '0B': must be more than 0", ""),
    "bad disk budget": ('[budget]\ndisk = "20 XB"\n', "`budget.disk` = '20 XB': '20 XB' is not a size", ""),
    "no disk budget": ('[budget]\ndisk = "0GB"\n', "`budget.disk` = '0GB': must be more than 0", ""),
    "bad duration": ('[budget]\nwall = "9"\n', "`budget.wall` = '9': '9' is not a duration", ""),
    "not TOML": ("[train\n", "not valid TOML", ""),
    "dotted key": ('train.schedule = "steps"\n', "run.toml:1: `train.schedule` = 'steps'", ""),
}


@pytest.mark.parametrize(("text", "message", "hint"), MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes(write, text, message, hint):
    with pytest.raises(ConfigError) as caught:
        load_config(write(text))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert hint in caught.value.hint


def test_no_file(tmp_path):
    with pytest.raises(ConfigError, match="no such file") as caught:
        load_config(tmp_path / "none.toml")
    assert "memdash init" in caught.value.hint


def test_a_directory_or_bytes_are_not_a_config(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path)
    (tmp_path / "x.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_config(tmp_path / "x.toml")


@pytest.mark.parametrize(
    ("override", "section", "field", "value"),
    [
        ("train.micro_batch=4", "train", "micro_batch", 4),
        ("run.name=my run", "run", "name", "my run"),
        ("train.learning_rate = 1e-3", "train", "learning_rate", 1e-3),
        ('task.options={ways="3"}', "task", "options", {"ways": "3"}),
        ("model.config.hidden_size=64", "model", "config", {"hidden_size": 64}),
    ],
)
def test_overrides(write, override, section, field, value):
    assert getattr(getattr(load_config(write(""), [override]), section), field) == value


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.micro_batch", "--set train.micro_batch: not of the form key=value"),
        ("train.micro_batch=64", "--set: `train.micro_batch` = 64: more than"),
        ("train.micro=4", "--set: unknown key `train.micro`"),
        ("run.name.first=x", "--set run.name.first=x: name is not a table"),
    ],
)
def test_wrong_overrides(write, override, message):
    with pytest.raises(ConfigError) as caught:
        load_config(write('[run]\nname = "x"\n'), [override])
    assert str(caught.value).startswith(message)


def test_the_starter_config_names_every_key_and_trains_a_small_model(write):
    config = load_config(write(starter_config()))
    assert config.model.config["hidden_size"] == 128
    assert set(changed_keys(config)) == set(STARTER)
    assert "One of 'linear', 'cosine', 'constant'." in starter_config()


def test_zero_micro_batch_is_the_whole_group():
    assert RunConfig().micro_batch == RunConfig().train.global_batch


def test_the_schema_describes_every_field():
    schema = config_schema()
    json.dumps(schema)
    for name, section in schema["$defs"].items():
        if name != "RunConfig":
            assert all(field.get("description") for field in section["properties"].values()), name


def test_what_holds_for_any_command_goes_with_one(write):
    keys = (
        '[run]\ncommand = ["sh", "-c", "true"]\nname = "x"\ndir = "runs"\n[memory]\nhost_budget = "2GiB"\nmalloc = "return"\n'
        '[on_failure]\nrestart = 2\n[budget]\nwall = "2h"\n[guard]\nmode = "protect"\n'
    )
    config = load_config(write(keys))
    assert config.run.command == ["sh", "-c", "true"]
    assert runner_keys(config) == []
