"""Signal to text: files read without loading them, filters that do not alias, words that are learned and scored."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from memdash.errors import ConfigError, UsageError
from runner.planning.workspace import FORWARD, PLACE, fixed_workspace, with_workspace
from runner.randomness import seed_everything
from runner.tasks.downsampling import downsample, kept
from runner.tasks.made_signals import MEDIAN_STD, MadeSignals, Shape
from runner.tasks.opening import open_task
from runner.tasks.signal_files import SignalFile, read_targets
from runner.tasks.vocabulary import UNKNOWN, Vocabulary
from runner.tasks.word_scores import finish, score
from tests.runner.test_tasks import learns, spec

EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = {"hidden_size": 16, "word_size": 8, "dropout": 0.0}
SMALL = Shape(12, 6, 40, 3)
Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes twelve small signals and their texts, or others."""

    def write(signals: Any = None, texts: list[str] | None = None, name: str = "signals.npy") -> Path:
        made = MadeSignals(0, SMALL)
        np.save(tmp_path / name, np.stack([made.signal(i) for i in range(12)]) if signals is None else signals)
        lines = [made.text(i) for i in range(12)] if texts is None else texts
        (tmp_path / "texts.txt").write_text("".join(f"{line}\n" for line in lines))
        return tmp_path / name

    return write


def of_files(folder: Path, **data: Any) -> Any:
    fields = {"source": "signals.npy", "targets": "texts.txt", "validation_fraction": 0.25} | data
    return open_task(spec(folder, task={"name": "signal-to-text"}, model={"config": TINY}, data=fields))


def made(folder: Path, model: dict[str, Any] = TINY, **sections: Any) -> Any:
    options = {"examples": 12, "channels": 6, "timesteps": 40, "longest_text": 3}
    task = {"name": "signal-to-text", "options": options}
    return open_task(spec(folder, task=task, model={"config": model}, **{"data": {"source": "signals"}, **sections}))


# ---- down-sampling ----


def tone(frequency: float, timesteps: int = 2000) -> Any:
    """`frequency` in cycles a timestep."""
    return np.sin(2 * np.pi * frequency * np.arange(timesteps) + 0.3)[None].astype(np.float32)


def strength(signal: Any, frequency: float) -> float:
    """The amplitude of one tone in the middle of a signal."""
    middle = signal[0, 50:-50]
    wave = np.exp(-2j * np.pi * frequency * np.arange(len(middle)))
    return float(2 * abs((middle * wave).mean()))


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_a_tone_above_the_new_nyquist_is_removed_and_aliases_without_the_filter(factor: int) -> None:
    fast, slow = 0.7 / factor, 0.2 / factor  # Nyquist is at 0.5 / factor
    alias = 0.3  # of the fast one: 1 - 0.7 cycles a kept timestep
    assert strength(downsample(tone(fast), factor, lowpass=False), alias) == pytest.approx(1, abs=0.02)
    assert strength(downsample(tone(fast), factor, lowpass=True), alias) < 1e-3
    for lowpass in (True, False):
        assert strength(downsample(tone(slow), factor, lowpass=lowpass), 0.2) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("timesteps", [1, 2, 7, 8, 9, 100])
@pytest.mark.parametrize("factor", [1, 2, 3, 8])
def test_what_is_kept_has_the_length_that_is_told(timesteps: int, factor: int) -> None:
    level = np.full((3, timesteps), 5, dtype=np.float32)
    for lowpass in (True, False):
        result = downsample(level, factor, lowpass=lowpass)
        assert result.shape == (3, kept(timesteps, factor))
        assert result.dtype == np.float32
        np.testing.assert_allclose(result, 5, rtol=1e-5)


def test_a_task_tells_lengths_after_down_sampling_and_makes_them(write: Write) -> None:
    folder = write().parent
    whole, filtered, bare = (
        of_files(folder, **keys) for keys in ({}, {"downsample": 3}, {"downsample": 3, "lowpass": False})
    )
    assert {*whole.train_lengths} == {40}
    assert {*filtered.train_lengths, *filtered.validation_lengths} == {14}
    batches = [task.collate("train", [1, 4], 0)["signals"] for task in (whole, filtered, bare)]
    assert [tuple(batch.shape) for batch in batches] == [(2, 40, 6), (2, 14, 6), (2, 14, 6)]
    assert not torch.allclose(batches[1], batches[2])


