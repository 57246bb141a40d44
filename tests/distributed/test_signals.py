import logging
import os
import signal
import threading

import pytest
import torch
from torch import nn

from lrat.distributed import signals
from lrat.distributed.signals import StopRequest, holding, stopping
from lrat.errors import StopNow
from lrat.training.watch import noticing

ASKING = [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU]
SIGNALS = [signal.SIGINT, signal.SIGTERM, *ASKING]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_is_a_request(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    with stopping() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop
        assert stop.reason == number.name
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_the_second_signal_acts_at_once() -> None:
    with stopping() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", ASKING)
def test_what_a_terminal_or_a_scheduler_sends_asks_once(number: signal.Signals) -> None:
    with stopping() as stop:
        for _ in range(3):
            os.kill(os.getpid(), number)
        assert stop.reason == number.name
        os.kill(os.getpid(), signal.SIGINT)  # is the first of those that act at once
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("number", ASKING)
def test_held_it_asks_once_too(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "SAME_WITHIN_SECONDS", -1.0)
    with holding(), stopping() as stop:
        for _ in range(3):
            os.kill(os.getpid(), number)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.reason == number.name
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize("number", ASKING)
def test_a_handler_of_the_user_stays(number: signal.Signals) -> None:
    heard = []
    before = signal.signal(number, lambda number, frame: heard.append(number))
    try:
        with stopping() as stop:
            os.kill(os.getpid(), number)
            assert not stop
    finally:
        signal.signal(number, before)
    assert heard == [number]


def test_handlers_come_back_after_an_error() -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    inside = []

    def fail() -> None:
        with stopping():
            inside.extend(signal.getsignal(each) for each in SIGNALS)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert all(handler not in before for handler in inside)
    assert [signal.getsignal(each) for each in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_an_ignored_signal_stays_ignored(number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stopping() as stop:
            os.kill(os.getpid(), number)
            assert not stop
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)


def test_another_thread_gets_no_handlers_and_no_error() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def inside() -> None:
        with stopping() as stop:
            seen.append((bool(stop), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == [(False, before)]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_announced_at_once(number: signal.Signals) -> None:
    heard = []
    with stopping(heard.append):
        os.kill(os.getpid(), number)
        assert heard == [number.name]


def test_without_an_announcer_a_signal_is_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), stopping():
        os.kill(os.getpid(), signal.SIGINT)
    assert caplog.messages == [
        "SIGINT: stopping as soon as possible; a second signal stops at once"
    ]


@pytest.mark.parametrize("error", [BrokenPipeError, RuntimeError("reentrant call")])
def test_an_announcement_that_cannot_be_shown_stops_nothing(error: Exception) -> None:
    def fail(reason: str) -> None:
        raise error

    with stopping(fail) as stop:
        os.kill(os.getpid(), signal.SIGINT)
        assert stop


def test_a_forward_notices_the_request_and_the_hooks_are_gone_afterwards() -> None:
    model, other = nn.Identity(), nn.Identity()
    stop = StopRequest()
    with noticing(stop, model, model, other):
        assert model(torch.ones(1)) == 1
        stop.ask("SIGINT")
        for module in (model, other):
            with pytest.raises(StopNow):
                module(torch.ones(1))
    assert not model._forward_pre_hooks
    assert model(torch.ones(1)) == 1


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_that_came_before_training_is_heard_when_it_begins(number: signal.Signals) -> None:
    before = [signal.getsignal(each) for each in SIGNALS]
    heard: list[str] = []
    with holding():
        os.kill(os.getpid(), number)
        with stopping(heard.append) as stop:
            assert (stop.reason, heard) == (number.name, [number.name])
    assert [signal.getsignal(each) for each in SIGNALS] == before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_held_signal_is_heard_while_training_goes_on(number: signal.Signals) -> None:
    heard: list[str] = []
    with holding(), stopping(heard.append) as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert (stop.reason, heard) == (number.name, [number.name])


def test_a_held_signal_that_comes_after_training_changes_nothing() -> None:
    with holding():
        with stopping() as stop:
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        assert not stop


@pytest.mark.parametrize("before", [True, False])
def test_a_held_signal_that_comes_twice_is_one_and_a_later_one_stops_at_once(
    before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(signals.time, "monotonic", lambda: now)
    with holding():
        if before:
            os.kill(os.getpid(), signal.SIGTERM)
        with stopping() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
            now += signals.SAME_WITHIN_SECONDS / 2
            os.kill(os.getpid(), signal.SIGINT)
            assert stop.reason == "SIGTERM"
            now += signals.SAME_WITHIN_SECONDS
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), signal.SIGTERM)
