"""Early stopping: a run is finished when so many evaluations in a row were no better than the best before them."""

from __future__ import annotations

import math

from memdash.agent.session import Session
from memdash.config import TrainSection
from runner.training_state import Progress

LOWER_IS_BETTER = ("loss", "perplexity", "wer")


def is_better(metric: str, value: float, than: float | None) -> bool:
    """Whether a metric improved; losses, perplexities and word error rates fall, all others rise. NaN never is better."""
    if math.isnan(value) or than is None:
        return not math.isnan(value)
    return value < than if any(word in metric for word in LOWER_IS_BETTER) else value > than


class Patience:
    """What it remembers is part of the progress, so that a resumed run stops where one that never stopped does."""

    def __init__(self, train: TrainSection, session: Session) -> None:
        self._limit = train.patience
        self._metric = train.patience_metric
        self._session = session
        self._warned = False

    def look(self, metrics: dict[str, float], progress: Progress) -> None:
        """Take note of an evaluation."""
        if not self._limit or not metrics:
            return
        if self._metric not in metrics:
            if not self._warned:
                known = ", ".join(sorted(metrics))
                text = f"train.patience_metric: there is no metric {self._metric}, only {known}; no early stop"
                self._session.notice(text, level="error")
            self._warned = True
        elif is_better(self._metric, metrics[self._metric], progress.best):
            progress.best, progress.best_step, progress.evaluations_since_best = metrics[self._metric], progress.step, 0
        else:
            progress.evaluations_since_best += 1

    def why_over(self, progress: Progress) -> str:
        """Why the run ends here; empty while it goes on."""
        if not self._limit or progress.evaluations_since_best < self._limit:
            return ""
        best = (
            "never a number" if progress.best is None else f"best after step {progress.best_step}: {progress.best:.4f}"
        )
        count = progress.evaluations_since_best
        return f"stopped early at step {progress.step}: {self._metric} no better in {count} evaluations ({best})"
