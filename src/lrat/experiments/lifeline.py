"""How a process that another one started is stopped: by its parent alone, and by each signal once.

Signals from outside reach such a process several times (Ctrl-C goes to the whole process group, and
so does the SIGTERM of many a supervisor), and the second would stop it before it has saved itself.
So it is deaf to them, and holds one end of a *lifeline*: a pipe on which its parent hands on what
the parent heard, and which closes when the parent dies, however it dies.
"""

import _thread
import logging
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from lrat.streams import tolerant_output

_logger = logging.getLogger(__name__)
Result = TypeVar("Result")
_WAKE: signal.Signals | None = getattr(signal, "SIGURG", None)
"""Does nothing to a process that has no handler for it."""


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
