"""Ctrl-C and SIGTERM as a request that the loop answers between two steps."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeAlias

_logger = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler: TypeAlias = Callable[[int, FrameType | None], Any] | int | None


class StopRequest:
    """Whether somebody asked the run to stop, and by which signal."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def __bool__(self) -> bool:
        return self.reason is not None

    def ask(self, reason: str) -> None:
        self.reason = reason


@contextmanager
def stopping() -> Iterator[StopRequest]:
    """Inside, the first SIGINT or SIGTERM only sets the request; a second one acts at once.

    At the first signal the handlers found before come back, so the second does what it did without
    this manager (KeyboardInterrupt, or the end of the process). Handlers always come back at exit.
    A signal that was ignored before (``nohup``, a shell's background job) stays ignored. Outside
    the main thread Python allows no handlers: there the request stays False.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    previous: dict[signal.Signals, Handler] = {}

    def restore() -> None:
        while previous:
            number, handler = previous.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        request.ask(signal.Signals(number).name)
        restore()
        _logger.info("%s: stopping after this step; a second one stops at once", request.reason)

    try:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, on_signal)
        yield request
    finally:
        restore()
