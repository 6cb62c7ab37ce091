"""The dashboard: a guest of the supervisor. Reads what it is sent, draws it, passes keys on. One process, one loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from msgspec.structs import replace
from textual import work
from textual.binding import Binding
from textual.theme import Theme

from memdash import wire
from memdash.client import Client
from memdash.errors import MemdashError
from memdash.tui import messages, palette, plotting
from memdash.tui.actions import Pending, command_name, pending_text
from memdash.tui.board import Board
from memdash.tui.crash import crash_report
from memdash.tui.danger import Danger
from memdash.tui.link import ClientLike, Link
from memdash.tui.pace import NORMAL_S, next_period
from memdash.tui.screens.main import MainScreen
from memdash.tui.screens.split import SplitScreen
from memdash.tui.terminal import check_terminal, measured_on_stderr, on_hangup
from memdash.tui.toasts import ToastingApp

if TYPE_CHECKING:
    from textual import events
    from textual.binding import BindingType

THEME = Theme(
    name="memdash",
    primary=palette.INFO,
    warning=palette.WARNING,
    error=palette.DANGER,
    success=palette.GOOD,
    foreground=palette.TEXT,
    background=palette.BACKGROUND,
    surface=palette.BACKGROUND,
    panel=palette.PANEL,
    dark=True,
)


@dataclass(frozen=True)
class DashboardExit:
    """Why the dashboard was left."""

    reason: Literal["detached", "ended", "lost"]
    """The run goes on; the run was over; the supervisor could not be reached any more."""
    state: wire.RunState | None
    """The last that was known."""


class Dashboard(ToastingApp[DashboardExit]):
    """One run on one terminal."""

    CSS_PATH = "dashboard.tcss"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+q,ctrl+c", "detach", "detach", show=False, priority=True)]

    def __init__(self, connect: Callable[[], Awaitable[ClientLike]], *, clock: Callable[[], float] = time.time) -> None:
        super().__init__()
        self.register_theme(THEME)
        self.theme = THEME.name
        self.clock = clock
        self.board = Board()
        self.link = Link(connect, self.post_message, self._run_is_over)
        self.lost_text = ""
        self.error: MemdashError | None = None
        """Why there never was a connection."""
        self.crash: Exception | None = None
        """The error of our own that ended the dashboard."""
        self._status = ""
        self._left = False
        self._period_s = NORMAL_S
        self._due_s = 0.0

    def get_default_screen(self) -> MainScreen:
        """The screen that everything happens on."""
        return MainScreen()

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """Colours that Textual's themes have no name for."""
        return {"rule": palette.RULE, "dim": palette.DIM, "faint": palette.FAINT}

    def on_mount(self) -> None:
        """Show the frame first; connect and import plotext after it."""
        if not self.is_headless:
            on_hangup(self.leave)
        self.run_worker(self.link.run(), name="link", exit_on_error=True)
        self.call_after_refresh(self._load_plotting)
        self._schedule()

    async def on_unmount(self) -> None:
        """Leave the supervisor in peace."""
        await self.link.close()

    # ---- up ----

    def on_connected(self, message: messages.Connected) -> None:
        """All history follows."""
        self.lost_text = ""
        if message.again:
            self.board.start_over()
            self.notify("connected to the supervisor again")

    def on_telemetry_arrived(self) -> None:
        """Take in all that waits; the next tick draws it."""
        self._take_inbox()

    def on_connection_lost(self, message: messages.ConnectionLost) -> None:
        """Say so, and that it is not over."""
        self._take_inbox()
        for pending in self.board.pending.values():
            self.notify(f"no answer to: {pending.text}", severity="warning", markup=False)
        self.board.pending.clear()
        retry = f"trying again in {message.retry_in_s:.1f} s (try {message.attempt})"
        self.lost_text = f"supervisor lost, reconnecting: {retry} · training goes on without it · {message.reason}"
        self.draw()

    def on_connection_refused(self, message: messages.ConnectionRefused) -> None:
        """Nothing to show: leave with the reason."""
        self.error = message.error
        self.leave()

    def on_command_answered(self, message: messages.CommandAnswered) -> None:
        """Every answer is a toast; the journal has it from the supervisor."""
        result = message.result
        known = not result.ok or result.applied_at_step is None or "step" in result.text
        where = "" if known else f" (step {result.applied_at_step:,})"
        name = command_name(result.command)
        title = name if result.ok else f"{name}: not done"
        self.notify(
            f"{result.text}{where}", title=title, severity="information" if result.ok else "error", markup=False
        )
        self.draw()

    def on_status_changed(self) -> None:
        """Shown at once, not at the next tick."""
        self.draw()

    def on_danger_entered(self, message: messages.DangerEntered) -> None:
        """A toast that stays long enough to act on."""
        critical = message.level == Danger.CRITICAL
        title = f"{message.where} memory almost full" if critical else f"{message.where} memory low"
        severity: Literal["error", "warning"] = "error" if critical else "warning"
        self.notify(message.text, title=title, severity=severity, timeout=12, markup=False)

    def on_run_ended(self) -> None:
        """The banner stays until q."""
        self.lost_text = ""
        self.draw()

    # ---- down ----

    def send(self, command: wire.Command) -> None:
        """Pass a command on, and show that it is pending."""
        try:
            self.link.send(command)
        except MemdashError as error:
            self.notify(str(error), title=error.hint, severity="error", markup=False)
            return
        text = pending_text(command, self.board.state)
        self.board.pending[command.command_id] = Pending(command, text)
        self.post_message(messages.CommandSent(command))
        self.draw()

    def playback(self) -> wire.Playback | None:
        """Where in a recording we are, with all that has been told."""
        self._take_inbox()
        return self.board.playback

    def play(self, command: wire.PlaybackCommand) -> None:
        """Pass on what only a recording obeys; it is shown at once, so that the next key goes on from there."""
        if (playback := self.board.playback) is None:
            return
        self.link.send(command)
        if isinstance(command, wire.Seek):
            self.board.playback = replace(playback, time_s=command.time_s)
        else:
            self.board.playback = replace(playback, speed=command.speed, playing=command.playing)
        self.draw()

    def leave(self) -> None:
        """Detach."""
        if self._run_is_over():
            reason: Literal["detached", "ended", "lost"] = "ended"
        else:
            reason = "detached" if self.link.connected else "lost"
        self._left = True
        self.exit(DashboardExit(reason, self.board.state))

    def on_key(self, event: events.Key) -> None:
        """What nothing on the screen has taken: typed into the dialog that opened while it was on its way."""
        if isinstance(self.screen, SplitScreen) and event.character:
            self.screen.typed_early(event.character)

    def action_detach(self) -> None:
        """As `q`, on every screen."""
        self.leave()

    # ---- the end ----

    def _handle_exception(self, error: Exception) -> None:
        """Textual would print pages of locals over a shell that wants to know one thing: whether the run goes on."""
        self.crash = self.crash or error
        super()._handle_exception(error)
        self._exit_renderables.clear()

    # ---- drawing ----

    def draw(self) -> None:
        """Draw the main screen, if that is what is seen or lies beneath a dialog."""
        for screen in self.screen_stack:
            if isinstance(screen, MainScreen) and screen.is_mounted and not self._left:
                screen.draw()

    def _schedule(self) -> None:
        self._due_s = time.monotonic() + self._period_s
        self.set_timer(self._period_s, self._tick)

    def _tick(self) -> None:
        """A timer of our own making each time, because a late one must slow us down rather than pile up."""
        self._period_s = next_period(self._period_s, time.monotonic() - self._due_s)
        self.draw()
        self._schedule()

    @work(thread=False)
    async def _load_plotting(self) -> None:
        await asyncio.to_thread(plotting.load)
        self.draw()

    def _take_inbox(self) -> None:
        inbox = self.link.inbox
        anew = False
        while inbox:
            message = inbox.popleft()
            if isinstance(message, wire.Playback) and message.anew:
                self.board, anew = self.board.fresh(), True
            self.board.take(message)
            if isinstance(message, wire.OomReport) and message.next_micro_batch is not None:
                self.withdraw("device memory")  # what was warned of has come, and has been dealt with
            if isinstance(message, wire.CommandResult):
                self.post_message(messages.CommandAnswered(message))
        self._notice_changes()
        if anew:
            self.draw()

    def _notice_changes(self) -> None:
        for where, level, text in self.board.alarms():
            if self.board.playback is not None:
                continue  # nothing can be done about it any more
            self.post_message(messages.DangerEntered(where, level, text))
        state = self.board.state
        if state is not None and state.status != self._status:
            self._status = state.status
            self.post_message(messages.StatusChanged(state.status))
            if self.board.is_over():
                self.post_message(messages.RunEnded(state))

    def _run_is_over(self) -> bool:
        self._take_inbox()
        return self.board.is_over()


def run_dashboard(run_id: str, connect: Callable[[], Awaitable[ClientLike]] | None = None) -> DashboardExit:
    """Show a run until someone leaves.

    Raises UsageError on a terminal that cannot, LinkError when nobody answers, MemdashError when the dashboard broke.
    """
    check_terminal()
    app = Dashboard(connect or (lambda: Client.connect(run_id)))
    with measured_on_stderr():
        left = app.run()
    if app.error is not None:
        raise app.error
    if app.crash is not None:
        raise crash_report(run_id, app.crash)
    return left or DashboardExit("detached", app.board.state)
