"""Schedules against PyTorch's own, against arithmetic, and what they refuse."""

import math
import warnings
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lrat.errors import SettingError
from lrat.training import Optimisation
from lrat.training.schedules import (
    NAMES,
    Cosine,
    OneCycle,
    Piecewise,
    Schedule,
    WarmUp,
    paper_drops,
    schedule,
)
from training.toys import run

EPOCHS, STEPS = 5, 8
TOTAL = EPOCHS * STEPS


def theirs(make: Any, *, lr: float = 0.4) -> list[float]:
    """The rates of ``TOTAL`` steps under one of PyTorch's schedulers, stepped after each batch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    scheduler = make(optimizer)
    rates = []
    for _ in range(TOTAL):
        rates.append(optimizer.param_groups[0]["lr"])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no optimiser stepped before it
            scheduler.step()
    return rates


def ours(made: Schedule, *, lr: float = 0.4, places: int = TOTAL) -> list[float]:
    """The rates of ``TOTAL`` steps at places 0 ... EPOCHS, ``places`` of them apart from 0."""
    return [made(lr, EPOCHS * step / places, EPOCHS) for step in range(TOTAL)]


@pytest.mark.parametrize("final", [0.0, 0.05, 1.0])
def test_cosine_is_cosine_annealing(final: float) -> None:
    lr_scheduler = torch.optim.lr_scheduler
    expected = theirs(lambda o: lr_scheduler.CosineAnnealingLR(o, TOTAL, eta_min=0.4 * final))
    assert ours(Cosine(final=final)) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", ["cosine", "linear"])
@pytest.mark.parametrize(("peak", "div", "final_div"), [(0.3, 25.0, 1e4), (0.5, 4.0, 10.0)])
def test_one_cycle_is_one_cycle(shape: str, peak: float, div: float, final_div: float) -> None:
    """PyTorch's last step stands at the end; its rise ends at step pct_start * TOTAL - 1."""
    expected = theirs(
        lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(
            optimizer,
            0.4,
            total_steps=TOTAL + 1,  # it refuses to be stepped after its last
            pct_start=(peak * TOTAL + 1) / (TOTAL + 1),
            anneal_strategy="cos" if shape == "cosine" else "linear",
            cycle_momentum=False,
            div_factor=div,
            final_div_factor=final_div,
        )
    )
    made = OneCycle(peak=peak, div_factor=div, final_div_factor=final_div, shape=shape)
    assert ours(made) == pytest.approx(expected, rel=1e-9)
    assert made(0.4, EPOCHS, EPOCHS) == pytest.approx(0.4 / div / final_div)


@pytest.mark.parametrize("lasts", [{"epochs": 1.5}, {"fraction": 0.3}])
def test_warm_up_is_linear_and_multiplies(lasts: dict[str, float]) -> None:
    lr_scheduler = torch.optim.lr_scheduler
    expected = theirs(
        lambda optimizer: lr_scheduler.ChainedScheduler(
            [
                lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=12),
                lr_scheduler.CosineAnnealingLR(optimizer, TOTAL),
            ]
        )
    )
    made = WarmUp(schedule=Cosine(), start=0.1, **lasts)
    assert ours(made) == pytest.approx(expected, rel=1e-6)


def test_drops_stay_at_their_epochs_behind_a_warm_up() -> None:
    made = WarmUp(schedule=Piecewise({0.6: 0.1}), epochs=2, start=0.0)
    rates = [made(1.0, position, 10) for position in (0, 0.5, 1, 2, 4.99, 5)]
    assert rates == pytest.approx([0, 0.25, 0.5, 1, 1, 0.1])


def before_positions(lr: float, epoch: int, length: int) -> float:
    """The rate of an epoch as it was computed when it moved between epochs alone."""
    for fraction, factor in {0.6: 0.1, 0.9: 0.1}.items():
        if epoch + 1 >= max(math.ceil(fraction * length - 1e-9), 2):
            lr *= factor
    return lr


