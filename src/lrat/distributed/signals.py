"""Signals that end a process: as a request that is answered between two steps, or at once."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeAlias

from lrat.errors import SettingError

_logger = logging.getLogger(__name__)
PLANNED, SIGNALLED = 1, 2
"""How urgent a request to stop is; 0: there is none."""
SAME_WITHIN_SECONDS = 2.0
"""A signal that comes again so soon is the same one: Ctrl-C reaches the processes of torchrun, and
torchrun, which hands it on to them."""
Handler: TypeAlias = Callable[[int, FrameType | None], Any] | int | None

_SECONDS_TO_LEAVE = 3.0

URGENT = (signal.SIGINT, signal.SIGTERM)
"""A second one of these ends the process at once."""
_OTHERS = tuple(
    getattr(signal, name)
    for name in ("SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)  # not on Windows
)
"""A terminal that closes and a scheduler send these, several times where they like: a shell hands
SIGHUP on, the system sends SIGXCPU every second. They ask once."""
SIGNALS = (*URGENT, *_OTHERS)


class StopRequest:
    """Whether the run is to stop, and why: a signal, or the end of its time."""

    def __init__(self) -> None:
        self.reason: str | None = None
        self.urgency = 0

    def __bool__(self) -> bool:
        return self.reason is not None

    def ask(self, reason: str, *, urgency: int = SIGNALLED) -> None:
        """Request a stop; a more urgent request replaces the one before."""
        if urgency > self.urgency:
            self.reason, self.urgency = reason, urgency


def _warn(reason: str) -> None:
    _logger.warning("%s: stopping as soon as possible; a second signal stops at once", reason)


@contextmanager
def stopping(announce: Callable[[str], object] = _warn) -> Iterator[StopRequest]:
    """Inside, the first of ``SIGNALS`` only sets the request; a second SIGINT or SIGTERM acts at
    once.

    ``announce`` is called with the first signal's name, from its handler, so that the
    terminal shows at once that the signal was received. At the first signal the former handlers
    come back, so the second does what it did without this manager (KeyboardInterrupt, or the end
    of the process). Handlers always come back at exit. A signal that was ignored before
    (``nohup``, a shell's background job) stays ignored, and SIGHUP and schedulers' signals that
    the user handles stay the user's. Outside the main thread Python allows no
    handlers: there the request stays False. Inside ``holding`` a signal that has come before is
    heard at once.
    """
    request, before = StopRequest(), _Handlers()

    def heard(reason: str) -> None:
        request.ask(reason)
        try:
            announce(reason)
        except (OSError, RuntimeError):
            # The terminal is gone, or the signal came in the middle of another write to it, which
            # Python does not allow to be re-entered: the run must save itself all the same.
            return

    def on_signal(number: int, frame: FrameType | None) -> None:
        if number in URGENT:
            before.restore(*URGENT)
        heard(signal.Signals(number).name)

    held = [each for each in map(signal.getsignal, SIGNALS) if isinstance(each, HeldSignal)]
    if held and _in_main_thread():
        with held[0].answered_by(heard):
            yield request
        return
    try:
        before.replace(on_signal)
        yield request
    finally:
        before.restore(*SIGNALS)


@contextmanager
def holding() -> Iterator[None]:
    """Inside, the first of ``SIGNALS`` waits for the ``stopping`` that begins or goes on inside.

    It is for a process that cannot be left in the middle, as others wait for it: all go on to where
    a stop is answered. A signal that comes when that is over changes nothing. A SIGINT or SIGTERM
    that follows another within ``SAME_WITHIN_SECONDS`` is the same one; a later one raises
    ``KeyboardInterrupt``.
    """
    present = signal.getsignal(signal.SIGTERM)
    if isinstance(present, HeldSignal) and _in_main_thread():  # that of a child process
        present.waits = True
        try:
            yield
        finally:
            present.waits = False
        return
    before = _Handlers()
    try:
        before.replace(HeldSignal(waits=True))
        yield
    finally:
        before.restore(*SIGNALS)


class HeldSignal:
    """A handler that keeps the first signal for a ``stopping``, as ``holding`` says.

    Where no ``stopping`` answers it and it does not ``wait`` for one, it raises
    ``KeyboardInterrupt``. ``name``: what the signal of a number is called.
    """

    def __init__(self, *, waits: bool, name: Callable[[int], str] | None = None) -> None:
        self.waits = waits
        self.came = False
        self._name = name or (lambda number: signal.Signals(number).name)
        self._urgent_at: float | None = None
        self._unanswered: str | None = None
        self._answer: Callable[[str], object] | None = None

    def __call__(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number in URGENT:
            if self._urgent_at is None:
                self._urgent_at = now
            elif now - self._urgent_at > SAME_WITHIN_SECONDS:
                raise KeyboardInterrupt
        if self.came:
            return
        self.came = True
        if self._answer is not None:
            self._answer(self._name(number))
        elif self.waits:
            self._unanswered = self._name(number)
        else:
            raise KeyboardInterrupt

    @contextmanager
    def answered_by(self, answer: Callable[[str], object]) -> Iterator[None]:
        """Inside, ``answer`` is called with the signal's name: at once if it has come already."""
        self._answer = answer
        missed, self._unanswered = self._unanswered, None
        if missed is not None:
            answer(missed)
        try:
            yield
        finally:
            self._answer = None


class _Handlers:
    """The handlers that this process had before."""

    def __init__(self) -> None:
        self._previous: dict[signal.Signals, Handler] = {}

    def replace(self, handler: Callable[[int, FrameType | None], object]) -> None:
        """By ``handler``, for the signals that nobody ignores, nor handles in their own way."""
        for number in SIGNALS if _in_main_thread() else ():
            present = signal.getsignal(number)
            is_free = present in (signal.SIG_DFL, signal.default_int_handler, interrupt_once)
            if is_free or (number in URGENT and present is not signal.SIG_IGN):
                self._previous[number] = signal.signal(number, handler)

    def restore(self, *numbers: signal.Signals) -> None:
        for number in numbers:
            if number in self._previous:
                handler = self._previous.pop(number)
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _in_main_thread() -> bool:
    """Where alone Python allows handlers."""
    return threading.current_thread() is threading.main_thread()


@contextmanager
def stopping_after(minutes: float | None, stop: StopRequest) -> Iterator[None]:
    """Inside, ``stop`` is requested after so many minutes; None: never. Raises ``SettingError``."""
    if minutes is None:
        yield
        return
    check_minutes(minutes)
    reason = f"its limit of {minutes:g} minutes"
    timer = threading.Timer(60 * minutes, lambda: stop.ask(reason, urgency=PLANNED))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def check_minutes(minutes: float | None, *, name: str = "max_minutes=") -> None:
    """Refuse a limit that is none, or that no clock can wait for."""
    if minutes is None:
        return
    if not minutes > 0:
        raise SettingError(f"{name}{minutes:g}: give the run some time, above 0 minutes")
    longest = int(threading.TIMEOUT_MAX / 60)
    if minutes > longest:
        raise SettingError(
            f"{name}{minutes:g}: no clock runs for more than {longest} minutes; leave it out for a "
            "run without a limit"
        )


@contextmanager
def left_at_the_second_signal() -> Iterator[None]:
    """Inside, a second SIGINT or SIGTERM ends this process with status 130, whatever it does.

    Python's handlers run between two steps of the main thread, which waits in the middle of one
    when another process does not answer. Where they do run they have some seconds to come first.
    """
    if os.name == "nt" or threading.current_thread() is not threading.main_thread():
        yield
        return
    ear, mouth = os.pipe()
    os.set_blocking(mouth, False)
    before = signal.set_wakeup_fd(mouth, warn_on_full_buffer=False)
    listener = threading.Thread(target=_listen, args=(ear,), daemon=True)
    try:
        listener.start()
        yield
    finally:
        signal.set_wakeup_fd(before)
        os.close(mouth)
        listener.join()
        os.close(ear)


def _listen(ear: int) -> None:
    """Until the other end closes; of each signal its number comes."""
    first: float | None = None
    while number := os.read(ear, 1):
        now = time.monotonic()
        if number[0] not in URGENT:
            continue
        if first is None:
            first = now
        elif now - first > SAME_WITHIN_SECONDS:
            last = threading.Timer(_SECONDS_TO_LEAVE, _leave)
            last.daemon = True
            last.start()
            break


def _leave() -> None:
    _logger.warning("stopped at once, in the middle of a step; the same command continues")
    os._exit(130)


def interrupt_once(number: int, frame: FrameType | None) -> None:
    """A handler that raises ``KeyboardInterrupt``, and keeps those of ``SIGNALS`` that only ask
    from interrupting what is then cleaned up."""
    for each in _OTHERS:
        if signal.getsignal(each) is interrupt_once:
            signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt
