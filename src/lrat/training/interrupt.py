"""Ctrl-C and SIGTERM as a request that is answered between two steps."""

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeAlias

from torch import nn

from lrat.errors import SettingError

_logger = logging.getLogger(__name__)
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
PLANNED, SIGNALLED = 1, 2
"""How urgent a stop is; 0: none is asked for."""
Handler: TypeAlias = Callable[[int, FrameType | None], Any] | int | None


class StopNow(BaseException):
    """Leaves a measurement that ``noticing`` watches.

    No ``Exception``: a measure that catches those of its attacks or its model lets it pass.
    """


class StopRequest:
    """Whether somebody asked the run to stop, and by what: a signal, or the end of its time."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.urgency = 0

    def __bool__(self) -> bool:
        return self.reason is not None

    def ask(self, reason: str, *, urgency: int = SIGNALLED) -> None:
        """Ask; what is more urgent comes instead of what was asked before."""
        if urgency > self.urgency:
            self.reason, self.urgency = reason, urgency


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
def stopping_after(minutes: float | None, stop: StopRequest) -> Iterator[None]:
    """Inside, ``stop`` is asked for after so many minutes; None: never. Raises ``SettingError``."""
    if minutes is None:
        yield
        return
    if not 0 < minutes <= threading.TIMEOUT_MAX / 60:
        raise SettingError(f"max_minutes={minutes!r}: give the run some time, above 0 minutes")
    reason = f"its limit of {minutes:g} minutes"
    timer = threading.Timer(60 * minutes, lambda: stop.ask(reason, urgency=PLANNED))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


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
