"""The attack's view of a model: every module's own mode comes back, whatever happens inside."""

import pytest
from torch import nn

from lrat.acceleration import evaluating


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
