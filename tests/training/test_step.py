import copy
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

from lrat.attacks import PGD
from lrat.errors import NonFiniteError
from lrat.losses import cross_entropy
from lrat.objectives import Reweighted, Term
from lrat.threat import Linf
from lrat.training import Optimisation, Watch, train
from lrat.training.outcome import StepOutcome
from lrat.training.step import Stepper, step_randomness
from lrat.types import Batch
from lrat.weighting import Evidence
from training.toys import ToySource, Weighted, assert_same, data, network, run, weights


@pytest.mark.parametrize("clip", [None, 0.05])
def test_small_batches_accumulated_equal_one_large_batch(clip: float | None) -> None:
    results = []
    for size, accumulate in [(8, 1), (4, 2), (2, 4)]:
        model, result = run(
            model=network(normalised=False),
            source=ToySource(size=size),
            objective=Weighted(drift=0.0),
            accumulate=accumulate,
            clip=clip,
        )
        results.append((weights(model), result.records))
    (reference, records), *others = results
    assert records[0].steps == 4
    for found, found_records in others:
        for name, value in reference.items():
            torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
        for ours, theirs in zip(found_records, records, strict=True):
            assert ours.steps == theirs.steps
            assert ours.loss == pytest.approx(theirs.loss, rel=1e-5)
            assert ours.terms["noisy"] == pytest.approx(theirs.terms["noisy"], rel=1e-5)


def test_clipping_bounds_the_step() -> None:
    before = weights(network())
    model, _ = run(epochs=1, lr=1.0, momentum=0.0, weight_decay=0.0, clip=1e-3, drops={})
    names = [name for name, _ in model.named_parameters()]
    moved = torch.cat([(model.state_dict()[name] - before[name]).flatten() for name in names])
    assert 0 < moved.norm() <= 4 * 1e-3 * 1.001


def test_a_non_finite_loss_names_epoch_step_and_term() -> None:
    model = network()
    with pytest.raises(NonFiniteError, match=r"^epoch 2, step 2: the loss of term 'noisy'[^\n]*$"):
        run(model=model, objective=Weighted(break_at=26 + 8))
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """The weight of an image by its label: what ``weights`` says, else 0."""

    weights: dict[int, float]
    needs: ClassVar[frozenset[str]] = frozenset()

    def __call__(self, evidence: Evidence) -> torch.Tensor:
        return torch.tensor([self.weights.get(label, 0.0) for label in evidence.labels.tolist()])


def still(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return images


def one_step(
    weights_by_label: dict[int, float], size: int, normalization: str = "batch"
) -> tuple[dict[str, torch.Tensor], StepOutcome]:
    """Weights and outcome of one step over 6 images, labels 0 0 1 1 2 2, ``size`` at a time."""
    term = Term(name="mine", attack=still, weighting=Chosen(weights=weights_by_label))
    objective = Reweighted(terms=[term], normalization=normalization)
    model = network(normalised=False)
    settings = Optimisation(epochs=1, lr=0.5)
    images, labels = data(6).images, torch.tensor([0, 0, 1, 1, 2, 2])
    batches = [
        Batch(images=part, labels=truth, index=index)
        for part, truth, index in zip(
            images.split(size), labels.split(size), torch.arange(6).split(size), strict=True
        )
    ]
    with Stepper(model, model, objective, settings.optimizer(model), settings, {}) as stepper:
        outcome = stepper(batches, epoch=0, step=0)
    return weights(model), outcome


@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize(
    "given", [{0: 1.0}, {1: 2.0}, {2: 0.5}, {0: 1.0, 2: 3.0}, {1: 1.0, 2: 2.0}, {}], ids=str
)
def test_batches_without_weight_count_as_in_one_large_batch(
    given: dict[int, float], size: int
) -> None:
    """Uniform weights stand in only where no image of the whole step has weight."""
    reference, whole = one_step(given, 6)
    found, parts = one_step(given, size)
    assert whole.fallbacks == (not given)
    assert parts.fallbacks == whole.fallbacks
    torch.testing.assert_close(parts.loss, whole.loss)
    for name, value in reference.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)
    for kind, values in whole.terms["mine"].values.items():
        torch.testing.assert_close(parts.terms["mine"].values[kind], values)


