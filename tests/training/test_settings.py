import pytest

from lrat.errors import ModelError, SettingError
from lrat.training import Optimisation
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


def test_a_model_with_nothing_to_train_is_refused() -> None:
    with pytest.raises(ModelError, match="requires a gradient"):
        Optimisation(epochs=1).optimizer(network().requires_grad_(False))
