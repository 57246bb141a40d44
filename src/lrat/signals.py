"""Signals that ask a process to end."""

import signal
from types import FrameType

URGENT = (signal.SIGINT, signal.SIGTERM)
"""Whoever sends one of these a second time wants an end at once."""
_OTHERS = tuple(
    getattr(signal, name)
    for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)  # not on Windows
)
"""A terminal that closes and a scheduler send these, several times where they like: a shell hands
SIGHUP on, the system sends SIGXCPU every second. They ask once."""
SIGNALS = (*URGENT, *_OTHERS)


def interrupt_once(number: int, frame: FrameType | None) -> None:
    """A handler that raises ``KeyboardInterrupt``, and keeps those of ``SIGNALS`` that only ask
    from interrupting what is then cleaned up."""
    for each in _OTHERS:
        if signal.getsignal(each) is interrupt_once:
            signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt
