"""What workers are made to do in tests; here, so that their processes can import it."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from lrat.distributed import children
from lrat.distributed.children import ConnectionLostError
from lrat.distributed.signals import stopping
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
        if word == "heed":
            with stopping() as stop:
                os.kill(os.getppid(), signal.SIGUSR1)
                while not stop:
                    time.sleep(0.01)
                for each in (signal.SIGINT, signal.SIGTERM):  # as the whole group gets them
                    os.kill(os.getpid(), each)
                raise Interrupted(f"saved at {stop.reason}")
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


@dataclass(frozen=True)
class Stuck:
    """A process that notes its number in a file and cannot be stopped."""

    note: str

    def __call__(self, number: int) -> None:
        children._SECONDS_TO_SAVE = 0.1
        path = Path(self.note)
        path.with_suffix(".new").write_text(str(os.getpid()))
        path.with_suffix(".new").rename(path)
        try:
            time.sleep(600)
        except KeyboardInterrupt:
            time.sleep(600)
