"""How a process that another one started is stopped: by its parent alone, and by each signal once.

Signals from outside reach such a process several times (Ctrl-C goes to the whole process group, and
so does the SIGTERM of many a supervisor), and the second would stop it before it has saved itself.
So it is deaf to them, and holds one end of a *lifeline*: a pipe on which its parent hands on what
the parent heard, and which closes when the parent dies, however it dies.
"""

import _thread
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


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


def become_wakeable() -> None:
    """Let ``interrupt`` wake the main thread; call it there."""
    if hasattr(signal, "SIGUSR1"):
        signal.signal(signal.SIGUSR1, lambda number, frame: None)


def interrupt(number: signal.Signals = signal.SIGINT) -> None:
    """Do in the main thread what this process would do on a signal, also on one that it blocks."""
    _thread.interrupt_main(number)
    if hasattr(signal, "SIGUSR1"):
        # The interrupt alone does not wake a main thread that sleeps or waits; a signal does.
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
