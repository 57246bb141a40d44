"""Child processes of one call: how they are started, watched and stopped.

A child takes tasks from its parent over a pipe, one after the other, and answers each by how it
ended. Members work on one thing together and have one task each, their number; workers have a
queue. None outlives its parent, however that one dies. Signals from outside reach a child several
times (Ctrl-C goes to the whole process group, and so does the SIGTERM of many a supervisor), so a
child ignores all but SIGTERM, by which its parent stops it, and those that repeat one count once.
"""

import logging
import math
import multiprocessing
import os
import pickle
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal, TypeVar

from lrat.distributed.signals import SIGNALS, HeldSignal, StopRequest, stopping
from lrat.errors import Interrupted, LratError
from lrat.streams import tolerant_output
from lrat.text import in_one_line

_SECONDS_FOR_THE_CAUSE = 5.0
"""A process that lost its connection to one that dies may answer before that death is known."""
_SECONDS_TO_FOLLOW = 30.0
"""After one that was stopped: an exchange in which others wait for it may not notice its end."""
_SECONDS_TO_END = 30.0
_SECONDS_TO_SAVE = 120.0
"""For those whose parent died."""
_POLL_SECONDS = 0.5

Result = TypeVar("Result")


class ConnectionLostError(LratError):
    """Another process ended, or cannot be reached: no fault of the one that says so."""


def supervise(member: Callable[[int], Any], size: int, *, saves_itself: bool) -> Any:
    """``member(number)`` in ``size`` processes, numbered from 0; what the first one returned.

    ``member`` must be picklable. With ``saves_itself`` it sees the first of the ``SIGNALS`` of this
    process as its own, and is to answer by ``Interrupted``; a second one, without it the first,
    ends all at once. All end well, or all end. Raises the ``LratError`` of a member, and
    ``LratError`` for one that was killed.
    """
    members: list[Child] = []

    def hand_on(reason: str) -> None:
        for each in members:
            each.stop(reason)

    with stopping(hand_on) if saves_itself else nullcontext(StopRequest()) as stop:
        try:
            # One by one, so that each is known as soon as it is there.
            for number in range(size):
                members.append(start_child(member, saves_itself=saves_itself))
                members[-1].give(number)
            if stop.reason is not None:  # a signal that came before all were there
                hand_on(stop.reason)
            _watch_over(members)
            return _outcome(members, stop)
        finally:
            for each in members:
                if each.end is None or each.end.kind != "done":
                    each.process.kill()
                each.line.close()
            for each in members:
                each.process.join(_SECONDS_TO_END)
                if each.process.is_alive():
                    each.process.kill()
                    each.process.join()


def run_tasks(
    make: Callable[[str], Result],
    tasks: Sequence[str],
    *,
    workers: int,
    stop: StopRequest,
) -> Iterator[Result]:
    """``make(task)`` of all tasks, in the order in which they end, in processes of one thread.

    A worker receives its next task when it has ended one, never ahead. When ``stop`` is requested,
    and when a task fails, the tasks under way are interrupted (``make`` sees what Ctrl-C does: a
    run saves itself) and their ends waited for; then ``Interrupted`` or the ``LratError`` of the
    task is raised. ``make`` must be picklable.
    """
    waiting = deque(tasks)
    started: list[Child] = []
    busy: dict[Any, Child] = {}
    try:
        while waiting and len(started) < workers:
            started.append(start_child(partial(_on_one_thread, make), saves_itself=True))
            started[-1].give(waiting.popleft())
            busy[started[-1].line] = started[-1]
        while busy:
            ready = wait(list(busy), _POLL_SECONDS)
            if stop:
                raise Interrupted(f"stopped by {stop.reason}")
            for line in ready:
                worker = busy.pop(line)
                result = worker.result()
                if waiting:
                    worker.give(waiting.popleft())
                    busy[line] = worker
                yield result
    finally:
        for worker in started:
            if worker.line in busy:
                worker.stop()
            worker.line.close()
        try:
            for worker in started:
                worker.process.join()
        except BaseException:  # a second signal
            for worker in started:
                worker.process.kill()
            raise


