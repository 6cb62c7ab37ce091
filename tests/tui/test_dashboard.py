"""The whole dashboard on a client that a test speaks through: the message chain, then what is on the screen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from textual import events
from textual.widgets import Input

from memdash import wire
from memdash.errors import LinkError, SupervisorNotRunning, VersionMismatch
from memdash.tui import messages
from memdash.tui.actions import command_name
from memdash.tui.app import Dashboard, DashboardExit
from memdash.tui.screens.help import HelpScreen
from memdash.tui.screens.main import MainScreen
from memdash.tui.screens.split import SplitScreen
from memdash.tui.screens.stop import StopScreen
from memdash.tui.widgets.banner import Banner
from memdash.tui.widgets.figures_view import FiguresView
from memdash.tui.widgets.header import Header
from memdash.tui.widgets.journal import JournalPane
from memdash.tui.widgets.key_bar import KeyBar
from memdash.tui.widgets.output import OutputPane
from memdash.tui.widgets.plot_view import PlotView
from tests.tui import scenes
from tests.tui.conftest import FakeClient, dashboard_on, told, until

if TYPE_CHECKING:
    from textual.message import Message

pytestmark = pytest.mark.filterwarnings("error")
LIFE = scenes.life(40.0)
SIZE = (120, 40)


class Chain:
    """The messages of ours that went through the app, in order."""

    def __init__(self) -> None:
        self.seen: list[Message] = []

    def __call__(self, message: Message) -> None:
        """Called by Textual for every message of every widget."""
        if type(message).__module__ == messages.__name__ and all(message is not seen for seen in self.seen):
            self.seen.append(message)

    def names(self) -> list[str]:
        """Their types."""
        return [type(message).__name__ for message in self.seen]


def toasts(app: Dashboard) -> list[str]:
    """Title and text of every toast so far."""
    return [f"{toast.title}: {toast.message}" for toast in app._notifications]


async def test_a_sample_goes_from_the_client_to_the_plot_and_a_burst_is_one_tick() -> None:
    chain, client = Chain(), FakeClient(*LIFE)
    app = dashboard_on(client)
    async with app.run_test(size=SIZE, message_hook=chain) as pilot:
        await told(app, pilot, client)
        assert chain.names()[:3] == ["Connected", "TelemetryArrived", "StatusChanged"]
        assert chain.names().count("TelemetryArrived") < len(LIFE) / 10
        plots = {view.id: view.plot for view in app.screen.query(PlotView)}
        assert all(plot and plot.curves for plot in plots.values()), plots
        before = plots["plot-device"]
        await told(app, pilot, client, scenes.step(60, 500, scenes.device(150, 500, 505)))
        assert app.screen.query_one("#plot-device", PlotView).plot != before


async def test_a_plot_that_has_not_changed_is_not_painted_again() -> None:
    client = FakeClient(*LIFE)
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        view = app.screen.query_one("#plot-host", PlotView)
        painted = view.paints
        await told(app, pilot, client, scenes.host_sample(39.5, 2.2, 1.0))
        assert view.paints == painted


async def test_a_plot_that_came_before_plotext_is_painted_when_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memdash.tui.plotting.loaded", lambda: False)
    client = FakeClient(*LIFE)
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        view = app.screen.query_one("#plot-host", PlotView)
        assert "waiting" in "".join(view.render_line(y).text for y in range(view.size.height))
        monkeypatch.undo()
        app.draw()
        assert "7.6G┤" in "".join(view.render_line(y).text for y in range(view.size.height))


async def test_a_journal_entry_that_comes_twice_or_late_stands_once_in_its_place() -> None:
    client = FakeClient(scenes.state(), *(scenes.entry(seq, seq, seq, f"entry {seq}") for seq in (3, 1, 2, 3, 1)))
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        assert [line[-7:] for line in app.screen.query_one(JournalPane).texts] == ["entry 1", "entry 2", "entry 3"]


async def test_every_figure_is_shown() -> None:
    client = FakeClient(
        *LIFE,
        wire.CheckpointSaved(
            rank=0, time_s=scenes.T0, step=300, kind="light", path="/r/c", size_bytes=5_000_000, duration_s=0.1
        ),
    )
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client, scenes.state(dropped_samples=7))
        shown = app.screen.query_one(FiguresView).text
        for words in ("8 x 2 = 16", "5.2314", "from 9.128", "3,512", "4.20e-04", "light @ 300", "OOMs", "simulated"):
            assert words in shown
        header = app.screen.query_one(Header).text
        for words in ("demo", "● running", "bert 1.2M", "SIMULATED DEVICE", "2m00s"):
            assert words in header
        assert "light checkpoint saved" in "\n".join(app.screen.query_one(JournalPane).texts)
        assert app.screen.query_one(OutputPane).texts[-1].startswith("epoch 1:  37%")


@pytest.mark.parametrize(
    ("key", "command", "pending"),
    [
        ("p", wire.Pause, "pausing at the next step"),
        ("c", wire.SaveCheckpoint, "saving a light checkpoint at the next step"),
        ("C", wire.SaveCheckpoint, "saving a full checkpoint at the next step"),
        ("e", wire.EmptyCache, "emptying the cache at the next step"),
        ("m", wire.DumpMemorySnapshot, "writing a memory snapshot at the next step"),
    ],
)
async def test_a_key_sends_its_command_shows_it_pending_and_then_the_answer(
    key: str, command: type[wire.Command], pending: str
) -> None:
    chain, client = Chain(), FakeClient(scenes.state())
    app = dashboard_on(client)
    async with app.run_test(size=SIZE, message_hook=chain) as pilot:
        await told(app, pilot, client)
        await pilot.press(key)
        (sent,) = client.sent
        assert type(sent) is command
        assert f"{pending}…" in app.screen.query_one(Header).text
        assert key in app.screen.query_one(KeyBar).greyed
        await pilot.press(key)
        assert len(client.sent) == 1
        assert f"already {pending}" in toasts(app)[-1]
        answer = wire.CommandResult(
            command_id=sent.command_id, command=command.__name__, ok=True, applied_at_step=413, text="done"
        )
        await told(app, pilot, client, answer)
        assert toasts(app)[-1] == f"{command_name(command.__name__)}: done (step 413)"
        assert pending not in app.screen.query_one(Header).text
        assert [name for name in chain.names() if name.startswith("Command")] == ["CommandSent", "CommandAnswered"]


async def test_kinds_of_checkpoints() -> None:
    client = FakeClient(scenes.state())
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        await pilot.press("c", "C")
        assert [getattr(sent, "kind", "") for sent in client.sent] == ["light", "full"]


async def test_pause_becomes_resume() -> None:
    client = FakeClient(scenes.state(status="paused", phase="paused"))
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        await pilot.press("p")
        assert isinstance(client.sent[0], wire.Resume)


async def test_what_the_script_cannot_do_is_grey_and_says_why() -> None:
    capabilities = {**scenes.CAPABLE, "SetBatchSplit": "its loader is a stream"}
    client = FakeClient(scenes.state(capabilities=capabilities))
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        assert app.screen.query_one(KeyBar).greyed == ["b"]
        await pilot.press("b")
        assert isinstance(app.screen, MainScreen)
        assert toasts(app) == ["b: micro-batch: its loader is a stream"]
        assert client.sent == []


async def test_a_refusal_by_the_supervisor_is_shown_as_one() -> None:
    client = FakeClient(scenes.state())
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        result = wire.CommandResult(command_id="other", command="Pause", ok=False, text="rank 1 did not answer [2 s]")
        await told(app, pilot, client, result)
        assert toasts(app) == ["pause: not done: rank 1 did not answer [2 s]"]


@pytest.mark.parametrize(
    ("keys", "micro_batch"),
    [
        (["up", "enter"], 4),
        (["down", "enter"], 16),
        (["down", "down", "down", "up", "up", "enter"], 4),
        (["backspace", "5", "enter"], 5),
        (["enter"], None),  # as it is: nothing to apply
        (["backspace", "1", "7", "enter"], None),  # more than the group
        (["backspace", "enter"], None),
        (["up", "escape"], None),
    ],
)
async def test_the_split_dialog(keys: list[str], micro_batch: int | None) -> None:
    client = FakeClient(scenes.state())
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        await pilot.press("b")
        assert isinstance(app.screen, SplitScreen)
        await pilot.press(*keys)
        assert [getattr(sent, "micro_batch", None) for sent in client.sent] == ([micro_batch] if micro_batch else [])


async def test_a_number_typed_while_the_split_dialog_opens_is_not_lost() -> None:
    client = FakeClient(scenes.state())
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        for key in "b16":
            app.post_message(events.Key(key, key))  # none waits for what the one before did, as in a terminal
        await until(lambda: [entry.value for entry in app.screen.query(Input)] == ["16"])
        assert app.screen.query_one(Input).has_focus


async def test_the_split_dialog_shows_the_diff_and_only_peaks_that_were_recorded() -> None:
    client = FakeClient(
        scenes.state(),
        scenes.step(1, 1, scenes.device(100, 310, 350), micro_batch=8),
        scenes.step(2, 2, scenes.device(100, 300, 350), micro_batch=8),
        scenes.step(3, 3, scenes.device(100, 480, 505), micro_batch=16),
    )
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        await pilot.press("b", "down")
        text = {name: app.screen.query_one(f"#{name}").text for name in ("diff", "choices")}  # type: ignore[attr-defined]
        assert text["diff"] == "8 x 2 -> 16 x 1, global batch stays 16"
        lines = [" ".join(line.split()) for line in text["choices"].splitlines()]
        assert lines == [
            "1 x 16 = 16 no peak recorded",
            "2 x 8 = 16 no peak recorded",
            "4 x 4 = 16 no peak recorded",
            "8 x 2 = 16 now simulated peak 310 MiB",
            "❯ 16 x 1 = 16 simulated peak 480 MiB",
        ]


@pytest.mark.parametrize(
    ("keys", "save"),
    [
        (["enter"], "full"),
        (["down", "enter"], "light"),
        (["up", "enter"], "none"),
        (["c"], "light"),
        (["C"], "full"),
        (["n"], "none"),
        (["escape"], None),
        (["q"], None),
    ],
)
async def test_stop_asks_first(keys: list[str], save: str | None) -> None:
    client = FakeClient(scenes.state())
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        await pilot.press("s")
        assert isinstance(app.screen, StopScreen)
        assert client.sent == []
        await pilot.press(*keys)
        assert [getattr(sent, "save", None) for sent in client.sent] == ([save] if save else [])
        assert isinstance(app.screen, MainScreen)


async def test_a_script_that_cannot_save_is_not_asked_to() -> None:
    client = FakeClient(scenes.state(capabilities={"Stop": ""}))
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        await pilot.press("s", "C", "enter")
        assert [getattr(sent, "save", None) for sent in client.sent] == ["none"]


async def test_a_run_that_ends_under_an_open_dialog_is_not_commanded() -> None:
    client = FakeClient(scenes.state())
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        await pilot.press("s")
        await told(app, pilot, client, scenes.state(status="finished", ended_s=scenes.T0 + 60))
        await pilot.press("enter")
        assert client.sent == []
        assert "the run has ended: finished" in toasts(app)[-1]


async def test_help_says_keys_headroom_and_exit_codes() -> None:
    client = FakeClient(scenes.state())
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        await pilot.press("question_mark")
        assert isinstance(app.screen, HelpScreen)
        from memdash.tui.screens.help import help_lines

        page = " ".join(line.text for line in help_lines())
        for words in ("Capacity less the peak of the last step", "Detach", "under 10 %", "OOM killer killed"):
            assert words in page
        await pilot.press("question_mark")
        assert isinstance(app.screen, MainScreen)


@pytest.mark.parametrize("key", ["q", "ctrl+c", "ctrl+q"])
@pytest.mark.parametrize(
    ("state", "reason"),
    [(scenes.state(), "detached"), (scenes.state(status="stopped", ended_s=scenes.T0 + 9), "ended")],
)
async def test_leaving(key: str, state: wire.RunState, reason: str) -> None:
    client = FakeClient(state)
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        await pilot.press(key)
        await pilot.pause()
    assert app.return_value == DashboardExit(reason, state)  # type: ignore[arg-type]
    assert client.closed
    assert client.sent == []


async def test_ctrl_c_leaves_from_a_dialog_too() -> None:
    client = FakeClient(scenes.state())
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        await pilot.press("s", "ctrl+c")
        await pilot.pause()
    assert app.return_value is not None
    assert app.return_value.reason == "detached"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"status": "finished", "step": 1200, "smoothed_loss": 4.3, "metrics": {"loss": 4.353}},
            "✓ finished · step 1,200 of 1,200 · 2m00s · loss 9.128 -> 4.300 · validation loss 4.353 · q: leave",
        ),
        ({"status": "stopped", "status_reason": "asked for"}, "■ stopped: asked for · step 412 of 1,200"),
        (
            {"status": "failed", "exit_code": 1, "status_reason": "ValueError: no"},
            "✗ failed: ValueError: no · exit code 1",
        ),
        ({"status": "oom", "exit_code": 12}, "✗ out of memory · exit code 12"),
        ({"status": "killed", "exit_code": -9, "status_reason": "by the kernel"}, "✗ killed: by the kernel · signal 9"),
        ({"status": "lost"}, "✗ lost: nobody saw how it ended"),
    ],
)
async def test_the_final_banner_stays(changes: dict[str, object], words: str) -> None:
    chain, client = Chain(), FakeClient(*LIFE)
    app = dashboard_on(client)
    async with app.run_test(size=SIZE, message_hook=chain) as pilot:
        await told(app, pilot, client, scenes.state(ended_s=scenes.T0 + 120, **changes))
        client.hang_up()
        await until(lambda: not app.link.connected)
        await pilot.pause()
        banner = app.screen.query_one(Banner)
        assert banner.display
        assert words in banner.text
        assert chain.names()[-1] == "RunEnded"
        assert app.screen.query_one(KeyBar).greyed == ["p", "P", "c", "C", "b", "e", "m", "s"]
        assert app.is_running


async def test_danger_is_told_once_a_level_with_the_key_that_helps() -> None:
    chain, client = Chain(), FakeClient(scenes.state())
    app = dashboard_on(client)
    async with app.run_test(size=SIZE, message_hook=chain) as pilot:
        await told(app, pilot, client, scenes.step(1, 1, scenes.device(100, 470, 480)))
        await told(app, pilot, client, scenes.step(2, 2, scenes.device(100, 471, 480)))
        await told(app, pilot, client, scenes.host_sample(2, 7.4))
        entered = [message for message in chain.seen if isinstance(message, messages.DangerEntered)]
        assert [(message.where, int(message.level)) for message in entered] == [("device", 1), ("host", 2)]
        assert "device memory low: device headroom 8%" in toasts(app)[0]
        assert "b: smaller micro-batch" in toasts(app)[0]
        assert "host memory almost full" in toasts(app)[1]


async def test_a_device_without_an_allocator_says_why_its_pane_is_empty() -> None:
    memory = wire.DeviceMemory(device="cpu", kind="unavailable", reason="plain CPU has no allocator to read")
    client = FakeClient(scenes.state(memory=memory, device="cpu"), scenes.step(1, 1, memory))
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        view = app.screen.query_one("#plot-device", PlotView)
        assert "plain CPU has no allocator to read" in "\n".join(
            view.render_line(y).text for y in range(view.size.height)
        )
        assert "SIMULATED" not in app.screen.query_one(Header).text


async def test_a_lost_supervisor_is_said_and_found_again() -> None:
    chain = Chain()
    first, second = FakeClient(*LIFE), FakeClient(*LIFE, scenes.entry(99, 41, 420, "back again"))
    app = dashboard_on(first, second)
    async with app.run_test(size=SIZE, message_hook=chain) as pilot:
        await told(app, pilot, first)
        await pilot.press("p")
        first.hang_up()
        await until(lambda: app.lost_text)
        await pilot.pause()
        assert "supervisor lost, reconnecting" in app.screen.query_one(Banner).text
        assert "no answer to: pausing" in toasts(app)[-1]
        await pilot.press("p")
        assert "the supervisor is not connected" in toasts(app)[-1]
        await until(lambda: app.link.connected)
        await told(app, pilot, second)
        assert not app.screen.query_one(Banner).display
        journal = app.screen.query_one(JournalPane).texts
        assert len(journal) == len(scenes.JOURNAL) + 1  # told anew, not twice
        assert len(app.screen.query_one(OutputPane).texts) == scenes.OUTPUT.count("\n") + 1
        assert app.screen.query_one(KeyBar).greyed == []
        assert "ConnectionLost" in chain.names()
        assert first.closed


async def test_leaving_while_the_supervisor_is_lost_says_so() -> None:
    client = FakeClient(scenes.state())
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        client.hang_up()
        await until(lambda: app.lost_text)
        await pilot.press("q")
        await pilot.pause()
    assert app.return_value == DashboardExit("lost", scenes.state())


async def test_another_version_is_not_tried_again() -> None:
    async def connect() -> FakeClient:
        raise VersionMismatch("they speak version 9")

    app = Dashboard(connect)
    async with app.run_test() as pilot:
        await until(lambda: app.error)
        await pilot.pause()
    assert isinstance(app.error, VersionMismatch)


async def test_a_run_that_nobody_supervises_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memdash.tui.link.FIRST_RETRY_S", 0.001)
    app = dashboard_on()
    async with app.run_test() as pilot:
        await until(lambda: app.error)
        await pilot.pause()
    assert isinstance(app.error, SupervisorNotRunning)
    assert isinstance(app.error, LinkError)


@pytest.mark.parametrize(
    ("path", "shown"),
    [("/r/checkpoints/step-00000250-full", "full @ 250"), ("/r/mine/", "mine"), ("", "none yet")],
)
async def test_the_last_checkpoint_is_known_to_whoever_comes_late(path: str, shown: str) -> None:
    client = FakeClient(scenes.state(last_checkpoint=path))
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        await told(app, pilot, client)
        assert f"checkpoint {shown}" in app.screen.query_one(FiguresView).text


async def test_views_and_spans() -> None:
    client = FakeClient(*LIFE)
    app = dashboard_on(client)
    async with app.run_test(size=(80, 24)) as pilot:
        await told(app, pilot, client)

        def visible() -> list[str | None]:
            views = [*app.screen.query(PlotView), app.screen.query_one(JournalPane), app.screen.query_one(OutputPane)]
            return [view.id for view in views if view.size.height and view.region and view.display]

        assert visible() == ["plot-device", "plot-host", "journal"]
        for key, expected in (
            ("1", ["plot-device", "plot-host"]),
            ("2", ["plot-loss", "plot-rate"]),
            ("3", ["journal"]),
            ("4", ["output"]),
            ("4", ["plot-device", "plot-host", "journal"]),
        ):
            await pilot.press(key)
            await pilot.pause()
            assert visible() == expected
        before = app.screen.query_one("#plot-host", PlotView).plot
        await pilot.press("z")
        assert app.screen.query_one("#plot-host", PlotView).plot != before


@pytest.mark.parametrize(
    "size",
    [(1, 1), (3, 10), (10, 3), (20, 12), (40, 13), (79, 23), (80, 24), (99, 33), (100, 34), (120, 40), (200, 60)],
)
async def test_every_size_can_be_lived_in(size: tuple[int, int]) -> None:
    client = FakeClient(*LIFE)
    app = dashboard_on(client)
    async with app.run_test(size=size) as pilot:
        await told(app, pilot, client)
        for key in ("1", "2", "3", "4", "0", "b", "escape", "s", "escape", "question_mark", "escape"):
            await pilot.press(key)
        await told(app, pilot, client, scenes.state(status="failed", ended_s=scenes.T0 + 1))


async def test_a_storm_of_sizes() -> None:
    client = FakeClient(*LIFE)
    app = dashboard_on(client)
    async with app.run_test(size=SIZE) as pilot:
        for width in range(1, 200, 13):
            await pilot.resize_terminal(width, width // 3 + 1)
        await pilot.resize_terminal(120, 40)
        await told(app, pilot, client)
        assert app.screen.query_one("#plot-rate", PlotView).plot is not None
