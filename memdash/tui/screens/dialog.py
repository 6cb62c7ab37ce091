"""What every dialog can do beside its own business: show what went wrong behind it."""

from __future__ import annotations

from textual.screen import ModalScreen, ScreenResultType
from textual.widget import Widget

from memdash.tui.palette import DANGER, WARNING
from memdash.tui.widgets.words import WordsView


class Dialog(ModalScreen[ScreenResultType]):
    """Toasts would cover it, so it says what cannot wait in its own last lines."""

    def trouble(self, text: str, *, severe: bool) -> None:
        """Show this at the bottom of the dialog, in place of what was shown there."""
        said = self.query("#trouble")
        view = said.first(WordsView) if said else WordsView(id="trouble")
        if not said:
            self.query_one(".dialog", Widget).mount(view)
        view.show(((text, DANGER if severe else WARNING),))
