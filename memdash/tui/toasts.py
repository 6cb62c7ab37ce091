"""Toasts that know how little room there is: few and narrow on a small screen, none over a dialog."""

from __future__ import annotations

from typing import TYPE_CHECKING

from textual.app import App, ReturnType, ScreenStackError

from memdash.tui.screens.dialog import Dialog

if TYPE_CHECKING:
    from textual.notifications import Notify, SeverityLevel

NARROW_BELOW_WIDTH = 100
MAX_TOASTS, MAX_NARROW = 4, 2
INFORMATION_S, LONGEST_NARROW_S = 3.0, 8.0


class ToastingApp(App[ReturnType]):
    """An app whose toasts never cover what they are about."""

    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = True,
    ) -> None:
        """A toast; over a dialog only what went wrong is said, in the dialog itself."""
        dialog = self._dialog()
        if dialog is not None:
            if severity != "information":
                text = " ".join(f"{title}: {message}".removeprefix(": ").split())
                dialog.trouble(text, severe=severity == "error")
            return
        if severity == "information":
            timeout = min(INFORMATION_S, timeout or INFORMATION_S)
        elif self.size.width < NARROW_BELOW_WIDTH:
            timeout = min(LONGEST_NARROW_S, timeout or self.NOTIFICATION_TIMEOUT)
        super().notify(message, title=title, severity=severity, timeout=timeout, markup=markup)

    def on_notify(self, event: Notify) -> None:
        """Make room for the newest; Textual itself adds it after this."""
        keep = (MAX_NARROW if self.size.width < NARROW_BELOW_WIDTH else MAX_TOASTS) - 1
        for old in list(self._notifications)[:-keep]:
            self._unnotify(old, refresh=False)

    def withdraw(self, title: str) -> None:
        """Take back the toasts whose title begins so: they are no longer true."""
        for old in [each for each in self._notifications if each.title.startswith(title)]:
            self._unnotify(old)

    def _dialog(self) -> Dialog[object] | None:
        try:
            screen = self.screen
        except ScreenStackError:
            return None
        return screen if isinstance(screen, Dialog) and screen.is_mounted else None
