import pytest

from experiments.commands import python
from lrat.errors import ModelError, SettingError
from lrat.training import Optimisation
from lrat.training.schedules import Cosine
from training.toys import network


def test_the_60th_epoch_of_100_is_the_first_at_the_lower_rate() -> None:
    settings = Optimisation(epochs=100)
    rates = [settings.learning_rate(epoch) for epoch in range(100)]
    assert rates == pytest.approx([0.1] * 59 + [0.01] * 30 + [0.001] * 11)


def test_drops_and_progress_follow_the_schedule_not_the_epochs_trained() -> None:
    settings = Optimisation(epochs=66, schedule_epochs=100)
    assert settings.learning_rate(58) == pytest.approx(0.1)
    assert settings.learning_rate(59) == pytest.approx(0.01)
    assert settings.progress(30) == 0.3


@pytest.mark.parametrize(
    ("epochs", "rates"),
    [(1, [1.0]), (2, [1.0, 0.01]), (5, [1.0, 1.0, 0.1, 0.1, 0.01])],
)
def test_a_short_schedule_starts_at_the_full_rate(epochs: int, rates: list[float]) -> None:
    settings = Optimisation(epochs=epochs, lr=1.0)
    assert [settings.learning_rate(epoch) for epoch in range(epochs)] == pytest.approx(rates)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"epochs": 5, "schedule_epochs": 4},
        {"epochs": 1, "lr": 0.0},
        {"epochs": 1, "lr": float("nan")},
        {"epochs": 1, "momentum": 1.0},
        {"epochs": 1, "momentum": 0.0, "nesterov": True},
        {"epochs": 1, "weight_decay": -1.0},
        {"epochs": 1, "drops": {60.0: 0.1}},
        {"epochs": 1, "drops": {0.5: 0.0}},
        {"epochs": 1, "clip": 0.0},
        {"epochs": 1, "accumulate": 0},
    ],
)
def test_refuses_in_one_line(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingError, match=r"^(Optimisation|Piecewise)\(.*\): [^\n]*$"):
        Optimisation(**wrong)


@pytest.mark.parametrize("value", [float("inf"), 0.0])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("lr", "must be a finite number > 0"),
        ("clip", "must be a finite number > 0"),
    ],
)
def test_infinity_is_told_what_it_lacks(name: str, value: float, said: str) -> None:
    with pytest.raises(SettingError) as caught:
        Optimisation(**{"epochs": 1, name: value})
    assert str(caught.value).startswith(f"Optimisation({name}={value}): {said}")


def test_unknown_words_are_refused() -> None:
    """In a process without the tests' type checker, which refuses them too."""
    said = python("""
from lrat.errors import SettingError
from lrat.training import Optimisation

for name in ("decay", "precision", "non_finite"):
    try:
        Optimisation(epochs=1, **{name: "x"})
    except SettingError as error:
        print(error)
""")
    assert said.splitlines() == [
        "Optimisation(decay='x'): must be 'all' or 'weights', as decay='all'",
        "Optimisation(precision='x'): must be 'bf16-mixed' or 'float32', as precision='bf16-mixed'",
        "Optimisation(non_finite='x'): must be 'skip' or 'stop', as non_finite='skip'",
    ]


def test_what_is_off_is_not_printed() -> None:
    """Folders of ``lrat.fit`` tell by this text whether they hold the same run."""
    assert repr(Optimisation(epochs=3)) == (
        "Optimisation(epochs=3, schedule_epochs=None, lr=0.1, momentum=0.9, nesterov=False, "
        "weight_decay=0.0002, drops={0.6: 0.1, 0.9: 0.1}, clip=None, accumulate=1, seed=0)"
    )
    on = Optimisation(epochs=3, schedule=Cosine(), ema=0.9, decay="weights", precision="bf16-mixed")
    assert repr(on).endswith(
        "seed=0, schedule=Cosine(final=0.0), decay='weights', ema=0.9, precision='bf16-mixed')"
    )


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ModelError, match="requires a gradient"):
        Optimisation(epochs=1).optimizer(network().requires_grad_(False))