@given(lr=st.floats(1e-4, 1), length=st.integers(1, 200), done=st.floats(0, 1, exclude_max=True))
def test_drops_are_the_papers_to_the_bit_anywhere_in_an_epoch(
    lr: float, length: int, done: float
) -> None:
    settings = Optimisation(epochs=length, lr=lr)
    for epoch in range(0, length, 1 + length // 10):
        position = min(epoch + done, math.nextafter(epoch + 1, 0))
        assert settings.learning_rate(position) == before_positions(lr, epoch, length)


MADE: list[Schedule] = [
    Piecewise(paper_drops()),
    Cosine(final=0.1),
    OneCycle(),
    OneCycle(shape="linear", peak=0.99),
    WarmUp(schedule=OneCycle(), fraction=1.0),
    WarmUp(schedule=Cosine(), epochs=7.0, start=0.0),
]


@given(made=st.sampled_from(MADE), share=st.floats(0, 1), length=st.integers(1, 300))
def test_a_rate_lies_between_nothing_and_the_full_one(
    made: Schedule, share: float, length: int
) -> None:
    assert 0 <= made(0.3, share * length, length) <= 0.3 * (1 + 1e-12)


def test_the_rate_moves_within_an_epoch() -> None:
    """Four steps of 8, 8, 8 and 2 images: each begins where the images before it end."""
    cycle = Cosine()
    _, result = run(epochs=2, schedule=cycle, lr=0.1)
    last = [cycle(0.1, epoch + 24 / 26, 2) for epoch in (0, 1)]
    assert [record.lr for record in result.records] == pytest.approx(last)


def test_a_schedule_of_ones_own_is_a_function() -> None:
    def halved(lr: float, position: float, length: int) -> float:
        return lr * 0.5 ** int(position)

    _, result = run(epochs=3, schedule=halved, lr=0.2)
    assert [record.lr for record in result.records] == pytest.approx([0.2, 0.1, 0.05])
    broken = Optimisation(epochs=2, schedule=lambda lr, position, length: -lr)
    with pytest.raises(SettingError, match=r"gave -0.1 at epoch 0: must be >= 0$"):
        broken.learning_rate(0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Piecewise({60.0: 0.1}),
        lambda: Cosine(final=1.1),
        lambda: Cosine(final=math.nan),
        lambda: OneCycle(peak=1.0),
        lambda: OneCycle(div_factor=0.5),
        lambda: OneCycle(final_div_factor=math.inf),
        lambda: WarmUp(schedule=Cosine()),
        lambda: WarmUp(schedule=Cosine(), epochs=1, fraction=0.1),
        lambda: WarmUp(schedule=Cosine(), epochs=0),
        lambda: WarmUp(schedule=Cosine(), fraction=1.5),
        lambda: WarmUp(schedule=Cosine(), epochs=1, start=-0.1),
        lambda: Optimisation(epochs=1, schedule=Cosine(), drops={0.5: 0.1}),
    ],
)
def test_refuses_in_one_line(make: Any) -> None:
    with pytest.raises(SettingError, match=r"^\w+\(.*\): [^\n]+$"):
        make()


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Piecewise({0.5: math.inf}), "a finite number > 0"),
        (lambda: OneCycle(div_factor=math.inf), "div_factor=inf): must be a finite number >= 1"),
        (
            lambda: WarmUp(schedule=Cosine(), epochs=math.inf),
            "epochs=inf): must be a finite number > 0",
        ),
        (
            lambda: WarmUp(schedule=Cosine(), fraction=math.inf),
            "fraction=inf): must be a finite number > 0",
        ),
    ],
)
def test_infinity_is_told_what_it_lacks(make: Any, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        make()
    assert said in str(caught.value)


def test_by_name() -> None:
    assert schedule("piecewise", {}, {0.5: 0.2}) == Piecewise({0.5: 0.2})
    assert schedule("piecewise", {}, None) == Piecewise(paper_drops())
    assert schedule("cosine", {"final": 0.1}, None) == Cosine(final=0.1)
    cycle = schedule("one-cycle", {"peak": 0.4, "warm_up_fraction": 0.1}, None)
    assert cycle == WarmUp(schedule=OneCycle(peak=0.4), fraction=0.1)
    warmed = schedule("piecewise", {"warm_up_epochs": 2, "warm_up_start": 0.5}, {0.5: 0.2})
    assert warmed == WarmUp(schedule=Piecewise({0.5: 0.2}), epochs=2, start=0.5)
    assert all(isinstance(schedule(name, {}, None), Schedule) for name in NAMES)


@pytest.mark.parametrize(
    ("name", "settings", "drops", "said"),
    [
        ("cosin", {}, None, "unknown schedule 'cosin': did you mean 'cosine'"),
        ("cosine", {"finl": 1}, None, "unknown setting of a schedule 'finl': did you mean 'final'"),
        ("cosine", {"peak": 0.3}, None, "schedule.peak does nothing in 'cosine', which uses final"),
        ("piecewise", {"final": 0.3}, None, "schedule.final does nothing in 'piecewise'"),
        ("cosine", {"final": "low"}, None, "schedule.final='low': must be a finite number"),
        ("one-cycle", {}, {0.5: 0.1}, "do nothing in the schedule 'one-cycle'"),
        ("cosine", {"warm_up_start": 0.1}, None, "does nothing without warm_up_epochs"),
    ],
)
def test_what_does_nothing_is_refused(
    name: str, settings: dict[str, Any], drops: dict[float, float] | None, said: str
) -> None:
    with pytest.raises(SettingError, match=f"^[^\n]*{said}[^\n]*$"):
        schedule(name, settings, drops)
