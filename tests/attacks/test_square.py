"""Square: bit-equal to the reference, and for each image independent of the batch."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pyautoattack.square import SquareAttack
from torch import Tensor, nn

from attacks.stubs import trace_of
from builders import keyed, seeded
from lrat.attacks import Square
from lrat.errors import SettingError
from lrat.losses import cross_entropy, kl, logit_margin, probability_margin, targeted_dlr
from lrat.threat import L2, Ball, Linf
from trained import THREAT, digits, held_out, trained

EUCLIDEAN = L2(epsilon=1.0)
BALLS = {"Linf": THREAT, "L2": EUCLIDEAN}
each_ball = pytest.mark.parametrize("threat", BALLS.values(), ids=BALLS)


def problem(count: int = 60) -> tuple[nn.Module, Tensor, Tensor]:
    model = trained()
    return model, *held_out(model, count)


@torch.no_grad()
def wrong(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    return model(images).argmax(1) != labels


class Counting(nn.Module):
    """Remembers how many images each forward had."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.sizes = model, []

    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        logits: Tensor = self.model(images)
        return logits


class Sure(nn.Module):
    """Four classes; it is never fooled, and the pixels decide among the last three."""

    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        half = flat.shape[1] // 2
        sums = [flat[:, :half].sum(1), flat[:, half:].sum(1), -flat.sum(1)]
        return torch.stack([torch.full_like(sums[0], 1e6), *sums], dim=1)


def reference(
    norm: str, model: nn.Module, images: Tensor, labels: Tensor, seed: int, restarts: int = 1
) -> Tensor:
    attack = SquareAttack(
        model,
        norm=norm,
        eps=BALLS[norm].epsilon,
        n_queries=300,
        n_restarts=restarts,
        seed=seed,
        resc_schedule=False,
        device="cpu",
    )
    with torch.random.fork_rng(devices=[]):
        adversarial: Tensor = attack.perturb(images.clone(), labels.clone())
    return adversarial


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("norm", BALLS)
@pytest.mark.parametrize("which", ["convolutional", "dense"])
def test_sequential_noise_finds_the_reference_s_points(which: str, norm: str, seed: int) -> None:
    model = trained(which)
    images, labels = held_out(model)
    expected = reference(norm, model, images, labels, seed)
    fooled = wrong(model, expected, labels)
    assert 0 < fooled.sum() < len(labels)
    for retire_every in (None, 1):
        attack = Square(threat=BALLS[norm], queries=300, retire_every=retire_every)
        noise = torch.Generator().manual_seed(seed)
        adversarial = attack(model, images, labels, noise=noise).images
        assert torch.equal(wrong(model, adversarial, labels), fooled)
    # Batches of the reference's sizes round as its batches do.
    assert torch.equal(adversarial[fooled], expected[fooled])


@pytest.mark.parametrize("norm", BALLS)
def test_sequential_restarts_are_the_reference_s(norm: str) -> None:
    model, images, labels = problem()
    expected = reference(norm, model, images, labels, seed=0, restarts=3)
    fooled = wrong(model, expected, labels)
    attack = Square(threat=BALLS[norm], queries=300, restarts=3, retire_every=1)
    variant = attack(model, images, labels, noise=torch.Generator().manual_seed(0))
    assert torch.equal(wrong(model, variant.images, labels), fooled)
    assert torch.equal(variant.images[fooled], expected[fooled])
    source = trace_of(variant).source
    assert source is not None
    assert len(source[fooled].unique()) > 1


@each_ball
@pytest.mark.parametrize("size", [1, 7])
def test_the_batch_around_an_image_does_not_matter(threat: Ball, size: int) -> None:
    count = 15
    model, images, labels = problem(count)
    attack = Square(threat=threat, queries=130)
    noise = keyed(count, seed=3)
    whole = attack(model, images, labels, noise=noise)
    for rows in torch.randperm(count, generator=torch.Generator().manual_seed(0)).split(size):
        part = attack(model, images[rows], labels[rows], noise=noise.select(rows))
        assert torch.equal(
            wrong(model, part.images, labels[rows]), wrong(model, whole.images, labels)[rows]
        )
        assert torch.equal(trace_of(part).step, trace_of(whole).step[rows])
        torch.testing.assert_close(part.images, whole.images[rows], rtol=0, atol=1e-6)