def _on_one_thread(make: Callable[[str], Result], task: str) -> Result:
    import torch

    torch.set_num_threads(1)
    return make(task)


@dataclass(frozen=True, kw_only=True)
class _End:
    """How a task ended: with a result or an error, stopped, or in words."""

    kind: Literal["done", "refused", "raised", "died", "stopped"]
    value: Any = None

    @property
    def ends_all(self) -> bool:
        """Whether the others need not go on. An interrupted one waits for the first one to save,
        and one that lost its connection for the one that explains why."""
        harmless = Interrupted | ConnectionLostError
        return self.kind == "died" or (
            self.kind == "refused" and not isinstance(self.value, harmless)
        )

    def seconds_for_others(self, number: int) -> float:
        """How long those that still work are waited for after the end of the ``number``-th one."""
        if self.ends_all:
            return 0.0
        if self.is_an_effect:
            return _SECONDS_FOR_THE_CAUSE
        if self.kind == "stopped" or (self.kind == "refused" and number == 0):
            return _SECONDS_TO_FOLLOW
        return math.inf

    @property
    def is_an_effect(self) -> bool:
        """Whether another process may explain it."""
        return self.kind == "raised" or isinstance(self.value, ConnectionLostError)

    def error(self, process: str) -> Exception | None:
        """What the parent raises for the end of a ``process``."""
        if self.kind == "refused":
            refused: Exception = self.value
            return refused
        if self.kind == "died":
            return LratError(
                f"{process} ended by {self.value}: out of memory, or killed? What is done is kept, "
                "the same command continues"
            )
        return RuntimeError(f"{process} failed:\n{self.value}") if self.kind == "raised" else None


@dataclass(frozen=True)
class _Stop:
    """What is sent before the SIGTERM that stops a process: the signal that it is to see."""

    reason: str


@dataclass(kw_only=True)
class Child:
    """A process as its parent sees it: ``line`` is what the two talk over, ``task`` its latest
    task, and ``end`` how that one ended."""

    process: BaseProcess
    line: Connection
    task: Any = None
    end: _End | None = None
    is_stopped: bool = False

    def give(self, task: Any) -> None:
        self.task, self.end = task, None
        with suppress(OSError):  # it died: ``hear`` will say so
            self.line.send(task)

    def hear(self) -> _End:
        """Wait for the end of the task."""
        try:
            self.end = pickle.loads(self.line.recv_bytes())  # noqa: S301 - our own process
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            status = signal.Signals(-code).name if code < 0 else f"status {code}"
            self.end = _End(kind="died", value=status)
        return self.end

    def result(self) -> Any:
        """What came of the task; raises its error."""
        end = self.hear()
        error = end.error(f"the worker process of {self.task}")
        if error is not None:
            raise error
        if end.kind == "stopped":
            raise Interrupted(f"the worker process of {self.task} was stopped")
        return end.value

    def stop(self, reason: str = "SIGTERM") -> None:
        """Have it see a signal of that name, once."""
        if not self.is_stopped:
            self.is_stopped = True
            with suppress(OSError):  # it died
                self.line.send(_Stop(reason))
            self.process.terminate()


def _watch_over(members: Sequence[Child]) -> None:
    """Until all have ended, or the others were waited for as long as those that ended let them."""
    deadline = math.inf
    numbers = {each.line: number for number, each in enumerate(members)}
    while waiting := [each.line for each in members if each.end is None]:
        left = max(0.0, deadline - time.monotonic())
        ready = wait(waiting, None if math.isinf(left) else left)
        for line in ready:
            number = numbers[line]  # type: ignore[index]
            end = members[number].hear()
            deadline = min(deadline, time.monotonic() + end.seconds_for_others(number))
        if not ready:
            return


def _outcome(members: Sequence[Child], stop: StopRequest) -> Any:
    """What the first one returned, or the error that explains most."""
    ends = [(number, each.end) for number, each in enumerate(members, 1) if each.end is not None]
    for number, end in sorted(ends, key=lambda numbered: _says(numbered[1])):
        error = end.error(f"process {number} of {len(members)}")
        if error is not None:
            raise error
        if end.kind == "stopped":
            raise Interrupted(
                f"stopped by {stop.reason or 'SIGINT'} while no step was under way: what is saved "
                "is kept, the same command continues"
            )
    return ends[0][1].value


