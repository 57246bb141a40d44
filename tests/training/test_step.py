import copy

import pytest
import torch
from torch import nn

from lrat.attacks import PGD
from lrat.errors import NonFiniteError
from lrat.losses import cross_entropy
from lrat.objectives import Reweighted, Term
from lrat.threat import Linf
from lrat.training import Optimisation, Watch, train
from lrat.training.step import own_randomness
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
        with own_randomness(*place, torch.device("cpu")):
            return float(torch.rand((), dtype=torch.float64))

    places = [(seed, epoch, step) for seed in (0, 1) for epoch in (0, 1) for step in (0, 1)]
    drawn = [draw(*place) for place in places]
    assert len(set(drawn)) == len(places)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(99)
        assert [draw(*place) for place in places] == drawn
