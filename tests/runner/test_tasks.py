"""The built-in tasks: examples that do not depend on how they are sliced, mistakes told in a line, losses that fall."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from memdash.config import RunConfig
from memdash.config_file import parse_config
from memdash.errors import UsageError
from runner.device import CpuDevice
from runner.optimizer import make_optimizer
from runner.randomness import seed_everything
from runner.spec import Spec
from runner.tasks.opening import open_task
from runner.tasks.pretrained import train_tokenizer
from runner.tasks.protocol import REQUIRED, Task
from runner.tensorfile import write_tensors

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
TINY_GPT = {"n_embd": 32, "n_layer": 1, "n_head": 2, "n_positions": 64}
ROWS = [("a good film", "good"), ("a very bad film indeed", "bad"), ("good", "good"), ("bad bad", "bad")] * 6
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # transformers' own imports


def spec(base: Path, **sections: Any) -> Spec:
    config: RunConfig = parse_config(sections, base=base)
    return Spec(config, base, base)


def masked(tmp_path: Path, **data: Any) -> Task:
    fields = {"max_length": 32, "vocab_size": 300, "max_examples": 40} | data
    return open_task(spec(tmp_path, model={"config": TINY}, data=fields))


def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.csv"
    path.write_text("text,label\n" + "".join(f"{text},{label}\n" for text, label in ROWS))
    return path


def learns(task: Task, steps: int = 25, learning_rate: float = 5e-3) -> tuple[float, float]:
    """The mean loss of the first and of the last three steps over one fixed batch."""
    seed_everything(0)
    model = task.build_model()
    batch = task.collate("train", range(min(16, len(task.train_lengths))), 0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    losses = []
    for _ in range(steps):
        loss = task.loss_sum(model, batch) / task.count_items(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return sum(losses[:3]) / 3, sum(losses[-3:]) / 3


def test_masks_are_a_function_of_seed_epoch_and_example(tmp_path: Path) -> None:
    task = masked(tmp_path)
    whole = task.collate("train", [3, 8, 5], 2)
    torch.manual_seed(99)  # nothing that the global generator does matters
    for row, index in enumerate([3, 8, 5]):
        alone = task.collate("train", [index], 2)
        length = task.train_lengths[index]
        for name, tensor in alone.items():
            assert torch.equal(tensor[0], whole[name][row, :length]), name
    assert not torch.equal(task.collate("train", [3], 3)["labels"], task.collate("train", [3], 2)["labels"])
    assert torch.equal(task.collate("validation", [0], 3)["labels"], task.collate("validation", [0], 0)["labels"])


def test_masking_hides_its_share_and_never_special_tokens(tmp_path: Path) -> None:
    task = masked(tmp_path, max_examples=200)
    batch = task.collate("train", range(len(task.train_lengths)), 0)
    chosen = batch["labels"] != -100
    assert bool(chosen.any(1).all())  # at least one in every example
    share = chosen.sum() / (batch["attention_mask"].sum() - 2 * len(chosen))
    assert 0.12 < float(share) < 0.19
    changed = batch["input_ids"][chosen] != batch["labels"][chosen]
    assert 0.85 < float(changed.float().mean()) < 0.95
    assert task.count_items(batch) == int(chosen.sum())
    assert not bool(chosen[:, 0].any())


def test_validation_examples_are_held_out_by_the_seed(tmp_path: Path) -> None:
    first, second = masked(tmp_path), masked(tmp_path)
    assert first.train_lengths == second.train_lengths
    assert (len(first.train_lengths), len(first.validation_lengths)) == (36, 4)


def test_a_masked_model_learns(tmp_path: Path) -> None:
    first, last = learns(masked(tmp_path))
    assert last < first - 1


def test_a_causal_model_learns_and_counts_after_the_shift(tmp_path: Path) -> None:
    data = {"max_length": 32, "vocab_size": 300, "max_examples": 20}
    task = open_task(spec(tmp_path, model={"architecture": "gpt2", "config": TINY_GPT}, data=data))
    batch = task.collate("train", [0, 1], 0)
    assert task.count_items(batch) == sum(task.train_lengths[i] - 1 for i in (0, 1))
    first, last = learns(task)
    assert last < first - 1


def test_a_classifier_learns(tmp_path: Path) -> None:
    reviews(tmp_path)
    sections = {"task": {"name": "text-classification"}, "model": {"config": TINY}}
    task = open_task(spec(tmp_path, **sections, data={"source": "reviews.csv", "vocab_size": 100}))
    first, last = learns(task)
    assert last < first / 4
    with torch.no_grad():
        sums = task.metric_sums(task.build_model(), task.collate("validation", [0, 1], 0))
    assert {"loss", "accuracy"} < set(sums)


def test_built_in_tasks_have_all_members(tmp_path: Path) -> None:
    assert not [name for name in REQUIRED if not hasattr(masked(tmp_path), name)]


def test_a_light_checkpoint_loads_with_from_pretrained(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    task = masked(tmp_path)
    model = task.build_model().eval()
    folder = tmp_path / "saved"
    folder.mkdir()
    with open(folder / "model.safetensors", "wb") as file:
        write_tensors(file.write, model.state_dict(), CpuDevice().host)
    task.save_files(model, folder)
    loaded, report = AutoModelForMaskedLM.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    batch = task.collate("train", [0, 1], 0)
    torch.testing.assert_close(task.loss_sum(loaded.eval(), batch), task.loss_sum(model, batch))
    assert len(AutoTokenizer.from_pretrained(folder)) == 300


def test_the_tokenizer_of_a_checkpoint_is_used_again(tmp_path: Path) -> None:
    task = masked(tmp_path)
    folder = tmp_path / "saved"
    folder.mkdir()
    task.save_files(task.build_model(), folder)
    again = open_task(spec(tmp_path, model={"config": TINY}, data={"max_length": 32, "max_examples": 40}), folder)
    assert again.train_lengths == task.train_lengths


def test_a_trained_tokenizer_is_the_same_every_time() -> None:
    texts = [text for text, _ in ROWS] + ["another text, which makes ties: ab ba cd dc ef fe gh hg"]
    vocabularies = [train_tokenizer(texts, 100).get_vocab() for _ in range(5)]
    assert all(vocabulary == vocabularies[0] for vocabulary in vocabularies)
    tokenizer = train_tokenizer(texts, 100)
    assert tokenizer.decode(tokenizer("A good film")["input_ids"]) == "[CLS] a good film [SEP]"


def test_jsonl_tsv_and_text_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("\n".join(json.dumps({"t": text, "l": label}) for text, label in ROWS))
    (tmp_path / "a.tsv").write_text(
        "t\tl\tpart\n" + "".join(f"{t}\t{label}\tx\n{t}\t{label}\ty\n" for t, label in ROWS)
    )
    (tmp_path / "a.txt").write_text("some words of a text that is long enough " * 20)
    named = {"text_column": "t", "label_column": "l", "vocab_size": 100}
    classify = {"task": {"name": "text-classification"}, "model": {"config": TINY}}
    for data in ({"source": "a.jsonl"}, {"source": "a.tsv", "where": {"part": "y"}}):
        task = open_task(spec(tmp_path, **classify, data={**named, **data}))
        assert len(task.train_lengths) + len(task.validation_lengths) == len(ROWS)
    text = open_task(spec(tmp_path, model={"config": TINY}, data={"source": "a.txt", "vocab_size": 100}))
    assert text.item_name == "tokens"


CLASSIFY = {"name": "text-classification"}


@pytest.mark.parametrize(
    ("content", "sections", "words"),
    [
        ("a,b\n1,2\n", {"task": CLASSIFY}, "data.csv:2: no column 'text' (data.text_column); there are: a, b"),
        ("text,label\nx,\n", {"task": CLASSIFY}, "data.csv:2: the label in column 'label' is empty"),
        ("text,label\nx,1\ny,1\n", {"task": CLASSIFY}, "all rows have the one label '1'"),
        ("text,label\nx,1\n", {"task": CLASSIFY, "data": {"where": {"label": "7"}}}, "no rows where {'label': '7'}"),
        ("text\n\n", {}, "no rows"),
        ("text\nx\n", {"model": {"architecture": "bertt"}}, "'bertt': transformers knows no such model"),
        ("text\nx\n", {"model": {"architecture": "vit"}}, "'vit': is not a language model"),
        ("text\nx\n", {"model": {"config": {**TINY, "max_position_embeddings": 16}}}, "has only 16 positions"),
        (
            "text\nx\n",
            {"model": {"config": {"hidden_sise": 32}}},
            "model.config.hidden_sise: a bert config has no such field",
        ),
        ("text\nx\n", {"model": {"config": {**TINY, "hidden_size": 33}}}, "hidden size"),
        ("text\nx\n", {"data": {"max_length": 2}}, "leaves no room beside 2 special tokens"),
        (
            "text\nx\n",
            {"model": {"pretrained": "no-such-org/no-such-model"}},
            "model.pretrained = 'no-such-org/no-such",
        ),
        ("text\nx\n", {"model": {"pretrained": "./nowhere"}}, "./nowhere: there is no such directory"),
        ("text\nx\n", {"model": {"pretrained": "package:no_such/model"}}, "there is no such directory"),
        ("text\nx\n", {"data": {"tokenizer": "no-such-org/none"}}, "data.tokenizer = 'no-such-org/none'"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_mistake_is_told_in_a_line(tmp_path: Path, content: str, sections: dict[str, Any], words: str) -> None:
    (tmp_path / "data.csv").write_text(content)
    table = {"model": {"config": TINY}, **sections}
    table["data"] = {"source": "data.csv", "vocab_size": 100, **sections.get("data", {})}
    with pytest.raises(UsageError) as error:
        open_task(spec(tmp_path, **table)).build_model()
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_a_line_that_is_not_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"text": "x"}\n{"text"\n')
    with pytest.raises(UsageError, match="a.jsonl:2: not JSON"):
        open_task(spec(tmp_path, model={"config": TINY}, data={"source": "a.jsonl"}))


def test_ones_own_optimizer_state_starts_at_zero_steps(tmp_path: Path) -> None:
    config = spec(tmp_path).config
    model = masked(tmp_path).build_model()
    optimizer = make_optimizer(model, config.train)
    decays = {name: group["weight_decay"] for group in optimizer.param_groups for name in _names(model, group)}
    assert decays["bert.embeddings.word_embeddings.weight"] == config.train.weight_decay
    assert decays["bert.encoder.layer.0.output.dense.bias"] == 0
    assert decays["bert.encoder.layer.0.output.LayerNorm.weight"] == 0
    assert all(float(entry["step"]) == 0 for entry in optimizer.state.values())


def _names(model: torch.nn.Module, group: dict[str, Any]) -> list[str]:
    wanted = {id(parameter) for parameter in group["params"]}
    return [name for name, parameter in model.named_parameters() if id(parameter) in wanted]
