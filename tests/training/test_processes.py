"""Several processes come to the weights and records of one."""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch

from lrat.distributed.group import SingleProcess
from lrat.distributed.launch import Spread, in_processes
from lrat.errors import MemoryShortError
from training.together import (
    EPOCHS,
    STEPS,
    AllScenarios,
    InShares,
    Outcome,
    Short,
    alone,
    scenarios,
    trained,
)

pytestmark = pytest.mark.xdist_group("processes")
EQUAL = [name for name, scenario in scenarios().items() if not scenario.normalised]


@pytest.fixture(scope="module")
def reference() -> dict[str, Outcome]:
    return alone()


@pytest.fixture(scope="module", params=[2, 3])
def together(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp(f"{request.param}-processes")
    spread = Spread(device="cpu", devices=request.param, saves_itself=True)
    return in_processes(AllScenarios(folder=str(folder)), spread)


@pytest.mark.parametrize("name", EQUAL)
def test_weights_after_twenty_steps_are_those_of_one_process(
    together: Mapping[str, Any], reference: Mapping[str, Outcome], name: str
) -> None:
    found, expected = together[name], reference[name]
    assert sum(record.steps for record in found.records) <= STEPS * EPOCHS == 20
    for part in ("weights", "reported"):
        ours, theirs = getattr(found, part), getattr(expected, part)
        # Of the largest weight: a bias can be near 0 and still be a sum of larger gradients.
        scale = max(value.abs().max() for value in theirs.values())
        for key, value in theirs.items():
            assert (ours[key] - value).abs().max() <= 1e-6 * scale, (part, key)


@pytest.mark.parametrize("name", EQUAL)
def test_records_are_those_of_one_process(
    together: Mapping[str, Any], reference: Mapping[str, Outcome], name: str
) -> None:
    for found, expected in zip(together[name].records, reference[name].records, strict=True):
        for field in ("epoch", "lr", "steps", "images", "fallbacks", "skipped", "passes"):
            assert getattr(found, field) == getattr(expected, field), field
        for field in ("clean_accuracy", "robust_accuracy", "validation", "average"):
            assert getattr(found, field) == pytest.approx(getattr(expected, field)), field
        assert found.loss == pytest.approx(expected.loss, rel=1e-5)
        for term, values in expected.terms.items():
            assert found.terms[term] == pytest.approx(values, rel=1e-4, abs=1e-5)


def test_fallbacks_and_live_floors_did_happen(reference: Mapping[str, Outcome]) -> None:
    """Or the comparisons above say nothing about them."""
    assert any(record.fallbacks for record in reference["no weight in some"].records)
    dead, live = reference["batch, floor 0.1"], reference["batch, floor 4.0"]
    assert not torch.equal(dead.weights["1.weight"], live.weights["1.weight"])
    raw = [
        record.terms["pgd"]["weight_min"] + record.terms["weak"]["weight_min"]  # type: ignore[operator]
        for record in live.records
    ]
    assert min(raw) < 4.0


def test_with_batch_statistics_each_normalises_by_its_own_share(
    together: Mapping[str, Any], reference: Mapping[str, Outcome]
) -> None:
    """As one process does that takes the shares one after the other and makes one step of them."""
    assert together["all are the same model"]
    size, found = together["processes"], together["batch statistics"].weights
    scenario = scenarios()["batch statistics"]
    in_turn = replace(scenario, settings={"accumulate": size})
    expected = trained(in_turn, SingleProcess(), source=InShares(size)).weights
    for name in ("1.weight", "2.weight", "2.bias", "4.weight", "4.bias"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-5, atol=1e-6)
    whole = reference["batch statistics"].weights["1.weight"]
    assert not torch.allclose(found["1.weight"], whole, rtol=1e-3)


def test_one_that_is_asked_to_stop_stops_all_and_nothing_is_lost(
    together: Mapping[str, Any],
) -> None:
    reason = "stopped by a request to another process"
    place = r"(in epoch [12] after step [1-4]|after epoch 1)"
    assert re.match(f"{reason} {place}; saved in ", together["stopped"])
    whole, parts = together["batch, floor 0.1"], together["continued"]
    for name, value in whole.weights.items():
        assert torch.equal(parts.weights[name], value)
    assert parts.records == whole.records


def test_a_view_that_is_left_in_another_process_is_among_the_notices(
    together: Mapping[str, Any],
) -> None:
    first, *others = together["view left in the last"].records
    assert first.notices == ({"guard": "view", "text": "the view was left"},)
    assert not any(record.notices for record in others)


def test_a_step_that_is_not_finite_in_one_process_is_skipped_by_all(
    together: Mapping[str, Any],
) -> None:
    skipped = [record.skipped for record in together["not finite in one"].records]
    assert skipped == [0, 1, 0, 0, 0]


def test_memory_that_is_short_in_one_process_is_said_of_the_whole_batch() -> None:
    said = r"^a batch of 16 does not fit into the memory of cpu; the largest that does is 6: "
    with pytest.raises(MemoryShortError, match=said + "batch_size=4 with accumulate=4"):
        in_processes(Short(), Spread(device="cpu", devices=2))


def test_processes_that_find_other_checkpoints_are_refused(together: Mapping[str, Any]) -> None:
    said = f"process 2 of {together['processes']} does not find the checkpoints that the first one "
    assert together["apart"].startswith(f"{said}does: choose a folder")
