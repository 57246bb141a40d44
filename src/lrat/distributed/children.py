"""Child processes of one call: how they are started, watched and stopped.

All of them end well, or all end: one that fails or dies ends the others and is the error of the
call; none outlives its parent. Signals from outside reach a child several times (Ctrl-C goes to the
whole process group, and so does the SIGTERM of many a supervisor), and the second would stop it
before it has saved itself. So a child ignores them and holds one end of a pipe (``lifeline``) on
which its parent hands on what it received, and which closes when the parent dies, however it dies.
"""

import _thread
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal, TypeVar

from lrat.distributed.signals import SIGNALS, StopRequest, stopping
from lrat.errors import Interrupted, LratError
from lrat.streams import tolerant_output
from lrat.text import in_one_line

_SECONDS_FOR_THE_CAUSE = 5.0
"""Who loses its connection to a process that dies may be heard before that death is."""
_SECONDS_TO_FOLLOW = 30.0
"""After one that was stopped: an exchange in which others wait for it may not notice its end."""
_SECONDS_TO_END = 30.0
_SECONDS_TO_SAVE = 120.0
"""For those whose parent died."""

_logger = logging.getLogger(__name__)
Result = TypeVar("Result")
_WAKE: signal.Signals | None = getattr(signal, "SIGURG", None)
"""Does nothing to a process that has no handler for it."""


class ConnectionLostError(LratError):
    """Another process ended, or cannot be reached: no fault of the one that says so."""


def supervise(member: Callable[[int], Any], size: int, *, saves_itself: bool) -> Any:
    """``member(number)`` in ``size`` processes, numbered from 0; what the first one returned.

    ``member`` must be picklable. With ``saves_itself`` it sees the first of the ``SIGNALS`` of this
    process as its own, and is to answer by ``Interrupted``; a second one, without it the first,
    ends all at once. Raises the ``LratError`` of a member, and ``LratError`` for one that was
    killed.
    """
    team: list[_Member] = []

    def hand_on(reason: str) -> None:
        for each in team:
            each.ask(reason)

    heard = stopping(hand_on) if saves_itself else nullcontext(StopRequest())
    with heard as stop:
        try:
            # One by one, so that each is known as soon as it is there.
            for number in range(size):
                child = start_child(_Member, _live, member, number, saves_itself, deaf_to=SIGNALS)
                team.append(child)
            if stop.reason is not None:  # a signal that came before all were there
                hand_on(stop.reason)
            _watch_over(team)
            return _outcome(team, stop)
        finally:
            _dismiss(team)


@dataclass(frozen=True, kw_only=True)
class _End:
    """How a process ended: with a result or an error, stopped, or in words."""

    kind: Literal["done", "refused", "raised", "died", "stopped"]
    value: Any = None

    @property
    def ends_all(self) -> bool:
        """An interrupted one waits for the first one to save; who lost its connection for the one
        that explains why."""
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
        """Perhaps of something that another one is about to tell."""
        return self.kind == "raised" or isinstance(self.value, ConnectionLostError)


@dataclass(kw_only=True)
class Child:
    """A process as its parent sees it: ``line`` is what the two talk over."""

    process: BaseProcess
    line: Connection
    lifeline: Connection

    def exit_status(self) -> str:
        """How it ended, in words; waits until it has."""
        self.process.join()
        code = self.process.exitcode or 0
        return signal.Signals(-code).name if code < 0 else f"status {code}"


@dataclass(kw_only=True)
class _Member(Child):
    """One of the team as its parent sees it."""

    end: _End | None = None
    asked: bool = False

    def ask(self, reason: str) -> None:
        """Hand on a signal, once."""
        if not self.asked:
            self.asked = True
            with suppress(OSError):  # it died: ``hear`` will say so
                self.lifeline.send_bytes(reason.encode())

    def hear(self) -> None:
        """Take in how it ended."""
        try:
            self.end = pickle.loads(self.line.recv_bytes())  # noqa: S301 - our own process
        except (EOFError, OSError):
            self.end = _End(kind="died", value=self.exit_status())


def _watch_over(team: Sequence[_Member]) -> None:
    """Until all have ended, or the others were waited for as long as those that ended let them."""
    deadline = math.inf
    numbers = {each.line: number for number, each in enumerate(team)}
    while waiting := [each.line for each in team if each.end is None]:
        left = max(0.0, deadline - time.monotonic())
        ready = wait(waiting, None if math.isinf(left) else left)
        for line in ready:
            number = numbers[line]  # type: ignore[index]
            team[number].hear()
            end = team[number].end
            if end is not None:
                deadline = min(deadline, time.monotonic() + end.seconds_for_others(number))
        if not ready:
            return


