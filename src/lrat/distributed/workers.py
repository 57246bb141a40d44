"""Tasks in worker processes that stop when asked, save themselves, and never outlive their parent.

A worker holds one end of a lifeline (see ``children.py``) on which nothing is ever sent. When the
other end closes, because the parent asks it to stop or because the parent died, however it died,
the worker interrupts its own main thread.
"""

import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any, TypeVar

import torch

from lrat.distributed.children import Child, interrupt, start_child, while_heeding
from lrat.distributed.signals import SIGNALS, StopRequest
from lrat.errors import Interrupted, LratError

Result = TypeVar("Result")
_POLL_SECONDS = 0.5
_DEAF_TO = tuple(each for each in SIGNALS if each is not signal.SIGTERM)
"""SIGTERM ends a worker that still imports."""


def run_tasks(
    make: Callable[[str], Result],
    tasks: Sequence[str],
    *,
    workers: int,
    stop: StopRequest,
) -> Iterator[Result]:
    """``make(task)`` of all tasks, in the order in which they end, in processes of one thread.

    A worker is given its next task when it has ended one, never ahead. When ``stop`` is asked for,
    and when a task fails, the tasks under way are interrupted (``make`` sees what Ctrl-C does: a
    run saves itself) and their ends waited for; then ``Interrupted`` or the ``LratError`` of the
    task is raised. ``make`` must be picklable.
    """
    waiting = deque(tasks)
    team: list[_Worker] = []
    try:
        while waiting and len(team) < workers:
            worker = start_child(_Worker, _work, make, deaf_to=_DEAF_TO)
            team.append(worker)
            worker.give(waiting.popleft())
        while any(worker.task is not None for worker in team):
            busy = {worker.line: worker for worker in team if worker.task is not None}
            ready = wait(list(busy), _POLL_SECONDS)
            if stop:
                raise Interrupted(f"stopped by {stop.reason}")
            for line in ready:
                worker = busy[line]  # type: ignore[index]
                result = worker.take()
                if waiting:
                    worker.give(waiting.popleft())
                yield result
    finally:
        _dismiss(team)


@dataclass(kw_only=True)
class _Worker(Child):
    """A worker as its parent sees it; ``task`` is what it is doing, None when it waits."""

    task: str | None = None

    def give(self, task: str) -> None:
        self.task = task
        try:
            self.line.send(task)
        except OSError:
            return  # it died: ``take`` will say so

    def take(self) -> Any:
        """What came of the task."""
        task, self.task = self.task, None
        try:
            refused, result = self.line.recv()
        except (EOFError, OSError):
            raise LratError(
                f"the worker process of {task} ended by {self.exit_status()}: out of memory, or "
                "killed? The same command continues"
            ) from None
        if refused:
            raise LratError(result)
        return result


def _dismiss(team: Sequence[_Worker]) -> None:
    """Interrupt who works, send home who waits, and wait for all of them."""
    for worker in team:
        if worker.task is not None:
            worker.lifeline.close()
            # Ends one that still imports; one that works is deaf to it.
            worker.process.terminate()
        worker.line.close()
    try:
        for worker in team:
            worker.process.join()
    except BaseException:  # a second signal
        for worker in team:
            worker.process.kill()
        raise
    for worker in team:
        worker.lifeline.close()


def _work(make: Callable[[str], Any], line: Connection, lifeline: Connection) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)

    def work() -> None:
        while True:
            line.send(_attempt(make, line.recv()))

    with suppress(EOFError, BrokenPipeError, ConnectionResetError, KeyboardInterrupt, Interrupted):
        while_heeding(partial(_interrupt_when_cut, lifeline), work, signal.SIGINT)


def _attempt(make: Callable[[str], Any], task: str) -> tuple[bool, Any]:
    """Whether the task was refused, and the reason or the result."""
    try:
        return False, make(task)
    except Interrupted:
        raise
    except LratError as error:
        return True, str(error)


def _interrupt_when_cut(lifeline: Connection) -> None:
    wait([lifeline])
    interrupt()