# ---- files ----


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_memory_map_gives_what_loading_gives(write: Write, dtype: str) -> None:
    made = MadeSignals(0, SMALL)
    path = write(np.stack([made.signal(i) for i in range(12)]).astype(dtype))
    mapped, loaded = (SignalFile(path, memory_map=memory_map) for memory_map in (True, False))
    for index in range(12):
        read = mapped.read(index, 40)
        assert read.dtype == np.float32
        np.testing.assert_array_equal(read, made.signal(index).astype(dtype).astype(np.float32))
        np.testing.assert_array_equal(read, loaded.read(index, 40))
    np.testing.assert_array_equal(mapped.read(3, 17), mapped.read(3, 40)[:, :17])
    folder = path.parent
    batches = [of_files(folder, memory_map=on).collate("train", [0, 5], 0) for on in (True, False)]
    assert all(torch.equal(batches[0][name], batches[1][name]) for name in batches[0])


def resident_file_bytes() -> int:
    found = re.search(r"RssFile:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def test_reading_a_map_leaves_nothing_resident(tmp_path: Path) -> None:
    """Of a file as large as the real thing, most of it holes."""
    path = full_shape(tmp_path)
    assert path.stat().st_size > 16e9
    assert path.stat().st_blocks * 512 < 64e6
    signals = SignalFile(path, memory_map=True)
    signals.read(0, 5500)
    before = resident_file_bytes()
    for index in range(3000, 3060):
        signals.read(index, 5500)
    assert resident_file_bytes() - before < 4e6  # the 60 are 139e6


def full_shape(folder: Path) -> Path:
    """What `examples/signals.py` writes when it is asked for 2 examples of 7,200."""
    writer = signals_example()
    writer.write(folder, MadeSignals(0, Shape(7200, 105, 5500)), 2, "float32")
    path: Path = folder / "signals.npy"
    return path


def signals_example() -> ModuleType:
    found = importlib.util.spec_from_file_location("signals", EXAMPLES / "signals.py")
    assert found
    assert found.loader
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


def test_what_will_not_fit_the_budget_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    path = full_shape(tmp_path)
    with pytest.raises(UsageError, match=r"signals.npy holds 15.5 GiB, more than memory.host_budget = 2.00 GiB"):
        SignalFile(path, memory_map=False, budget_bytes=2 << 30)
    assert SignalFile(path, memory_map=True, budget_bytes=2 << 30).read(0, 5500).any()
    looked = SignalFile(path, memory_map=False, only_looks=True)
    assert looked.loaded_bytes == 7200 * 105 * 5500 * 4
    assert looked.read(0, 5500).any()


def test_signals_are_not_written_where_there_is_no_room(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="GB free to spare"):
        signals_example().write(tmp_path, MadeSignals(0, Shape(10**7, 105, 5500)), 10**7, "float32")
    assert not list(tmp_path.iterdir())


def with_nan(*place: int) -> Any:
    signals = np.zeros((12, 6, 40), np.float32)
    signals[place] = np.nan
    return signals


BROKEN = {
    "is in Fortran order": np.asfortranarray(np.zeros((12, 6, 40), np.float32)),
    r"has the shape \(12, 6\), not": np.zeros((12, 6), np.float32),
    r"has the shape \(0, 6, 40\), not": np.zeros((0, 6, 40), np.float32),
    "holds float64": np.zeros((12, 6, 40)),
    "holds >f4": np.zeros((12, 6, 40), ">f4"),
    "cannot be read as a .npy file: Array can't be memory-mapped": np.array([[[{}]]]),
    "example 4 holds nan at channel 2, timestep 7": with_nan(4, 2, 7),
}  # fmt: skip


@pytest.mark.parametrize("why", BROKEN)
@pytest.mark.parametrize("memory_map", [True, False])
def test_a_broken_file_is_told_in_a_line(write: Write, why: str, memory_map: bool) -> None:
    path = write(BROKEN[why])
    with pytest.raises(UsageError, match=f"{re.escape(str(path))}: {why}"):
        SignalFile(path, memory_map=memory_map).read(4, 40)


@pytest.mark.parametrize("data", [b"", b"not an array", b"\x93NUMPY\x01\x00"])
def test_what_is_no_array_is_told_in_a_line(write: Write, data: bytes) -> None:
    path = write()
    path.write_bytes(data)
    with pytest.raises(UsageError, match="cannot be read as a .npy file"):
        SignalFile(path, memory_map=True)


def test_a_file_that_was_cut_short_is_told_in_a_line(write: Write) -> None:
    path = write()
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(UsageError, match="cannot be read as a .npy file"):
        SignalFile(path, memory_map=True)


def test_texts_may_say_how_long_their_signals_are(write: Write) -> None:
    folder = write().parent
    rows = [{"text": f"word {number}", "timesteps": 20 + number} for number in range(12)]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = of_files(folder, targets="texts.jsonl", validation_fraction=0.0, downsample=2)
    assert task.train_lengths == [10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15, 16]
    batch = task.collate("train", [0, 11], 0, pad_to=18)
    assert batch["lengths"].tolist() == [10, 16]
    assert batch["signals"].shape == (2, 18, 6)
    assert not batch["signals"][0, 10:].any()


@pytest.mark.parametrize(
    ("name", "text", "why"),
    [
        ("t.txt", "a\nb\n", "2 texts for 3 signals"),
        ("t.txt", "a\n\nb\n", r"t.txt:2: the text is empty"),
        ("t.jsonl", '{"text": "a"}\n{"txt": "b"}\n', r"t.jsonl:2: no text under 'text' \(data.text_column\); there are: txt"),
        ("t.jsonl", '{"text": "a", "timesteps": 41}\n', r"t.jsonl:1: timesteps = 41: must be a number from 1 to 40"),
        ("t.jsonl", '{"text": "a", "timesteps": true}\n', r"t.jsonl:1: timesteps = True: must be a number"),
        ("t.jsonl", "a\n", "t.jsonl:1: not JSON"),
        ("t.txt", b"\xff\n", "cannot be read"),
    ],
)  # fmt: skip
def test_broken_texts_are_told_in_a_line(tmp_path: Path, name: str, text: str | bytes, why: str) -> None:
    (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(UsageError, match=why):
        read_targets(tmp_path / name, (3, 6, 40), "text")


# ---- configs ----


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ({"source": "signals", "targets": "t.txt"}, "the texts of `signals` are made, too"),
        ({"source": "x.csv"}, "signals are a .npy file"),
        ({"source": "x.npy"}, "a .npy file has no texts"),
        ({"source": "x.npy", "targets": "t.txt"}, "`data.source` = 'x.npy': no such file"),
        ({"source": "signals", "downsample": 0}, "`data.downsample` = 0: must be more than 0"),
        ({"source": "signals", "num_workers": -1}, "`data.num_workers` = -1: must not be negative"),
        ({"source": "signals", "prefetch": 0}, "`data.prefetch` = 0: must be more than 0"),
    ],
)
def test_a_config_that_cannot_be_is_told_in_a_line(tmp_path: Path, data: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        spec(tmp_path, task={"name": "signal-to-text"}, data=data)


@pytest.mark.parametrize("data", [{"targets": "t.txt"}, {"downsample": 2}])
def test_texts_have_no_signals(tmp_path: Path, data: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"`data.{next(iter(data))}` = .*: language-modelling has no"):
        spec(tmp_path, data=data)


@pytest.mark.parametrize(
    ("model", "options", "why"),
    [
        ({"hiden_size": 4}, {}, "model.config.hiden_size: signal-to-text has no such field"),
        ({"hidden_size": 0}, {}, "model.config.hidden_size = 0: expected `int` >= 1"),
        ({"dropout": 1}, {}, r"model.config.dropout = 1: expected `float` < 1"),
        ({}, {"channel": 4}, "task.options.channel: data.source = 'signals' has no such field"),
        ({}, {"channels": "many"}, "task.options.channels = 'many': expected `int`"),
    ],
)
def test_a_wrong_field_is_told_in_a_line(
    tmp_path: Path, model: dict[str, Any], options: dict[str, Any], why: str
) -> None:
    task = {"name": "signal-to-text", "options": options}
    with pytest.raises(UsageError, match=why):
        open_task(spec(tmp_path, task=task, model={"config": model}, data={"source": "signals"}))


def test_who_evaluates_without_jiwer_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(UsageError, match="the evaluation of signal-to-text needs the package jiwer"):
        made(tmp_path)
    assert made(tmp_path, data={"source": "signals", "validation_fraction": 0.0}).train_lengths


# ---- made signals ----


def test_made_signals_are_a_function_of_seed_and_index() -> None:
    shape = Shape(4, 105, 2000)
    one, two, other = MadeSignals(3, shape), MadeSignals(3, shape), MadeSignals(4, shape)
    two.signal(0)
    np.testing.assert_array_equal(one.signal(2), two.signal(2))
    assert one.text(2) == two.text(2)
    assert not np.allclose(one.signal(2), other.signal(2))
    assert not np.allclose(one.signal(2), one.signal(1))


def test_made_signals_are_like_eeg() -> None:
    signals = np.stack([MadeSignals(0, Shape(8, 105, 5500)).signal(i) for i in range(8)])
    power = (abs(np.fft.rfft(signals, axis=2)) ** 2).mean(axis=(0, 1))
    frequencies = np.arange(20, 400)
    slope = np.polyfit(np.log(frequencies), np.log(power[frequencies]), 1)[0]
    assert slope == pytest.approx(-1.7, abs=0.15)
    assert np.median(signals.std(axis=2)) == pytest.approx(1.2 * MEDIAN_STD, rel=0.3)  # the words add to it


# ---- the model and its words ----


def test_padding_changes_nothing(tmp_path: Path) -> None:
    task = made(tmp_path)
    seed_everything(0)
    model = task.build_model().eval()
    near, far = task.collate("train", [0, 3, 4], 0), task.collate("train", [0, 3, 4], 0, pad_to=90)
    assert far["signals"].shape[1] == 90
    torch.testing.assert_close(task.loss_sum(model, near), task.loss_sum(model, far))
    with torch.no_grad():
        assert task.metric_sums(model, near) == pytest.approx(task.metric_sums(model, far))


def test_it_learns_its_examples_by_heart_and_says_them(tmp_path: Path) -> None:
    task = made(tmp_path, {**TINY, "hidden_size": 32}, data={"source": "signals", "validation_fraction": 0.5})
    seed_everything(0)
    model = task.build_model()
    batch = task.collate("train", range(6), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-2)

    @torch.no_grad()
    def metrics() -> Any:
        return task.finish_metrics(task.metric_sums(model, batch), task.count_items(batch))

    before = metrics()
    for _ in range(100):
        optimizer.zero_grad()
        (task.loss_sum(model, batch) / task.count_items(batch)).backward()
        optimizer.step()
    model.eval()
    after = metrics()
    assert before["wer"] > 0.5
    assert (after["exact_match"], after["wer"], after["word_accuracy"]) == (1, 0, 1)


def test_losses_fall(tmp_path: Path) -> None:
    first, last = learns(made(tmp_path, data={"source": "signals", "validation_fraction": 0.0}), learning_rate=2e-2)
    assert last < first - 1


def test_word_scores_are_ratios_of_sums() -> None:
    right = ["a b c d", "e", "f g"]
    said = ["a x c d y", "", "f g"]  # one substitution and one insertion; one deletion; none
    expected = {"exact_match": 1 / 3, "wer": 3 / 7, "word_accuracy": 5 / 7}
    assert finish(score(right, said)) == pytest.approx(expected)
    parts = [score([a], [b]) for a, b in zip(right, said, strict=True)]
    assert finish({key: sum(part[key] for part in parts) for key in parts[0]}) == pytest.approx(expected)


def test_a_word_that_was_never_trained_is_never_right(tmp_path: Path) -> None:
    vocabulary = Vocabulary.of(["b a", "a c", "a"], size=6)
    assert vocabulary.words[4:] == ["a", "b"]  # the most frequent; of equals the first in the alphabet
    assert vocabulary.encode("a c") == [4, UNKNOWN, 2]
    vocabulary.save(tmp_path)
    assert Vocabulary.load(tmp_path).words == vocabulary.words
    task = made(tmp_path)
    model = task.build_model()
    torch.nn.init.constant_(model.head.bias, -50)
    model.head.bias.data[UNKNOWN] = 50
    batch = task.collate("train", [0], 0)
    said = model.greedy(model.encoder(batch["signals"], batch["lengths"]), 5)
    assert UNKNOWN not in said


def test_words_keep_their_numbers_in_a_checkpoint(tmp_path: Path) -> None:
    task = made(tmp_path)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    task.save_files(task.build_model(), checkpoint)
    assert json.loads((checkpoint / "config.json").read_bytes())["hidden_size"] == 16
    words = json.loads((checkpoint / "vocabulary.json").read_bytes())
    (checkpoint / "vocabulary.json").write_text(json.dumps(words[:4] + words[:3:-1]))
    again = open_task(task._spec, checkpoint)
    first, second = (one.collate("train", [0], 0)["words"] for one in (task, again))
    assert not torch.equal(first, second)
    assert again._vocabulary.decode(second[0].tolist()) == task._vocabulary.decode(first[0].tolist())
    (checkpoint / "vocabulary.json").write_text("[]")
    with pytest.raises(UsageError, match="not a vocabulary"):
        open_task(task._spec, checkpoint)


# ---- the plan ----


class Workspaces(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the bytes of each, as `fill` makes them."""

    def __init__(self, fill: Callable[..., Any] = lambda _operation, _arguments, results: results) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fill, self.seen = fill, list[int]()

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = self.fill(operation, args, operation(*args, **(kwargs or {})))
        if operation is FORWARD:
            self.seen.append(results[PLACE].nbytes + fixed_workspace(operation, args))
        return results


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="torch's LSTM is another one without oneDNN")
@pytest.mark.parametrize(("batch", "timesteps", "hidden"), [(1, 300, 64), (4, 700, 128), (3, 500, 100)])
def test_the_plan_knows_what_an_lstm_keeps(batch: int, timesteps: int, hidden: int) -> None:
    lstm = torch.nn.LSTM(20, hidden, num_layers=2, batch_first=True)
    with Workspaces() as real:
        lstm(torch.zeros(batch, timesteps, 20))
    fake = FakeTensorMode(allow_non_fake_inputs=True)
    with fake, Workspaces(with_workspace) as planned:
        lstm(fake.from_tensor(torch.zeros(batch, timesteps, 20)))
    assert len(real.seen) == 2
    assert planned.seen == pytest.approx(real.seen, rel=0.02)