@each_ball
@pytest.mark.parametrize("per_image", [True, False], ids=["keyed", "sequential"])
@pytest.mark.parametrize("retire_every", [1, 30, 130])
def test_retiring_the_fooled_changes_nothing_else(
    threat: Ball, per_image: bool, retire_every: int
) -> None:
    model, images, labels = problem()
    settings: dict[str, Any] = {"threat": threat, "queries": 260, "restarts": 2}
    results, sizes = [], []
    for every in (None, retire_every):
        counting = Counting(model)
        noise: Any = keyed(60) if per_image else torch.Generator().manual_seed(0)
        attack = Square(**settings, retire_every=every)
        results.append(attack(counting, images, labels, noise=noise))
        sizes.append(counting.sizes)
        assert trace_of(results[-1]).forwards.sum() == sum(counting.sizes)
    kept, retired = results
    assert 0 < wrong(model, kept.images, labels).sum() < 60
    assert sum(sizes[1]) < sum(sizes[0])
    assert sizes[0][:261] == [60] * 261, "the batch keeps its shape"
    for name in ("step", "source"):
        assert torch.equal(getattr(trace_of(kept), name), getattr(trace_of(retired), name))
    torch.testing.assert_close(kept.images, retired.images, rtol=0, atol=1e-6)
    torch.testing.assert_close(trace_of(kept).margin, trace_of(retired).margin)


def test_the_search_ends_when_all_are_fooled() -> None:
    model, images, labels = problem(20)
    counting = Counting(model)
    attack = Square(threat=Linf(epsilon=0.6), queries=2000, restarts=2, retire_every=10)
    variant = attack(counting, images, labels)
    assert wrong(model, variant.images, labels).all()
    assert len(counting.sizes) < 1000
    trace = trace_of(variant)
    last = (trace.step + 9) // 10 * 10 + 1
    assert torch.equal(trace.forwards, last), "an image stays until the next look"


@each_ball
def test_the_trace_says_what_was_found(threat: Ball) -> None:
    model, images, labels = problem()
    images[0] = digits()[0][labels[0] == digits()[1]][0]
    labels[1] = (labels[1] + 1) % 10  # misclassified from the start
    variant = Square(threat=threat, queries=120)(model, images, labels)
    trace = trace_of(variant)
    with torch.no_grad():
        margin = probability_margin(model(variant.images), labels)
    torch.testing.assert_close(trace.margin, margin)
    assert trace.step[1] == 0
    assert 0 <= trace.step.min() < trace.step.max() <= 120
    assert trace.backwards.sum() == 0
    assert (trace.forwards == 121).all()


@each_ball
def test_more_queries_are_never_weaker(threat: Ball) -> None:
    """The same search goes on, so each margin can only fall, and the fooled stay as they are."""
    model, images, labels = problem()
    short, long = (
        Square(threat=threat, queries=queries)(model, images, labels) for queries in (40, 140)
    )
    with torch.no_grad():
        before, after = (logit_margin(model(part.images), labels) for part in (short, long))
    assert (after <= before).all()
    assert (after < before).any()
    assert torch.equal(long.images[before < 0], short.images[before < 0])


@pytest.mark.parametrize("channels", [1, 3])
def test_a_linear_model_is_driven_to_its_closed_form_optimum(channels: int) -> None:
    """Two classes: each pixel at the end of the ball or box that the weights' signs point to."""
    model = seeded(
        0, lambda: nn.Sequential(nn.Flatten(), nn.Linear(channels * 16, 2, bias=False))
    ).eval()
    images = keyed(12).uniform((12, channels, 4, 4), "images")
    seen = []
    with torch.no_grad():
        labels = model(images).argmax(1)
        weight = (model[1].weight[0] - model[1].weight[1]).view(images.shape[1:])
        toward = torch.where(labels[:, None, None, None] == 0, -weight, weight).sign()
        for epsilon in (0.02, 0.1, 0.3):
            threat = Linf(epsilon=epsilon)
            best = (images + epsilon * toward).clamp(0, 1)
            expected = logit_margin(model(best), labels)
            attack = Square(threat=threat, queries=1500, p_init=0.06)
            adversarial = attack(model, images, labels).images
            stays = expected > 1e-4
            torch.testing.assert_close(adversarial[stays], best[stays], rtol=0, atol=1e-6)
            assert torch.equal(logit_margin(model(adversarial), labels) < 0, expected < 0)
            seen.append(stays)
    assert seen[0].any()
    assert not seen[-1].all()


