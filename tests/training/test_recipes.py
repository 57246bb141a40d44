"""What the settings of serious recipes do together, in runs of the loop."""

from typing import Any

import pytest
import torch

from lrat.methods import Simulated, lrat, sat, smoothed, trades
from lrat.objectives import Objective
from lrat.threat import Linf
from lrat.training.schedules import OneCycle, WarmUp
from training.toys import ToySource, Weighted, assert_same, network, run, weights

SIMULATED = Simulated(threat=Linf(epsilon=0.1), steps=2, saa_steps=2, saa_targets=1)
CYCLE = WarmUp(schedule=OneCycle(), fraction=0.1)

RECIPES: dict[str, tuple[Objective, dict[str, Any]]] = {
    "trades": (trades(SIMULATED), {"clip": 1.0}),
    "trades, smoothed": (smoothed(trades(SIMULATED), 0.1), {"schedule": CYCLE}),
    "sat, one-cycle": (sat(SIMULATED), {"schedule": CYCLE, "decay": "weights"}),
    "sat, average": (sat(SIMULATED), {"ema": 0.8, "clip": 0.1}),
    "lrat, all": (
        smoothed(lrat(SIMULATED), 0.2),
        {"schedule": CYCLE, "ema": 0.5, "ema_warm_up": False, "clip": 0.5, "decay": "weights"},
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_small_batches_accumulated_equal_one_large_batch(name: str) -> None:
    """Rates, the norm that is clipped and the average are those of steps, not of batches."""
    objective, settings = RECIPES[name]
    found = []
    for size, accumulate in [(8, 1), (4, 2), (2, 4)]:
        model, result = run(
            model=network(normalised=False),
            source=ToySource(size=size),
            objective=objective,
            accumulate=accumulate,
            epochs=2,
            **settings,
        )
        found.append((weights(model), result))
    (reference, expected), *others = found
    for own, result in others:
        assert [each.lr for each in result.records] == [each.lr for each in expected.records]
        for values, wanted in ((own, reference), (result.weights, expected.weights)):
            for key, value in wanted.items():
                torch.testing.assert_close(values[key], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("objective", [sat(SIMULATED), lrat(SIMULATED), trades(SIMULATED)])
def test_all_of_it_off_is_the_run_as_it_was(objective: Objective) -> None:
    plain, _ = run(objective=objective, epochs=2)
    off, _ = run(
        objective=smoothed(objective, 0.0),
        epochs=2,
        schedule=None,
        decay="all",
        ema=None,
        precision="float32",
        clip=None,
    )
    assert_same(off.state_dict(), plain.state_dict())


@pytest.mark.parametrize("clip", [1e6, 0.01])
def test_clipping_goes_by_the_gradient_of_the_whole_step(clip: float) -> None:
    """Against PyTorch's own: one step by hand from the gradient of the mean loss."""
    model = network(normalised=False)
    start = weights(model)
    settings: dict[str, Any] = {"lr": 0.5, "momentum": 0.0, "weight_decay": 0.0, "epochs": 1}
    settings["objective"] = Weighted(drift=0.0)
    free = {**settings, "source": ToySource(size=26)}
    run(model=model, **free)
    step = {name: weights(model)[name] - start[name] for name in start}
    norm = torch.cat([value.flatten() for value in step.values()]).norm() / 0.5
    clipped = network(normalised=False)
    run(model=clipped, clip=clip, accumulate=4, source=ToySource(size=7), **settings)
    scale = min(1.0, clip / float(norm))
    for name, value in clipped.state_dict().items():
        expected = start[name] + scale * step[name]
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)
    assert (scale < 1) == (clip < 1)