def _outcome(team: Sequence[_Member], stop: StopRequest) -> Any:
    """What the first one returned, or the error that explains most."""
    ends = [(number, each.end) for number, each in enumerate(team, 1) if each.end is not None]
    for number, end in sorted(ends, key=lambda numbered: _says(numbered[1])):
        who = f"process {number} of {len(team)}"
        if end.kind == "refused":
            raise end.value
        if end.kind == "died":
            raise LratError(
                f"{who} ended by {end.value}: out of memory, or killed? What is done is kept, the "
                "same command continues"
            )
        if end.kind == "raised":
            raise RuntimeError(f"{who} failed:\n{end.value}")
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


def _dismiss(team: Sequence[_Member]) -> None:
    """None is left behind. What one of them was writing is not there for readers."""
    for each in team:
        if each.end is None or each.end.kind != "done":
            each.process.kill()
    for each in team:
        each.process.join(_SECONDS_TO_END)
        if each.process.is_alive():
            each.process.kill()
            each.process.join()
        each.line.close()
        each.lifeline.close()


def _live(
    member: Callable[[int], Any],
    number: int,
    saves_itself: bool,
    line: Connection,
    lifeline: Connection,
) -> None:
    """The life of a process; deaf to signals, which come over the lifeline alone."""
    try:
        end = while_heeding(
            partial(_heed, lifeline, saves_itself), partial(_attempt, member, number), *SIGNALS
        )
    except KeyboardInterrupt:
        end = _End(kind="stopped")
    with suppress(OSError):  # nobody is there to listen any more
        line.send_bytes(_packed(end))
    if end.kind != "done":
        logging.shutdown()
        sys.stdout.flush()
        os._exit(1)


def _attempt(member: Callable[[int], Any], number: int) -> _End:
    try:
        return _End(kind="done", value=member(number))
    except LratError as error:
        return _End(kind="refused", value=error)
    except Exception:
        return _End(kind="raised", value=traceback.format_exc())


def _packed(end: _End) -> bytes:
    """Plain pickles: PyTorch's own would lend tensors from a process that is about to end."""
    try:
        packed = pickle.dumps(end)
        pickle.loads(packed)  # noqa: S301 - an error may refuse to be made again
    except Exception:
        packed = pickle.dumps(_End(kind="refused", value=LratError(in_one_line(end.value))))
    return packed


def _heed(lifeline: Connection, saves_itself: bool) -> None:
    """Do what the parent hands on, and end with it.

    A parent that dies leaves one that saves itself some time to do so; one that was asked to before
    died of the second signal, which stops at once.
    """
    asked = False
    while True:
        try:
            heard = signal.Signals[lifeline.recv_bytes().decode()]
        except (EOFError, OSError):
            break
        asked = True
        interrupt(heard)
    if asked or not saves_itself:
        os._exit(1)
    interrupt(signal.SIGTERM)
    time.sleep(_SECONDS_TO_SAVE)
    os._exit(1)


_Child = TypeVar("_Child", bound=Child)


def start_child(
    kind: type[_Child],
    live: Callable[..., None],
    *arguments: Any,
    deaf_to: tuple[signal.Signals, ...],
) -> _Child:
    """Start ``live(*arguments, line, lifeline)`` in a process, deaf from its first moment."""
    context = multiprocessing.get_context("spawn")
    line, far_line = context.Pipe()
    far_lifeline, lifeline = context.Pipe(duplex=False)
    process = context.Process(target=_begin, args=(live, *arguments, far_line, far_lifeline))
    with blocked(*deaf_to):
        process.start()
    # Only the process may hold these ends, so that each side notices the end of the other.
    far_line.close()
    far_lifeline.close()
    return kind(process=process, line=line, lifeline=lifeline)


def while_heeding(
    heed: Callable[[], None], work: Callable[[], Result], *numbers: signal.Signals
) -> Result:
    """``work()`` in the main thread, which ``heed`` in another one may ``interrupt``, once, by one
    of ``numbers``.

    Raises the ``KeyboardInterrupt`` of that at whatever moment it comes, also before the work.
    Afterwards nothing interrupts any more.
    """
    for number in numbers:
        signal.signal(number, signal.default_int_handler)
    if _WAKE is not None:  # lets ``interrupt`` wake the main thread
        signal.signal(_WAKE, lambda number, frame: None)
    try:
        threading.Thread(target=heed, daemon=True).start()
        return work()
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)


def _begin(live: Callable[..., None], *arguments: Any) -> None:
    with tolerant_output():
        live(*arguments)


@contextmanager
def blocked(*numbers: signal.Signals) -> Iterator[None]:
    """A process that starts inside inherits the block and keeps it: also while it still imports.

    A signal that arrives here meanwhile is delivered at the end.
    """
    if not hasattr(signal, "pthread_sigmask"):  # not a POSIX system
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, set(numbers))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def interrupt(number: signal.Signals = signal.SIGINT) -> None:
    """Do in the main thread what this process would do on a signal, also on one that it blocks."""
    _thread.interrupt_main(number)
    if _WAKE is not None:
        # The interrupt alone does not wake a main thread that sleeps or waits; a signal does.
        signal.pthread_kill(threading.main_thread().ident or 0, _WAKE)