@each_ball
@pytest.mark.parametrize("shape", [(1, 7, 12), (3, 12, 7), (1, 1, 1), (3, 2, 5), (1, 3, 3)])
def test_images_of_any_shape(threat: Ball, shape: tuple[int, int, int]) -> None:
    images = 0.2 + 0.6 * keyed(3).uniform((3, *shape), "images")
    labels = torch.zeros(3, dtype=torch.long)
    for noise in (keyed(3), torch.Generator().manual_seed(0)):
        adversarial = Square(threat=threat, queries=40)(Sure(), images, labels, noise=noise).images
        assert threat.violation(adversarial, images).max() <= threat.tolerance
        assert torch.isfinite(adversarial).all()
        assert not torch.equal(adversarial, images)


@each_ball
def test_one_image_and_two_classes(threat: Ball) -> None:
    model, images, labels = problem()
    rows = (labels < 2).nonzero().flatten()[:1]

    class Two(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = model(images)[:, :2]
            return logits

    generator = torch.Generator().manual_seed(0)
    for noise in (None, generator):
        variant = Square(threat=threat, queries=50, retire_every=5)(
            Two(), images[rows], labels[rows], noise=noise
        )
        assert threat.violation(variant.images, images[rows]).max() <= threat.tolerance


@each_ball
def test_a_loss_of_one_s_own_is_ascended_and_success_stays_the_argmax(threat: Ball) -> None:
    """An adaptive loss that wants bright images; the classes do not matter to it."""

    def brightness(logits: Tensor, labels: Tensor) -> Tensor:
        return logits[:, 1]

    model, images = Sure(), torch.full((3, 1, 6, 6), 0.5)
    labels = torch.zeros(3, dtype=torch.long)
    variant = Square(threat=threat, queries=100, loss=brightness)(model, images, labels)
    assert (model(variant.images)[:, 1] > model(images)[:, 1] + 0.5).all()
    fooled, *problem_ = problem()
    settings: dict[str, Any] = {"threat": threat, "queries": 100}
    stuck = Square(**settings, loss=lambda logits, labels: torch.zeros(len(logits)))
    variant = stuck(fooled, *problem_)
    step, hit = trace_of(variant).step, wrong(fooled, variant.images, problem_[1])
    assert hit.any()
    assert (step[~hit] == 0).all(), "a constant loss never improves"


def test_a_model_without_gradients_is_searched_all_the_same() -> None:
    model, images, labels = problem()

    class Cut(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = model((images * 16).round() / 16).detach()
            return logits

    adversarial = Square(threat=THREAT, queries=100)(Cut(), images, labels).images
    assert wrong(Cut(), adversarial, labels).any()


def test_losses_that_look_at_the_clean_logits_work() -> None:
    model, images, labels = problem(8)
    for loss in (cross_entropy, kl):
        attack = Square(threat=THREAT, queries=30, loss=loss)
        assert attack.needs_clean == (loss is kl)
        attack(model, images, labels)


@dataclass(frozen=True)
class Cube:
    """All that a ball has, but none that Square knows how to move in."""

    inner: Linf

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


def test_other_balls_are_refused() -> None:
    with pytest.raises(SettingError, match="the threat must be Linf or L2"):
        Square(threat=Cube(inner=THREAT))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queries": 0}, "queries=0"),
        ({"restarts": 0}, "restarts=0"),
        ({"p_init": 0.0}, "> 0 and <= 1"),
        ({"p_init": 1.5}, "> 0 and <= 1"),
        ({"retire_every": 0}, ">= 1, or None"),
        ({"loss": targeted_dlr}, "a targeted loss needs targets"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Square(**({"threat": THREAT} | settings))
