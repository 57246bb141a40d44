"""What workers are made to do in tests; here, so that their processes can import it."""

import os
import signal
import time

from lrat.errors import SettingError


def work(task: str) -> tuple[str, int]:
    """A task is what happens to its worker."""
    if task == "refuse":
        raise SettingError("refuse: this cannot be made")
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "hang":
        time.sleep(600)
    return task, os.getpid()
