"""Ctrl-C and SIGTERM as a request that is answered between two steps."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeAlias

from torch import nn

_logger = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
Handler: TypeAlias = Callable[[int, FrameType | None], Any] | int | None


class StopNow(BaseException):
    """Leaves a measurement that ``noticing`` watches.

    No ``Exception``: a measure that catches those of its attacks or its model lets it pass.
    """


class StopRequest:
    """Whether somebody asked the run to stop, and by which signal."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def __bool__(self) -> bool:
        return self.reason is not None

    def ask(self, reason: str) -> None:
        self.reason = reason


def _warn(reason: str) -> None:
    _logger.warning("%s: stopping as soon as possible; a second signal stops at once", reason)


@contextmanager
def stopping(announce: Callable[[str], object] = _warn) -> Iterator[StopRequest]:
    """Inside, the first SIGINT or SIGTERM only sets the request; a second one acts at once.

    ``announce`` is called with the first signal's name, from its handler: whoever waits at the
    terminal sees at once that the signal was heard. At the first signal the handlers found before
    come back, so the second does what it did without this manager (KeyboardInterrupt, or the end
    of the process). Handlers always come back at exit. A signal that was ignored before
    (``nohup``, a shell's background job) stays ignored. Outside the main thread Python allows no
    handlers: there the request stays False.
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
        reason = signal.Signals(number).name
        request.ask(reason)
        restore()
        try:
            announce(reason)
        except (OSError, RuntimeError):
            # The terminal is gone, or the signal came in the middle of another write to it, which
            # Python does not allow to be re-entered: the run must save itself all the same.
            return

    try:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, on_signal)
        yield request
    finally:
        restore()


@contextmanager
def noticing(stop: StopRequest, *modules: nn.Module) -> Iterator[None]:
    """Inside, the next forward of one of ``modules`` raises ``StopNow`` once a stop is asked for.

    A measurement can take hours, and its forwards are the one thing that is known of it.
    """

    def check(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        if stop:
            raise StopNow

    hooks = [module.register_forward_pre_hook(check) for module in dict.fromkeys(modules)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