@pytest.mark.parametrize("size", [1, 2, 6])
def test_an_instance_without_weight_falls_back_alone_in_any_split(size: int) -> None:
    reference, whole = one_step({1: 1.0}, 6, "instance")
    found, parts = one_step({1: 1.0}, size, "instance")
    assert whole.fallbacks == parts.fallbacks == 1
    for name, value in reference.items():
        torch.testing.assert_close(found[name], value, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("size", [2, 6])
@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (-0.5, "a weight of term 'mine' is -0.5: a weighting must return finite numbers >= 0"),
        (-math.inf, "a weight of term 'mine' is -inf: a weighting must return"),
        (math.nan, "the weight of term 'mine' became NaN or infinite: a weighting must return"),
        (math.inf, "the weight of term 'mine' became NaN or infinite: a weighting must return"),
    ],
)
def test_a_weight_that_is_none_is_named_before_the_update(
    weight: float, said: str, size: int
) -> None:
    with pytest.raises(NonFiniteError, match=f"^epoch 1, step 1: {said}") as caught:
        one_step({0: 0.5, 1: weight}, size)
    assert "\n" not in str(caught.value)


def test_attacks_use_the_view_refreshed_before_each_step() -> None:
    class Copy(nn.Module):
        def __init__(self, original: nn.Module) -> None:
            super().__init__()
            self.original = [original]
            self.copied = copy.deepcopy(original)
            self.refreshed = 0

        def refresh(self) -> None:
            self.copied.load_state_dict(self.original[0].state_dict())
            self.refreshed += 1

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.copied(images)

    views: list[Copy] = []

    def view(model: nn.Module) -> nn.Module:
        views.append(Copy(model))
        return views[0]

    plain, _ = run(model=network(normalised=False), epochs=2)
    model = network(normalised=False)
    result = train(model, ToySource(), Weighted(), Optimisation(epochs=2), view=view, watch=Watch())
    assert_same(model.state_dict(), plain.state_dict())
    assert views[0].refreshed == 8
    assert result.records[0].passes == pytest.approx(dict.fromkeys(result.records[0].passes, 1.0))


def test_passes_of_a_real_attack() -> None:
    attack = PGD(threat=Linf(epsilon=0.1), steps=3, step_size=0.05, loss=cross_entropy)
    model = network()
    objective = Reweighted(terms=[Term(name="pgd", attack=attack)])
    before = {name: module.training for name, module in model.named_modules()}
    result = train(model, ToySource(), objective, Optimisation(epochs=1))
    assert result.records[0].passes == pytest.approx(
        {"attack_forwards": 3, "attack_backwards": 3, "update_forwards": 1, "update_backwards": 1}
    )
    assert result.records[0].terms["pgd"]["effective_sample_size"] == pytest.approx(1.0)
    assert {name: module.training for name, module in model.named_modules()} == before


def test_noise_is_of_the_image_and_the_epoch() -> None:
    drawn: dict[tuple[int, int], torch.Tensor] = {}

    class Spy(Weighted):
        def attack(self, view, batch, step):  # type: ignore[no-untyped-def]
            noise = step.noise.uniform((len(batch), 2), "x")
            for index, values in zip(batch.index.tolist(), noise, strict=True):
                drawn[step.epoch, index] = values
            return super().attack(view, batch, step)

    run(objective=Spy(), epochs=2)
    first = dict(drawn)
    run(objective=Spy(), epochs=2, source=ToySource(size=6))
    assert len(drawn) == 2 * len(data())
    assert all(torch.equal(drawn[key], first[key]) for key in first)
    assert not torch.equal(drawn[0, 100], drawn[1, 100])


def test_a_models_own_draws_follow_from_seed_epoch_and_step_alone() -> None:
    def draw(*place: int) -> float:
        with step_randomness(*place):
            return float(torch.rand((), dtype=torch.float64))

    places = [(seed, epoch, step) for seed in (0, 1) for epoch in (0, 1) for step in (0, 1)]
    drawn = [draw(*place) for place in places]
    assert len(set(drawn)) == len(places)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert [draw(*place) for place in places] == drawn
