"""A page that shows a whole run: memory against its limits, loss, micro-batch, attempts. The only file that imports matplotlib."""

from __future__ import annotations

import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memdash.errors import UsageError
from memdash.timeline import Timeline
from memdash.tui.axes import byte_axis, number_axis, time_ticks
from memdash.tui.palette import (
    ALLOCATED,
    BACKGROUND,
    CAPACITY,
    DANGER,
    DIM,
    FAINT,
    GOOD,
    INFO,
    LOSS,
    LOSS_RAW,
    PANEL,
    PEAK,
    PROCESS_TREE,
    RESERVED,
    RULE,
    STATUS_COLOURS,
    TEXT,
    THROUGHPUT,
    WORKING_SET,
    shaded,
)
from memdash.units import format_bytes, format_count, format_duration

if TYPE_CHECKING:
    from memdash import wire

INCHES = (12.0, 8.5)
DOTS_PER_INCH = 150
ROWS, COLUMNS = 12, 100  # how many ticks find room
SHOWN_FROM = 0.2  # of the capacity: below that its line would press the curves to the floor
SMOOTHING = 0.1
VERDICT_WIDTH = 150
STYLE: dict[Any, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "figure.facecolor": BACKGROUND,
    "axes.facecolor": PANEL,
    "axes.edgecolor": RULE,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.titlecolor": TEXT,
    "axes.titlepad": 9.0,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "xtick.color": DIM,
    "ytick.color": DIM,
    "text.color": TEXT,
    "legend.frameon": False,
    "legend.labelcolor": DIM,
    "legend.fontsize": 8.0,
    "lines.linewidth": 1.3,
    "svg.hashsalt": "memdash",  # the same run gives the same file
}