def _says(end: _End) -> int:
    """0 for what explains most."""
    if end.ends_all:
        return 0 if end.kind == "refused" else 1
    return {"raised": 2, "refused": 5 if end.is_an_effect else 3, "stopped": 4}.get(end.kind, 6)


def start_child(work: Callable[[Any], Any], *, saves_itself: bool) -> Child:
    """Start a process that does ``work`` on each task that it is given.

    One that ``saves_itself`` sees SIGTERM as ``KeyboardInterrupt`` or as ``holding`` says, and has
    some time when its parent dies; another one ends at once.
    """
    context = multiprocessing.get_context("spawn")
    line, far_line = context.Pipe()
    process = context.Process(target=_live, args=(work, saves_itself, far_line))
    with _blocked(*SIGNALS):
        process.start()
    far_line.close()  # only the process may hold this end, so that its death is noticed
    return Child(process=process, line=line)


def _live(work: Callable[[Any], Any], saves_itself: bool, line: Connection) -> None:
    """The life of a process, which begins with the ``SIGNALS`` blocked."""

    def name(number: int) -> str:
        with suppress(EOFError, OSError):  # the parent died
            if line.poll():
                return str(line.recv().reason)
        return signal.Signals(number).name

    for number in set(SIGNALS) - ({signal.SIGTERM} if saves_itself else set()):
        signal.signal(number, signal.SIG_IGN)
    handler = HeldSignal(waits=False, name=name)
    threading.Thread(target=_end_with_parent, args=(handler, saves_itself), daemon=True).start()
    heard = partial(_heard, handler) if saves_itself else nullcontext
    with tolerant_output():
        while (end := _ended(work, line, heard)) is not None:
            with suppress(OSError):  # the parent does not listen any more
                line.send_bytes(_packed(end))
            if end.kind != "done":
                logging.shutdown()
                sys.stdout.flush()
                os._exit(1)


def _ended(
    work: Callable[[Any], Any], line: Connection, heard: Callable[[], AbstractContextManager[None]]
) -> _End | None:
    """How the next task ended; None where there is no other."""
    try:
        task = line.recv()
    except (EOFError, OSError):
        return None
    try:
        with heard():
            value = None if isinstance(task, _Stop) else work(task)
    except KeyboardInterrupt:
        return _End(kind="stopped")
    except LratError as error:
        return _End(kind="refused", value=error)
    except Exception:
        return _End(kind="raised", value=traceback.format_exc())
    return _End(kind="stopped") if isinstance(task, _Stop) else _End(kind="done", value=value)


@contextmanager
def _heard(handler: HeldSignal) -> Iterator[None]:
    """Inside, ``handler`` answers SIGTERM, also one that came before; it is ignored afterwards."""
    signal.signal(signal.SIGTERM, handler)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)


def _packed(end: _End) -> bytes:
    """Plain pickles: PyTorch's own would lend tensors from a process that is about to end."""
    try:
        packed = pickle.dumps(end)
        pickle.loads(packed)  # noqa: S301 - an error may refuse to be unpickled
    except Exception:
        packed = pickle.dumps(_End(kind="refused", value=LratError(in_one_line(end.value))))
    return packed


def _end_with_parent(handler: HeldSignal, saves_itself: bool) -> None:
    """End this process when its parent has died.

    One that saves itself has some time to do so; but if it was stopped before, its parent died of
    the second signal, which stops at once.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
    if saves_itself and not handler.came:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_SECONDS_TO_SAVE)
    os._exit(1)


@contextmanager
def _blocked(*numbers: signal.Signals) -> Iterator[None]:
    """A process that starts inside inherits the block and keeps it, also while it still imports.

    A signal that arrives here meanwhile is delivered at the end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # not a POSIX system
        yield
        return
    resource_tracker.ensure_running()  # here: its own start would unblock signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(numbers))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
