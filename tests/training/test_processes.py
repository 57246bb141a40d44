"""Several processes come to the weights and records of one."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from lrat.errors import RunFolderError
from lrat.experiments.launching import Spread, in_processes
from training.together import EPOCHS, STEPS, AllScenarios, Apart, Outcome, alone, scenarios

pytestmark = pytest.mark.xdist_group("processes")
EQUAL = [name for name, scenario in scenarios().items() if not scenario.normalised]


@pytest.fixture(scope="module")
def reference() -> dict[str, Outcome]:
    return alone()


@pytest.fixture(scope="module", params=[2, 4])
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
        for key, value in theirs.items():
            scale = value.abs().max()
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


def test_with_batch_statistics_all_processes_are_one_model_near_that_of_one_process(
    together: Mapping[str, Any], reference: Mapping[str, Outcome]
) -> None:
    """Each normalises by its own share: a difference, and a small one."""
    assert together["all are the same model"]
    found, expected = together["batch statistics"], reference["batch statistics"]
    assert not torch.equal(found.weights["1.weight"], expected.weights["1.weight"])
    difference = found.weights["1.weight"] - expected.weights["1.weight"]
    assert difference.norm() < 0.5 * expected.weights["1.weight"].norm()


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


def test_processes_that_find_other_checkpoints_are_refused(tmp_path: Path) -> None:
    said = "^process 2 of 2 does not find the checkpoints that the first one does: choose a folder"
    with pytest.raises(RunFolderError, match=said):
        in_processes(Apart(folder=str(tmp_path)), Spread(device="cpu", devices=2))
