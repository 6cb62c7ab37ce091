"""The four plots: which series each shows, its title and legend."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from textual.containers import Container

from memdash import wire
from memdash.tui.board import Board
from memdash.tui.danger import Danger
from memdash.tui.figures import DANGER_COLOURS, others_text, simulated
from memdash.tui.foresight import ahead
from memdash.tui.palette import (
    ALLOCATED,
    CAPACITY,
    DIM,
    FORECAST,
    LOSS,
    LOSS_RAW,
    PEAK,
    PROCESS_TREE,
    RESERVED,
    THROUGHPUT,
    WORKING_SET,
)
from memdash.tui.plots import DOTS_X, Line, canvas_columns, fits, loss_plot, memory_plot, rate_plot
from memdash.tui.series import Window, window
from memdash.tui.widgets.plot_view import PlotView, Title
from memdash.units import format_bytes

if TYPE_CHECKING:
    from textual.app import ComposeResult

SPANS: tuple[tuple[str, float | None], ...] = (("all", None), ("30m", 1800.0), ("5m", 300.0), ("1m", 60.0))
SHORT_NAME_BELOW_WIDTH = 50
PAST_PART = 0.75  # of the canvas, when the rest is wanted for a forecast


class PlotsView(Container):
    """Host and device memory, loss and throughput."""

    def __init__(self) -> None:
        super().__init__(id="plots")
        self.span = 0
        """Index into SPANS."""
        self.zoomed = False

    def compose(self) -> ComposeResult:
        """Memory first, because it decides."""
        for name in ("device", "host", "loss", "rate"):
            yield PlotView(name)

    def draw(self, board: Board, clock_s: float) -> None:
        """Draw the plots that are visible and have changed."""
        draw = {"plot-device": self._device, "plot-host": self._host, "plot-loss": self._loss, "plot-rate": self._rate}
        for view in self.query(PlotView):
            if view.size.width and view.size.height and view.display:
                draw[str(view.id)](view, board, clock_s)

    def _window(self, view: PlotView, board: Board, clock_s: float, *, part: float = 1.0) -> Window:
        """The past in `part` of the canvas, in whole cells."""
        now_s = board.now_s(clock_s)
        origin_s = board.state.created_s if board.state and board.state.created_s else now_s
        columns = int(canvas_columns(view.plot_size[0]) * part) // DOTS_X * DOTS_X
        shown = window(origin_s, now_s, SPANS[self.span][1], columns)
        return replace(shown, settled=shown.count) if board.is_over() else shown

    def _host(self, view: PlotView, board: Board, clock_s: float) -> None:
        capacity = board.host.capacity_bytes if board.host else None
        lines = (
            Line(board.series["host.working_set"], WORKING_SET),
            Line(board.series["host.process"], PROCESS_TREE),
        )
        legend = (("working set", "work", WORKING_SET), ("process tree", "procs", PROCESS_TREE))
        self._memory(view, board, clock_s, "host", lines, capacity, legend)

    def _device(self, view: PlotView, board: Board, clock_s: float) -> None:
        memory = board.device()
        if memory is not None and memory.kind == "unavailable":
            view.show(Title("device memory"), None, memory.reason or f"{memory.device} has no allocator to read")
            return
        rank = f"device.{board.series.tightest_rank()}"
        lines = (
            Line(board.series[f"{rank}.allocated"], ALLOCATED),
            Line(board.series[f"{rank}.reserved"], RESERVED),
            Line(board.series[f"{rank}.peak"], PEAK),
        )
        legend = (("allocated", "alloc", ALLOCATED), ("reserved", "resv", RESERVED), ("peak", "peak", PEAK))
        self._memory(view, board, clock_s, "device", lines, memory.capacity_bytes if memory else None, legend)

    def _memory(
        self,
        view: PlotView,
        board: Board,
        clock_s: float,
        where: str,
        lines: tuple[Line, ...],
        capacity: int | None,
        legend: tuple[tuple[str, str, str], ...],
    ) -> None:
        plot, future = None, None
        if fits(*view.plot_size) and any(line.track.last is not None for line in lines):
            future = ahead(board.state, where, board.series.tightest_rank())
            window = self._window(view, board, clock_s, part=PAST_PART if future else 1.0)
            plot = memory_plot(view.plot_size, window, lines, capacity, zoomed=self.zoomed, ahead=future)
        level = board.dangers[where]
        scale = " off scale" if self.zoomed else ""
        notes = [(f"▁ capacity {format_bytes(capacity)}{scale}", CAPACITY)] if capacity else []
        if future:
            notes.insert(0, ("⠒ forecast", FORECAST))
        if where == "device" and (gpu := board.gpu()) and (others := others_text(gpu)):
            notes.append((others, DIM))
        label = "SIMULATED" if where == "device" and simulated(board.device()) else ""
        title = Title(_name(where, board, view.size.width), legend, DANGER_COLOURS[level], tuple(notes), label)
        view.show(title, plot, _waiting(board))

    def _loss(self, view: PlotView, board: Board, clock_s: float) -> None:
        track = board.series["loss"]
        plot = None
        if fits(*view.plot_size) and track.last is not None:
            plot = loss_plot(view.plot_size, self._window(view, board, clock_s), track, LOSS_RAW, LOSS)
        legend = (("smoothed", "smoothed", LOSS), ("lowest and highest", "raw", LOSS_RAW))
        view.show(Title("loss", legend), plot, _waiting(board))

    def _rate(self, view: PlotView, board: Board, clock_s: float) -> None:
        track = board.series["step_time_s"]
        examples = board.state.global_batch if board.state else 0
        plot = None
        if fits(*view.plot_size) and track.last is not None and examples:
            plot = rate_plot(view.plot_size, self._window(view, board, clock_s), track, examples, THROUGHPUT)
        view.show(Title("throughput", (("examples/s smoothed", "ex/s", THROUGHPUT),)), plot, _waiting(board))


def _waiting(board: Board) -> str:
    """Why nothing is drawn yet, or ever."""
    return (board.state and wire.outside_only(board.state)) or "waiting for the first samples"


_MEMORY_WORDS = {Danger.NONE: "memory", Danger.LOW: "low", Danger.CRITICAL: "almost full"}


def _name(where: str, board: Board, width: int) -> str:
    name = where if width < SHORT_NAME_BELOW_WIDTH else f"{where} {_MEMORY_WORDS[board.dangers[where]]}"
    if where == "device" and board.state and board.state.world_size > 1:
        name += f" of rank {board.series.tightest_rank()}, the fullest"
    return name
