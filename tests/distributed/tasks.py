"""What workers are made to do in tests; here, so that their processes can import it."""

import os
import signal
import time
from dataclasses import dataclass

from lrat.distributed.children import ConnectionLostError
from lrat.errors import Interrupted, SettingError


def work(task: str) -> tuple[str, int]:
    """A task is what happens to its worker."""
    if task == "refuse":
        raise SettingError("refuse: this cannot be made")
    if task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if task == "hang":
        time.sleep(600)
    return task, os.getpid()


@dataclass(frozen=True)
class Ending:
    """A process ends as the word for its number says: ``late``, when others have ended."""

    words: tuple[str, ...]

    def __call__(self, number: int) -> str:
        word = self.words[number]
        if word.endswith("late"):
            time.sleep(1)
        if word.startswith("refuse"):
            raise SettingError(f"{word}: this cannot be made")
        if word.startswith("save"):
            raise Interrupted(f"{word}: saved")
        if word == "hang":
            time.sleep(600)
        if word == "lost":
            raise ConnectionLostError("lost")
        if word == "raise":
            raise RuntimeError("raised")
        if word == "stop":
            raise KeyboardInterrupt
        if word.startswith("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        return word


def end(*words: str) -> Ending:
    """How each of a team ends."""
    return Ending(words)
