"""The first line: which run, how it is, for how long, on what."""

from __future__ import annotations

from memdash import wire
from memdash.tui.board import Board
from memdash.tui.figures import elapsed_text, gpu_text, others_text, simulated
from memdash.tui.palette import BACKGROUND, DIM, FAINT, INFO, LOSS, STATUS_COLOURS, TEXT, WARNING
from memdash.tui.widgets.words import Words, WordsView, apart, length
from memdash.units import format_count


class Header(WordsView):
    """One line."""

    def draw(self, board: Board, clock_s: float, *, connected: bool) -> None:
        """Show the state of the run."""
        width = self.size.width
        state = board.state
        if state is None:
            doing = "connecting to the supervisor ..." if board.playback is None else "reading the record ..."
            self.show((("memdash ", f"bold {INFO}"), (doing, DIM)))
            return
        left = _left(board, state, connected)
        right = _right(board, state, clock_s)
        while right and length(left) + length(right) + 2 > width:
            right = right[1:]  # the label of a simulated device and the time stand last: they matter most
        self.show(apart(left, right, width))


def _left(board: Board, state: wire.RunState, connected: bool) -> Words:
    name = state.name or state.run_id
    status = (f"● {state.status}", f"bold {STATUS_COLOURS[state.status]}")
    if not connected and not board.is_over():
        status = ("● supervisor lost", f"bold {WARNING}")
    doing = next((f"  {pending.text}…" for pending in board.pending.values()), "")
    if not doing and state.status in ("running", "starting") and state.phase not in ("training", state.status):
        doing = f"  {state.phase}…"
    attempt = f"  attempt {state.attempt}" if state.attempt else ""
    replay: Words = ((" REPLAY ", f"bold {BACKGROUND} on {INFO}"), ("  ", "")) if board.playback else ()
    return ((f"{name}  ", f"bold {TEXT}"), *replay, status, (attempt, DIM), (doing, f"bold {LOSS}"))


def _right(board: Board, state: wire.RunState, clock_s: float) -> Words:
    """Least important first."""
    run = (f"{state.run_id}  ", FAINT)
    model = " ".join(filter(None, (state.model, format_count(state.num_parameters) if state.num_parameters else "")))
    words = [run, (f"{model}  " if model else "", DIM)]
    if simulated(board.device()):
        words.append((" SIMULATED DEVICE ", f"bold {BACKGROUND} on {LOSS}"))
    else:
        words.append((state.device, DIM))
        if (gpu := board.gpu()) and not board.is_over():
            words.append((f"  {gpu_text(gpu)}", WARNING if gpu.kind == "unavailable" else DIM))
            words.append((f"  {others_text(gpu)}", DIM))
    words.append((f"  {elapsed_text(board, clock_s)}", TEXT))
    return tuple(word for word in words if word[0].strip())
