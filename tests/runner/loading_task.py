"""The toy task with bad manners in its worker processes, found by the runner as `loading_task:toy`."""

import multiprocessing
import os
import signal
import time

try:
    from toy_task import ToyTask  # in a run, beside the config
except ImportError:
    from tests.runner.toy_task import ToyTask

from memdash.errors import UsageError


class Ill(ToyTask):
    """Does what `mode` says when a worker collates example 7 in the second epoch."""

    def __init__(self, mode="", **options):
        super().__init__(**options)
        self.mode = mode

    def collate(self, part, indices, epoch):
        if epoch == 1 and 7 in indices and multiprocessing.parent_process() is not None:
            if self.mode == "die":
                os.kill(os.getpid(), signal.SIGKILL)
            if self.mode == "refuse":
                raise UsageError("example 7 is not what it seems", hint="look at it")
            if self.mode == "fail":
                raise KeyError("a bug in the user's task")
        if self.mode == "slow":
            time.sleep(0.05)
        return super().collate(part, indices, epoch)


def toy(options, config):
    """What a config names."""
    return Ill(**options)
