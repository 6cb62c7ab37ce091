"""A real Trainer under the callback: its steps, evaluations and checkpoints, a pause, a save, a stop, another attempt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from memdash import wire
from memdash.agent.session import Session
from memdash.ring import RingReader, RingWriter

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")


class Half(torch.nn.Module):
    """Learns y = x / 2."""

    def __init__(self) -> None:
        super().__init__()
        self.line = torch.nn.Linear(1, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        found = self.line(x)
        return {"loss": torch.nn.functional.mse_loss(found, labels), "logits": found}


EXAMPLES = [{"x": torch.tensor([float(i % 7)]), "labels": torch.tensor([i % 7 / 2])} for i in range(64)]


class Asks(transformers.TrainerCallback):
    """Asks for commands before the end of named steps."""

    def __init__(self, session: Session, orders: dict[int, list[wire.Command]]) -> None:
        self.session, self.orders = session, orders

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        for command in self.orders.get(state.global_step + 1, []):
            self.session._control._commands.put(command)


class Training:
    """One training, and all that its callback has said."""

    def __init__(self, folder: Path, orders: dict[int, list[wire.Command]], monkeypatch, **arguments: Any) -> None:
        from memdash.integrations.transformers import MemdashCallback

        self.callback = MemdashCallback()
        session = self.callback._session
        self.sent: list[wire.Message] = []
        session._ring = ring = RingWriter()
        self.samples = RingReader(ring.memory, 0)
        monkeypatch.setattr(session, "send", self.sent.append)
        monkeypatch.setattr(session, "start", lambda **said: self.sent.append(said) or Session.start(session, **said))
        torch.manual_seed(0)
        options = {
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "logging_steps": 2,
            "use_cpu": True,
        }
        options |= {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "max_steps": 10}
        args = transformers.TrainingArguments(
            output_dir=str(folder), dataloader_pin_memory=False, **options | arguments
        )
        self.trainer = transformers.Trainer(
            Half(),
            args,
            train_dataset=EXAMPLES,
            eval_dataset=EXAMPLES[:8],
            callbacks=[Asks(session, orders), self.callback],
        )
        self.trainer.train(resume_from_checkpoint=self.callback.resume_from(str(folder)))

    def said(self, kind: type[wire.Message]) -> list[Any]:
        return [message for message in self.sent if isinstance(message, kind)]


def test_steps_evaluations_pauses_and_checkpoints(tmp_path, monkeypatch):
    orders = {
        3: [wire.Pause(command_id="pause"), wire.Resume(command_id="resume")],
        4: [wire.SaveCheckpoint(command_id="save", kind="full"), wire.SetBatchSplit(command_id="split", micro_batch=2)],
    }
    training = Training(tmp_path, orders, monkeypatch, eval_strategy="steps", eval_steps=5)
    (plan,) = (said for said in training.sent if isinstance(said, dict))
    assert (plan["total_steps"], plan["global_batch"], plan["micro_batch"]) == (10, 8, 4)
    assert plan["num_parameters"] == 2
    steps = [sample for sample in training.samples.take() if isinstance(sample, wire.StepReport)]
    assert [step.step for step in steps] == list(range(1, 11))
    assert steps[0].loss is None  # nothing has been logged
    assert steps[-1].loss == pytest.approx(training.trainer.state.log_history[-4]["loss"])
    assert [(ack.command_id, bool(ack.error)) for ack in training.said(wire.Ack)] == [
        ("pause", False),
        ("resume", False),
        ("save", False),
        ("split", True),
    ]
    assert "per_device_train_batch_size" in training.said(wire.Ack)[-1].error
    (saved,) = training.said(wire.CheckpointSaved)
    assert (saved.kind, saved.reason, saved.path) == ("full", "command", str(tmp_path / "checkpoint-4"))
    assert saved.size_bytes == sum(file.stat().st_size for file in (tmp_path / "checkpoint-4").iterdir())
    assert [set(report.metrics) for report in training.said(wire.EvaluationReport)] == [{"eval_loss"}] * 2
    phases = [phase.phase for phase in training.said(wire.PhaseChanged)]
    assert phases == ["paused", "training", *["evaluating", "training"] * 2]
    assert training.said(wire.Goodbye)[0].outcome == "finished"


def test_a_stop_saves_and_another_attempt_goes_on(tmp_path, monkeypatch):
    stopped = Training(tmp_path, {6: [wire.Stop(command_id="stop", save="full")]}, monkeypatch)
    assert stopped.trainer.state.global_step == 6
    assert (
        stopped.said(wire.Ack)[0].result
        == "stopped after step 6; the Trainer saves checkpoint-6 when this step ends, not while the run is paused"
    )
    assert stopped.said(wire.CheckpointSaved)[0].reason == "stop"
    assert stopped.said(wire.Goodbye)[0].outcome == "stopped"
    monkeypatch.setenv("MEMDASH_ATTEMPT", "1")
    went_on = Training(tmp_path, {}, monkeypatch)
    (plan,) = (said for said in went_on.sent if isinstance(said, dict))
    assert plan["start_step"] == 6
    steps = [sample for sample in went_on.samples.take() if isinstance(sample, wire.StepReport)]
    assert [step.step for step in steps] == [7, 8, 9, 10]
    assert went_on.said(wire.Goodbye)[0].outcome == "finished"
    monkeypatch.delenv("MEMDASH_ATTEMPT")
    straight = Training(tmp_path / "straight", {}, monkeypatch)
    torch.testing.assert_close(went_on.trainer.model.line.weight, straight.trainer.model.line.weight)


def test_weights_alone_are_no_full_checkpoint(tmp_path, monkeypatch):
    orders = {
        2: [wire.SaveCheckpoint(command_id="full", kind="full"), wire.SaveCheckpoint(command_id="light", kind="light")]
    }
    training = Training(tmp_path, orders, monkeypatch, save_only_model=True, max_steps=3)
    full, light = training.said(wire.Ack)
    assert "weights only" in full.error
    assert not light.error
    assert training.said(wire.CheckpointSaved)[0].kind == "light"
