"""The one screen that a run is watched on; asks for actions, and draws what the board knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, cast

from textual import on
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.screen import Screen

from memdash import wire
from memdash.batching import BatchSplit
from memdash.client import new_command_id
from memdash.errors import PlanError
from memdash.tui.actions import ACTIONS, Action, ActionName, refusal, simple_command
from memdash.tui.figures import simulated
from memdash.tui.playback import next_mark, next_speed, step_s, within
from memdash.tui.screens.forecast import ForecastScreen
from memdash.tui.screens.help import HelpScreen
from memdash.tui.screens.ledger import LedgerScreen
from memdash.tui.screens.plan import PlanScreen
from memdash.tui.screens.split import SplitScreen
from memdash.tui.screens.stop import Save, StopScreen
from memdash.tui.widgets.banner import Banner
from memdash.tui.widgets.figures_view import FiguresView
from memdash.tui.widgets.glance import Glance
from memdash.tui.widgets.header import Header
from memdash.tui.widgets.journal import JournalPane
from memdash.tui.widgets.key_bar import LONG_LABELS_FROM_WIDTH, KeyBar
from memdash.tui.widgets.output import OutputPane
from memdash.tui.widgets.plots_view import SPANS, PlotsView
from memdash.tui.widgets.progress import ProgressLine
from memdash.tui.widgets.scrubber import Scrubber

if TYPE_CHECKING:
    from textual.app import ComposeResult

    from memdash.tui.app import Dashboard

VIEWS = ("all", "memory", "training", "journal", "output")
_BY_NAME = {action.name: action for action in ACTIONS}


class MainScreen(Screen[None]):
    """Header, progress, figures, plots, journal and output, keys."""

    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = [(0, "-slim"), (30, "-narrow"), (100, "-medium")]
    VERTICAL_BREAKPOINTS = [(0, "-flat"), (8, "-low"), (12, "-short"), (34, "-tall")]
    BINDINGS: ClassVar[list[BindingType]] = [
        *(Binding(action.key, f"ask('{action.name}')", action.label, show=False) for action in ACTIONS),
        *(Binding(str(index), f"view({index})", name, show=False) for index, name in enumerate(VIEWS)),
        Binding("q", "leave", "detach", show=False),
        Binding("f", "forecast", "forecast", show=False),
        Binding("l", "ledger", "ledger", show=False),
        Binding("v", "plan", "plan", show=False),
        Binding("question_mark", "help", "help", show=False),
        Binding("w", "span", "time shown", show=False),
        Binding("z", "zoom", "zoom memory", show=False),
        Binding("escape", "view(0)", "everything", show=False),
        Binding("space", "play", "play or hold", show=False),
        Binding("left", "seek(-1, False)", "back", show=False),
        Binding("right", "seek(1, False)", "on", show=False),
        Binding("shift+left", "seek(-1, True)", "far back", show=False),
        Binding("shift+right", "seek(1, True)", "far on", show=False),
        Binding("home", "seek_end(-1)", "beginning", show=False),
        Binding("end", "seek_end(1)", "end", show=False),
        Binding("less_than_sign,left_square_bracket", "speed(-1)", "slower", show=False),
        Binding("greater_than_sign,right_square_bracket", "speed(1)", "faster", show=False),
        Binding("n", "mark(1)", "next warning", show=False),
        Binding("N", "mark(-1)", "warning before", show=False),
    ]

    def __init__(self) -> None:
        super().__init__()
        self.view = 0
        """Index into VIEWS."""

    @property
    def dashboard(self) -> Dashboard:
        """The app this screen is always part of."""
        return cast("Dashboard", self.app)

    def compose(self) -> ComposeResult:
        """Top to bottom."""
        yield Glance(id="glance")
        yield Header(id="header")
        yield Banner(id="banner", classes="hidden")
        yield ProgressLine(id="progress")
        yield FiguresView(id="figures")
        yield PlotsView()
        with Container(id="texts"):
            yield JournalPane()
            yield OutputPane()
        yield Scrubber()
        yield KeyBar()

    def on_mount(self) -> None:
        """Everything at first."""
        self.action_view(0)

    def on_resize(self) -> None:
        """Draw for the new size as soon as it is laid out."""
        self.call_after_refresh(self.draw)

    def draw(self) -> None:
        """Bring every visible widget up to date; what has not changed costs next to nothing."""
        app, board = self.dashboard, self.dashboard.board
        clock_s, connected = app.clock(), app.link.connected
        self.query_one(Glance).draw(board)
        self.query_one(Header).draw(board, clock_s, connected=connected)
        self.query_one(Banner).draw(board, app.lost_text)
        self.query_one(ProgressLine).draw(board)
        self.query_one(FiguresView).draw(board)
        plots = self.query_one(PlotsView)
        plots.draw(board, clock_s)
        narrow = self.size.width < LONG_LABELS_FROM_WIDTH
        self.query_one(JournalPane).hint(wanted=narrow and VIEWS[self.view] == "all")
        for pane in (self.query_one(JournalPane), self.query_one(OutputPane)):
            if pane.size.height:
                pane.draw(board)
        self.set_class(board.playback is not None, "-recording")
        self.query_one(Scrubber).draw(board.playback)
        self.query_one(KeyBar).draw(board, connected=connected, view=VIEWS[self.view], span=SPANS[plots.span][0])

    def action_ask(self, name: ActionName) -> None:
        """One of the keys that ask the run for something; a refusal says why."""
        action, app = _BY_NAME[name], self.dashboard
        if reason := self._refusal(action):
            app.notify(reason, title=f"{action.key}: {action.label}", severity="warning", markup=False)
        elif name == "split":
            self._ask_split()
        elif name == "stop":
            self._ask_stop()
        else:
            app.send(simple_command(action, app.board.state, new_command_id()))

    def action_view(self, index: int) -> None:
        """Show one part, or everything; the key of what is shown goes back to everything."""
        self.view = 0 if index == self.view else index
        for at, name in enumerate(VIEWS):
            self.set_class(at == self.view, f"-view-{name}")
        self.call_after_refresh(self.draw)

    def action_next_view(self) -> None:
        """For whoever clicks on the footer's hint."""
        self.action_view((self.view + 1) % len(VIEWS))

    def action_span(self) -> None:
        """The next span of time."""
        plots = self.query_one(PlotsView)
        plots.span = (plots.span + 1) % len(SPANS)
        self.draw()

    def action_zoom(self) -> None:
        """Memory from zero to capacity, or what is shown."""
        plots = self.query_one(PlotsView)
        plots.zoomed = not plots.zoomed
        self.draw()

    def action_play(self) -> None:
        """A recording: hold it, or go on."""
        if playback := self.dashboard.playback():
            self._set_speed(playback.speed, playing=not playback.playing)

    def action_speed(self, direction: int) -> None:
        """A recording: faster or slower."""
        if playback := self.dashboard.playback():
            self._set_speed(next_speed(playback, direction), playing=playback.playing)

    def action_seek(self, direction: int, large: bool) -> None:
        """A recording: on or back."""
        if playback := self.dashboard.playback():
            self._seek(playback.time_s + direction * step_s(playback, large=large))

    def action_seek_end(self, direction: int) -> None:
        """A recording: its beginning or its end."""
        if playback := self.dashboard.playback():
            self._seek(playback.start_s if direction < 0 else playback.end_s)

    def action_mark(self, direction: int) -> None:
        """A recording: the next warning or error of the journal."""
        if playback := self.dashboard.playback():
            if mark := next_mark(playback, direction):
                self._seek(mark.time_s)
            else:
                self.app.notify(f"no warning or error {'after' if direction > 0 else 'before'} this", markup=False)

    @on(Scrubber.Clicked)
    def scrubber_clicked(self, message: Scrubber.Clicked) -> None:
        """A recording: there."""
        self._seek(message.time_s)

    def _seek(self, time_s: float) -> None:
        if playback := self.dashboard.playback():
            self.dashboard.play(wire.Seek(command_id=new_command_id(), time_s=within(playback, time_s)))

    def _set_speed(self, speed: float, *, playing: bool) -> None:
        self.dashboard.play(wire.SetSpeed(command_id=new_command_id(), speed=speed, playing=playing))

    def action_help(self) -> None:
        """The help screen."""
        self.app.push_screen(HelpScreen())

    def action_forecast(self) -> None:
        """Where memory is heading."""
        self.app.push_screen(ForecastScreen())

    def action_ledger(self) -> None:
        """Where the memory is."""
        self.app.push_screen(LedgerScreen())

    def action_plan(self) -> None:
        """What was estimated before the start, beside what is measured."""
        self.app.push_screen(PlanScreen())

    def action_leave(self) -> None:
        """Leave; the run goes on."""
        self.dashboard.leave()

    def _refusal(self, action: Action) -> str:
        board = self.dashboard.board
        recording = board.playback is not None
        linked = self.dashboard.link.connected
        return refusal(action, board.state, linked=linked, pending=board.pending, recording=recording)

    def _ask_split(self) -> None:
        board = self.dashboard.board
        assert board.state is not None
        try:
            split = BatchSplit(board.state.global_batch, board.state.micro_batch, board.state.world_size)
        except PlanError:
            self.app.notify("the script has not said how it cuts its batch", severity="warning")
            return

        def answered(micro_batch: int | None) -> None:
            if micro_batch is not None:
                self._still(_BY_NAME["split"], wire.SetBatchSplit(command_id=new_command_id(), micro_batch=micro_batch))

        self.app.push_screen(SplitScreen(split, board.peaks, simulated=simulated(board.device())), answered)

    def _ask_stop(self) -> None:
        state = self.dashboard.board.state
        assert state is not None

        def answered(save: Save | None) -> None:
            if save is not None:
                self._still(_BY_NAME["stop"], wire.Stop(command_id=new_command_id(), save=save))

        self.app.push_screen(StopScreen(state), answered)

    def _still(self, action: Action, command: wire.Command) -> None:
        """Send, unless the run has moved on while the dialog was open."""
        app = self.dashboard
        if reason := self._refusal(action):
            app.notify(reason, title=f"{action.key}: {action.label}", severity="warning", markup=False)
        else:
            app.send(command)
