"""Runs the runner's own step on fake tensors, which have a shape and no memory, and notes which storages live when.

What it follows are the storages that operations return, as torch's own MemTracker does; what lives only inside one
operation is not seen, but for an LSTM's. `GroupStep.train` and `commit` are the real ones: only the device is played.
"""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
    unset_fake_temporarily,
)
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from memdash.agent.session import Session
from memdash.batching import BatchSplit
from memdash.config import TrainSection
from memdash.errors import MemdashError
from runner.device import Batch, CpuDevice
from runner.in_backward import InBackward
from runner.optimizer import make_optimizer
from runner.planning.cuda_kernels import CudaKernels
from runner.planning.trace import Kind, Phase, Script, Trace
from runner.planning.workspace import PLACE, fixed_workspace, taken_inside, with_workspace
from runner.precision import Precision
from runner.step import GroupStep
from runner.tasks.protocol import Task
from runner.training_state import Progress, TrainingState

if TYPE_CHECKING:
    from torch.optim import Optimizer

CANNOT_TELL = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)
READ_VALUE = torch.ops.aten._local_scalar_dense.default


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes when storages come and go, in the phases that `enter` names."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_host = False
        self._events: list[int] = []
        self._sizes: list[int] = []
        self._kinds: list[Kind] = []
        self._starts: list[tuple[Phase, int]] = []
        self._is_forward = False
        self._living: dict[int, tuple[list[int], Any]] = {}

    def __torch_dispatch__(
        self, operation: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do it, and note what it made. A fake tensor has no value: whoever asks for one is told 1."""
        if operation is READ_VALUE and isinstance(args[0], FakeTensor):
            return 1.0 if args[0].is_floating_point() else 1
        result = with_workspace(operation, args, operation(*args, **(kwargs or {})))
        if not self.is_host:
            for leaf in tree_leaves(result):
                if isinstance(leaf, FakeTensor):
                    self.note(leaf)
            self._note_passing(taken_inside(operation, args))
            if fixed := fixed_workspace(operation, args):
                self._note_beside(result[PLACE], fixed)
        return result

    def note(self, tensor: Tensor, kind: Kind = "temporaries") -> None:
        """A tensor that is on the device from now on, unless it is known already."""
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._living or not size:
            return
        number = self._make(size, "activations" if self._is_forward else kind)
        self._living[key] = ([number], weakref.ref(storage, lambda _dead: self._forget(key)))

    def _make(self, size: int, kind: Kind) -> int:
        number = len(self._sizes)
        self._events.append(number)
        self._sizes.append(size)
        self._kinds.append(kind)
        return number

    def _note_beside(self, tensor: Tensor, size: int) -> None:
        """What lives as long as this tensor, and does not grow with it."""
        numbers, _ = self._living[tensor.untyped_storage()._cdata]
        numbers.append(self._make(size, self._kinds[numbers[0]]))

    def _note_passing(self, sizes: Sequence[int]) -> None:
        """What an operation takes beside its results and gives back at its end."""
        numbers = [self._make(size, "temporaries") for size in sizes]
        self._events += [~number for number in numbers]

    def enter(self, phase: Phase) -> None:
        """From now on it is this phase; the slices begin with their forward."""
        self._starts.append((phase, len(self._events)))
        self._is_forward = phase != "commit"

    def backward(self) -> None:
        """The forward is over: what it made and is freed already was temporary."""
        self._is_forward = False
        living = {number for numbers, _ in self._living.values() for number in numbers}
        start = self._starts[-1][1]
        for number in self._events[start:]:
            if number >= 0 and number not in living:
                self._kinds[number] = "temporaries"

    def mark(self, tensors: Sequence[Tensor], kind: Kind) -> None:
        """Say what these are, after the fact."""
        for tensor in tensors:
            known = self._living.get(tensor.untyped_storage()._cdata)
            if known:
                self._kinds[known[0][0]] = kind

    def trace(self) -> Trace:
        """All that was noted."""
        return Trace(Script(tuple(self._events), tuple(self._kinds), tuple(self._starts)), tuple(self._sizes))

    def _forget(self, key: int) -> None:
        self._events += [~number for number in self._living.pop(key)[0]]


class FakeDevice(CpuDevice):
    """Where fake tensors are device memory, and real ones are not."""

    def __init__(self, fake: FakeTensorMode) -> None:
        super().__init__()
        self.recorder = Recorder()
        self._fake = fake

    def place(self, model: nn.Module) -> None:
        """Fake parameters and buffers in the place of the real ones, whose memory is free once nobody holds them."""
        for module in model.modules():
            registers: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for held in registers:
                for name, tensor in held.items():
                    if tensor is not None:
                        held[name] = self._fake.from_tensor(tensor)  # one that is tied stays tied

    def put(self, batch: Batch) -> Batch:
        """A copy of one micro-batch."""
        return {name: self._fake.from_tensor(tensor).clone() for name, tensor in batch.items()}

    @contextlib.contextmanager
    def host(self) -> Iterator[None]:
        """Real tensors are made here, and nothing is noted."""
        before, self.recorder.is_host = self.recorder.is_host, True
        try:
            with unset_fake_temporarily():
                yield
        finally:
            self.recorder.is_host = before


class PhasePrecision(Precision):
    """The runner's own, whose calls tell where in the step it is."""

    def __init__(self, train: TrainSection, device: FakeDevice) -> None:
        super().__init__(train.precision, device)
        self._device = device
        self._slices = 0

    def autocast(self) -> contextlib.AbstractContextManager[Any]:
        """A slice begins."""
        self._device.recorder.enter("later" if self._slices else "first")
        self._slices += 1
        return super().autocast()

    def scale(self, loss: Tensor) -> Tensor:
        """Its forward is over."""
        self._device.recorder.backward()
        return super().scale(loss)

    def unscale(self, optimizer: Optimizer) -> None:
        """The commit begins, with all gradients there."""
        self._slices = 0
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._device.recorder.mark(gradients, "gradients")
        self._device.recorder.enter("commit")
        super().unscale(optimizer)

    def step(self, optimizer: Optimizer) -> bool:
        """Whether a gradient overflows only a fused update need not ask; for another it is taken that none does."""
        if all(group.get("fused") for group in optimizer.param_groups):
            return super().step(optimizer)
        optimizer.step()
        self.rewind()
        return True


def fake_mode() -> FakeTensorMode:
    """One that takes real tensors among fake ones as they are."""
    return FakeTensorMode(allow_non_fake_inputs=True)


class Tracer:
    """Traces optimizer steps of one task and model, each of two equal slices."""

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        train: TrainSection,
        *,
        fake: FakeTensorMode | None = None,
        as_cuda: bool = False,
    ) -> None:
        """`model` is real, or of `fake` already. `as_cuda` traces what a GPU's kernels would make."""
        self.num_traces = 0
        self._task = task
        self._train = train
        self._kernels = CudaKernels if as_cuda else contextlib.nullcontext
        self._fake = fake or fake_mode()
        self._device = FakeDevice(self._fake)
        if fake is None:
            self._device.place(model)
        self._trained = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
        """Another tracer of the same tensors may train others of them."""
        with self._fake:
            optimizer = make_optimizer(model, train)
        in_backward = InBackward.of(optimizer, train, self._device.host)
        precision = PhasePrecision(train, self._device)
        self.state = TrainingState(model, optimizer, Progress(), self._device, precision, in_backward)

    def trace(self, batch: int, index: int) -> Trace:
        """A step whose slices are `batch` times this training example, so padded to its length."""
        self.num_traces += 1
        recorder = self._device.recorder = Recorder()
        state = self.state
        for parameter, is_trained in self._trained:
            parameter.requires_grad_(is_trained)
        for tensor in (*state.model.parameters(), *state.model.buffers()):
            recorder.note(tensor, "parameters")
        for entry in state.optimizer.state.values():
            for tensor in entry.values():
                recorder.note(tensor, "optimizer state")
        step = GroupStep(state, self._task, BatchSplit(2 * batch, batch), Session(self._device.read_memory))
        gc.collect()
        gc.disable()  # garbage is freed when it is collected, which would be another moment in each trace
        try:
            with self._fake, recorder, self._kernels():
                step.train([index] * (2 * batch), 0, self._train.learning_rate, self._train.max_grad_norm)
                if state.in_backward:  # nothing is left to commit
                    state.precision.unscale(state.optimizer)
        except CANNOT_TELL as error:
            why = str(error).strip().partition("\n")[0]
            hint = "its sizes must follow from the shapes of its inputs"
            raise MemdashError(f"the step cannot be traced without running it: {why}", hint=hint) from None
        finally:
            gc.enable()
        return recorder.trace()
