"""The attack's view of a model: the mode of each module is restored, also after errors."""

import pytest
from torch import nn

from lrat.errors import ModelError
from lrat.modes import evaluating, training_modes


def network() -> nn.Module:
    """In training mode, but for a BatchNorm that its user froze."""
    model = nn.Sequential(nn.Sequential(nn.BatchNorm1d(3), nn.Dropout()), nn.BatchNorm1d(3))
    model.train()
    model[1].eval()
    return model


def modes(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_every_module_is_in_eval_mode_inside_and_as_it_was_after() -> None:
    model = network()
    before = modes(model)
    assert any(before)
    assert not all(before)
    with evaluating(model):
        assert not any(modes(model))
    assert modes(model) == before


def test_modes_come_back_after_an_error() -> None:
    model = network()
    before = modes(model)
    with pytest.raises(RuntimeError, match="in the middle"), evaluating(model):
        raise RuntimeError("in the middle")
    assert modes(model) == before


def test_modes_come_back_when_the_code_inside_changes_them() -> None:
    model = network()
    before = modes(model)
    with evaluating(model):
        model.train()
    assert modes(model) == before


def test_nested_views_restore_in_turn() -> None:
    model = network()
    before = modes(model)
    with evaluating(model):
        with evaluating(model):
            pass
        assert not any(modes(model))
    assert modes(model) == before


class Noisy(nn.Module):
    """Does something in ``train`` that no flag tells."""

    on = True

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def train(self, mode: bool = True) -> "Noisy":
        self.on = mode
        return super().train(mode)


class Merging(nn.Module):
    """The same by ``eval``."""

    on = True

    def eval(self) -> "Merging":
        self.on = False
        return super().eval()

    def train(self, mode: bool = True) -> "Merging":
        self.on = mode or self.on
        return super().train(mode)


@pytest.mark.parametrize("kind", [Noisy, Merging])
def test_overrides_of_train_and_eval_run_in_both_directions(kind: type[nn.Module]) -> None:
    switch = kind()
    model = switch if kind is Merging else nn.Sequential(switch, nn.Dropout())
    before = modes(model.train())
    with evaluating(model):
        assert not switch.on
    assert switch.on
    assert modes(model) == before
    with evaluating(model.eval()):
        model.train()
        assert switch.on
    assert not switch.on
    with training_modes(model):
        assert switch.on
    assert not switch.on


def test_a_switch_that_was_off_in_a_training_model_is_off_again() -> None:
    switch = Noisy()
    model = nn.Sequential(switch, nn.Dropout()).train()
    switch.eval()
    switch.norm.train()
    before = modes(model)
    with evaluating(model):
        assert not any(modes(model))
    assert not switch.on
    assert modes(model) == before
    with training_modes(model):
        assert modes(model) == before


def test_what_an_override_raises_is_one_line_and_modes_come_back() -> None:
    class Refusing(Noisy):
        def train(self, mode: bool = True) -> Noisy:
            if not mode:
                raise ValueError("no eval\nhere")
            return super().train(mode)

    model = nn.Sequential(nn.Dropout(), Refusing()).train()
    before = modes(model)
    with pytest.raises(ModelError, match="fails: ValueError: no eval here"):
        evaluating(model).__enter__()
    assert modes(model) == before


def test_a_model_that_cannot_switch_has_its_flags_set() -> None:
    class Exported(nn.Module):
        def train(self, mode: bool = True) -> nn.Module:
            raise NotImplementedError

    model = Exported()
    with evaluating(model):
        assert not model.training
    assert model.training


def test_a_model_in_eval_mode_is_left_alone() -> None:
    class Counting(Noisy):
        calls = 0

        def train(self, mode: bool = True) -> Noisy:
            Counting.calls += 1
            return super().train(mode)

    model = nn.Sequential(Counting()).eval()
    calls = Counting.calls
    with evaluating(model), evaluating(model):
        pass
    assert Counting.calls == calls