def draw(path: Path, kind: str, state: wire.RunState, verdict: str, timeline: Timeline) -> None:
    """Write a `png` or `svg`. Raises UsageError when that cannot be done."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError as error:
        hint = "pip install 'memdash[export]'"
        raise UsageError(f"a picture needs matplotlib, which cannot be imported here: {error}", hint=hint) from None
    if not timeline.launches:
        raise UsageError(f"{state.run_id} has recorded nothing yet that a picture could show")
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=INCHES, dpi=DOTS_PER_INCH)
        _Page(figure, state, timeline).fill(verdict)
        try:
            figure.savefig(path, format=kind, metadata={"Date": None} if kind == "svg" else {})
        except OSError as error:
            raise UsageError(f"cannot write {path}: {error}") from None


class _Page:
    """The panels, from top to bottom, over one axis of time."""

    def __init__(self, figure: Any, state: wire.RunState, timeline: Timeline) -> None:
        self._figure = figure
        self._state = state
        self._timeline = timeline
        panels = {"device": 3.0, "host": 3.0, "loss": 3.0, "micro_batch": 1.5, "attempts": 1.2}
        if "device.peak" not in timeline.curves:
            del panels["device"]
        for name in ("loss", "micro_batch"):
            if name not in timeline.curves:
                del panels[name]
        grid = figure.add_gridspec(
            len(panels),
            1,
            height_ratios=[*panels.values()],
            left=0.065,
            right=0.985,
            top=0.865,
            bottom=0.05,
            hspace=0.34,
        )
        self._axes = {name: figure.add_subplot(grid[row]) for row, name in enumerate(panels)}

    def fill(self, verdict: str) -> None:
        """Draw everything."""
        self._head(verdict)
        draw = {
            "device": self._device,
            "host": self._host,
            "loss": self._loss,
            "micro_batch": self._micro_batch,
            "attempts": self._attempts,
        }
        for name, axes in self._axes.items():
            draw[name](axes)
            self._frame(axes)

    def _head(self, verdict: str) -> None:
        state = self._state
        self._figure.text(0.065, 0.955, state.name, size=15, weight="bold")
        lines = textwrap.wrap(verdict, VERDICT_WIDTH, max_lines=2, placeholder=" …")
        self._figure.text(0.065, 0.942, "\n".join(lines), size=9, color=STATUS_COLOURS[state.status], va="top")
        model = f"{state.model} {format_count(state.num_parameters)}" if state.num_parameters else state.model
        batch = f"global batch {state.global_batch}" if state.global_batch else ""
        began = time.strftime("%Y-%m-%d %H:%M", time.localtime(state.created_s))
        words = [
            model,
            f"{state.device} device" if self._simulated else state.device,
            batch,
            f"begun {began}",
            "memdash",
        ]
        self._figure.text(0.985, 0.958, " · ".join(filter(None, words)), size=9, color=DIM, ha="right")

    @property
    def _simulated(self) -> str:
        memory = self._state.memory
        return " (SIMULATED)" if memory is not None and memory.kind == "simulated" else ""

    # ---- one panel each ----

    def _device(self, axes: Any) -> None:
        axes.set_title(f"device memory{self._simulated}")
        self._line(axes, "device.peak", PEAK, "peak of each step", fill=True)
        self._line(axes, "device.reserved", RESERVED, "reserved")
        self._line(axes, "device.allocated", ALLOCATED, "allocated at a step's end")
        self._capacity(axes, "device", ("device.peak", "device.reserved"))
        self._marks(axes, labelled=False)

    def _host(self, axes: Any) -> None:
        axes.set_title("host memory")
        self._line(axes, "host.working_set", WORKING_SET, "working set against the limit", fill=True)
        self._line(axes, "host.process", PROCESS_TREE, "process tree")
        self._capacity(axes, "host", ("host.working_set", "host.process"))

    def _loss(self, axes: Any) -> None:
        curve = self._timeline.curves["loss"]
        axes.set_title("loss")
        axes.fill_between(curve.at_s, curve.low, curve.high, color=LOSS_RAW, linewidth=0.8, label="each step")
        axes.plot(curve.at_s, _smoothed(curve.last), color=LOSS, label="smoothed")
        values = [value for value in (*curve.low, *curve.high) if value == value]
        axis = number_axis(min(values), max(values), ROWS)
        self._y(axes, axis.low, axis.high, axis.ticks)

    def _micro_batch(self, axes: Any) -> None:
        curve = self._timeline.curves["micro_batch"]
        axes.set_title("micro-batch")
        axes.plot(curve.at_s, curve.last, color=THROUGHPUT, drawstyle="steps-post", label="examples per forward")
        values = sorted({round(value) for value in curve.last if value == value})
        self._y(axes, 0, values[-1] * 1.25, tuple((value, str(value)) for value in values[-5:]))

    def _attempts(self, axes: Any) -> None:
        axes.set_title("attempts, time without the gaps between them")
        for launch in self._timeline.launches:
            colour = STATUS_COLOURS.get(launch.outcome, INFO)
            axes.barh(0, launch.length_s, left=launch.at_s, height=0.8, color=shaded(colour, 0.45), edgecolor=colour)
            steps = f": steps {launch.first_step:,}-{launch.last_step:,}" if launch.first_step is not None else ""
            became = launch.outcome or ("goes on" if launch.attempt == self._state.attempt else "ended unseen")
            words = f"attempt {launch.attempt} {became}{steps}, {format_duration(launch.length_s)}"
            self._inside(axes, launch.at_s, launch.length_s, words)
        self._y(axes, -0.5, 0.5, ())
        self._marks(axes, labelled=True)

    # ---- what they share ----

    def _inside(self, axes: Any, at_s: float, length_s: float, words: str) -> None:
        """As much of it as finds room in a bar."""
        room = int(length_s / (self._timeline.length_s or 1.0) * 165)
        if room >= 4:
            text = words if len(words) <= room else words[: room - 1] + "…"
            axes.text(at_s + length_s / 2, 0, text, ha="center", va="center", size=8, color=TEXT)

    def _line(self, axes: Any, name: str, colour: str, label: str, *, fill: bool = False) -> None:
        curve = self._timeline.curves.get(name)
        if curve is None:
            return
        if fill:
            axes.fill_between(curve.at_s, curve.high, color=shaded(colour, 0.18), linewidth=0)
        axes.plot(curve.at_s, curve.high, color=colour, label=label)

    def _capacity(self, axes: Any, where: str, names: tuple[str, ...]) -> None:
        """A memory's scale, and its limit: as a line where it is near, in words where it is far."""
        curves = [self._timeline.curves[name] for name in names if name in self._timeline.curves]
        most = max((value for curve in curves for value in curve.high if value == value), default=0.0)
        capacity = self._timeline.capacity_bytes.get(where)
        near = capacity is not None and most >= SHOWN_FROM * capacity
        top = max(most, capacity or 0.0) if near else most * 1.2
        axis = byte_axis(0.0, top or 1.0, ROWS, capacity if near and capacity == top else None)
        self._y(axes, 0.0, axis.high * 1.06, axis.ticks)
        if capacity is not None:
            limit = f"limit {format_bytes(round(capacity))}"
            if near:
                axes.axhline(capacity, color=CAPACITY, linewidth=1.2, linestyle=(0, (6, 3)), label=limit)
            else:
                axes.plot([], [], color=CAPACITY, linestyle=(0, (6, 3)), label=f"{limit}, far above")

    def _marks(self, axes: Any, *, labelled: bool) -> None:
        """Checkpoints and OOMs along the upper edge."""
        styles: dict[str, dict[str, Any]] = {
            "full": {"marker": "v", "color": GOOD, "label": "full checkpoint"},
            "light": {"marker": "v", "color": BACKGROUND, "edgecolors": GOOD, "label": "light checkpoint"},
            "oom": {"marker": "x", "color": DANGER, "label": "out of memory"},
        }
        for kind, style in styles.items():
            times = [mark.at_s for mark in self._timeline.marks if mark.kind == kind]
            if times:
                top = [1.0] * len(times)
                label = style.pop("label") if labelled else None
                place = axes.get_xaxis_transform()
                axes.scatter(times, top, s=30, transform=place, clip_on=False, zorder=5, **{**style, "label": label})

    def _frame(self, axes: Any) -> None:
        """The axis of time, the attempts' borders, the grid, the legend."""
        length_s = self._timeline.length_s or 1.0
        axes.set_xlim(0.0, length_s)
        ticks = time_ticks(0.0, length_s, COLUMNS)
        last = axes is self._axes["attempts"]
        axes.set_xticks([at_s for at_s, _ in ticks], [label if last else "" for _, label in ticks])
        for launch in self._timeline.launches[1:]:
            axes.axvline(launch.at_s, color=FAINT, linewidth=1.0, linestyle=(0, (2, 2)))
        axes.tick_params(length=0, labelsize=8)
        axes.set_axisbelow(True)
        axes.grid(visible=True)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.02), ncols=8, borderpad=0.0, handlelength=1.6)

    def _y(self, axes: Any, low: float, high: float, ticks: tuple[tuple[float, str], ...]) -> None:
        axes.set_ylim(low, high)
        axes.set_yticks([value for value, _ in ticks], [text for _, text in ticks])


def _smoothed(values: list[float]) -> list[float]:
    """Exponentially, from each attempt's first value on."""
    smoothed: list[float] = []
    for value in values:
        before = smoothed[-1] if smoothed else value
        smoothed.append(before + SMOOTHING * (value - before) if before == before else value)
    return smoothed
