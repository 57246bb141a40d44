"""Commands in processes of their own, which tests signal and kill, and what can be seen of them."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import NoReturn

from lrat.cli import main


class Forked:
    """``lrat ARGUMENTS`` as a terminal would run it, in a session of its own, with the interface of
    ``subprocess.Popen``.

    A fork of this process: PyTorch is there already, whose import costs two seconds. For commands
    that start the processes which compute.
    """

    def __init__(self, *arguments: object) -> None:
        self.returncode: int | None = None
        self._files = [TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 - closed with the process
        self.pid = os.fork()
        if self.pid == 0:
            self._run([str(argument) for argument in arguments])

    def _run(self, arguments: list[str]) -> NoReturn:
        status = 1
        try:
            os.setsid()
            for number, file in enumerate(self._files, 1):
                os.dup2(file.fileno(), number)
            sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
            for number in (signal.SIGINT, signal.SIGTERM):
                default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                signal.signal(number, default)
            logging.getLogger().handlers.clear()
            os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "120"}
            sys.argv = ["lrat", *arguments]
            main()
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = 120) -> int:
        deadline = time.monotonic() + timeout
        while (status := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("lrat", timeout)
            time.sleep(0.02)
        return status

    def communicate(self, timeout: float = 120) -> tuple[str, str]:
        self.wait(timeout)
        for file in self._files:
            file.seek(0)
        out, err = (file.read() for file in self._files)
        return out, err

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def close(self) -> None:
        for file in self._files:
            file.close()

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@contextmanager
def forked(*arguments: object) -> Iterator[Forked]:
    """A command nothing of which is left afterwards."""
    running = Forked(*arguments)
    try:
        yield running
    finally:
        with suppress(ProcessLookupError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
        running.close()


def wait_until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def children_of(pid: int) -> list[int]:
    """The processes that do the work, in the order in which they were started."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended meanwhile
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == pid and "spawn_main" in (place / "cmdline").read_text():
                found.append(int(place.name))
    return sorted(found)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def all_gone(pids: list[int]) -> bool:
    return not any(map(alive, pids))
