"""Checkpoints as readers see them: what is complete, what goes on from what, and what is never believed."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from memdash.checkpoints import MANIFEST, Checkpoint, choose, complete, damaged, export, read_manifest, seal, verify
from memdash.errors import CheckpointIncomplete, UsageError

ROOT = Path(__file__).parents[1]
FILES = {
    "model.safetensors": bytes(range(256)) * 4,
    "training.json": b'{"progress": {}}',
    "tokenizer/vocab.txt": b"a\nb",
}
FULL, ANY = ("full",), ("light", "full")


def save(folder: Path, step: int, kind: str = "full", number: int = 1, attempt: int = 0) -> Path:
    """A checkpoint as the training process would have written it."""
    path = folder / (f"step-{step:08d}-{kind}" + (f"-{number}" if number > 1 else ""))
    entries = {}
    for name, content in FILES.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
        entries[name] = {"size_bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    facts = {"kind": kind, "step": step, "attempt": attempt, "reason": "schedule", "size_bytes": 1041}
    (path / MANIFEST).write_bytes(seal(facts | {"files": entries}))
    return path


def damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_a_manifest_is_read_back(tmp_path: Path) -> None:
    path = save(tmp_path, 120, attempt=3)
    found = verify(path)
    assert found == Checkpoint(path, 120, "full", 3, "schedule", 1041, found.files)
    assert set(found.files) == set(FILES)
    assert complete(tmp_path) == [found]
    assert damaged(tmp_path) == []


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_every_flipped_byte_and_every_cut_is_found(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    content = (path / name).read_bytes()
    for at in range(0, len(content), max(1, len(content) // 150)):
        for bit in (1, 8, 32):  # bit 32 turns a space into nothing that JSON minds, or a letter into a capital
            flipped = bytearray(content)
            flipped[at] ^= bit
            (path / name).write_bytes(flipped)
            with pytest.raises(CheckpointIncomplete):
                verify(path)
        (path / name).write_bytes(content[:at])
        with pytest.raises(CheckpointIncomplete):
            verify(path)
    (path / name).unlink()
    with pytest.raises(CheckpointIncomplete):
        verify(path)


def test_a_line_end_for_a_space_is_found_too(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    text = (path / MANIFEST).read_bytes()
    (path / MANIFEST).write_bytes(text.replace(b": ", b":\n", 1))
    assert json.loads((path / MANIFEST).read_bytes()) == json.loads(text)
    with pytest.raises(CheckpointIncomplete, match="manifest.json is damaged"):
        verify(path)


@pytest.mark.parametrize(
    "text", [b"", b"[]", b"null", b'{"manifest_sha256": ""}', seal({}), seal({"files": 3}), seal({"files": {"a": 1}})]
)
def test_a_manifest_of_something_else_is_none(tmp_path: Path, text: bytes) -> None:
    path = save(tmp_path, 1)
    (path / MANIFEST).write_bytes(text)
    with pytest.raises(CheckpointIncomplete):
        read_manifest(path)


@pytest.mark.parametrize("name", ["../outside", "/etc/hostname", "a/../../outside"])
def test_a_manifest_may_not_point_outside(tmp_path: Path, name: str) -> None:
    path = save(tmp_path, 1)
    manifest = json.loads((path / MANIFEST).read_bytes())
    manifest["files"][name] = manifest["files"]["training.json"]
    (path / MANIFEST).write_bytes(seal(manifest))
    with pytest.raises(CheckpointIncomplete, match="outside"):
        read_manifest(path)


def test_latest_is_the_newest_of_the_wanted_kinds(tmp_path: Path) -> None:
    for step, kind, number in ((1, "full", 1), (2, "full", 1), (2, "full", 2), (3, "light", 1)):
        save(tmp_path, step, kind, number)
    assert choose(tmp_path, "latest", FULL)[0].path.name == "step-00000002-full-2"
    assert choose(tmp_path, "latest", ANY)[0].path.name == "step-00000003-light"


def test_steps_beyond_eight_digits_are_newer(tmp_path: Path) -> None:
    save(tmp_path, 99_999_999)
    save(tmp_path, 100_000_000)
    assert choose(tmp_path, "latest", FULL)[0].step == 100_000_000


def test_a_later_attempt_is_newer_than_what_it_left_behind(tmp_path: Path) -> None:
    """A run went to step 200, and was then taken up again at 50 on another way."""
    for step in (50, 200):
        save(tmp_path, step)
    save(tmp_path, 60, attempt=1)
    assert [found.step for found in complete(tmp_path)] == [60, 200, 50]
    assert choose(tmp_path, "latest", FULL)[0].step == 60


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_damaged_one_is_passed_over_for_the_one_before(tmp_path: Path, name: str) -> None:
    older, newer = save(tmp_path, 1), save(tmp_path, 2)
    save(tmp_path, 3, "light")
    damage(newer / name)
    for asked in ("latest", newer.name, str(newer)):
        found, notes = choose(tmp_path, asked, FULL)
        assert found.path == older
        assert len(notes) == 1
        assert notes[0].startswith(f"step-00000002-full: {'' if name == MANIFEST else name}")
        assert notes[0].endswith("passed over for the one before")


def test_one_that_is_asked_for_falls_back_to_earlier_steps_only(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "step-00000002-full" / MANIFEST).unlink()
    assert choose(tmp_path, "step-00000002-full", FULL)[0].step == 1
    assert [path.name for path, _ in damaged(tmp_path)] == ["step-00000002-full"]


def test_one_of_another_run_falls_back_to_its_own_neighbours(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    save(here, 4)
    older, asked = save(there, 1), save(there, 5)
    assert choose(here, str(asked), FULL)[0].path == asked
    damage(asked / "training.json")
    assert choose(here, str(asked), FULL)[0].path == older


def test_what_cannot_be_chosen_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointIncomplete, match="no complete full checkpoint"):
        choose(tmp_path / "nowhere", "latest", FULL)
    light = save(tmp_path, 1, "light")
    with pytest.raises(CheckpointIncomplete) as none:
        choose(tmp_path, "latest", FULL)
    assert "--warm-start" in none.value.hint
    for asked in ("step-00000009-full", str(tmp_path / "step-00000009-full"), "..", ""):
        with pytest.raises(UsageError, match="no such checkpoint"):
            choose(tmp_path, asked, FULL)
    with pytest.raises(UsageError, match="weights only"):
        choose(tmp_path, light.name, FULL)
    damage(light / "model.safetensors")
    with pytest.raises(CheckpointIncomplete) as all_damaged:
        choose(tmp_path, "latest", ANY)
    assert "model.safetensors is damaged" in all_damaged.value.hint


def test_an_export_holds_no_more_than_from_pretrained_reads(tmp_path: Path) -> None:
    path = save(tmp_path, 1)
    (path / "evil.py").write_text("not in the manifest")
    assert sorted(export(verify(path), tmp_path / "out")) == ["model.safetensors", "tokenizer/vocab.txt"]
    copied = {str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file()}
    assert copied == {"model.safetensors", "tokenizer/vocab.txt"}
    with pytest.raises(UsageError, match="cannot export"):
        export(verify(path), tmp_path / "out")


def test_no_code_can_come_out_of_a_file() -> None:
    """Nothing that memdash or its training process reads can hold code: no pickle, nowhere."""
    banned = re.compile(
        r"torch\.(load|save)\b|\b(import|from) (pickle|dill|joblib|shelve|marshal)\b|allow_pickle(?!=False)|\beval\("
    )
    for package in ("memdash", "runner"):
        for path in (ROOT / package).rglob("*.py"):
            text = re.sub(r"\.eval\(\)", "", path.read_text())  # a module's evaluation mode
            assert not banned.search(text), f"{path}: {banned.search(text)}"
