"""The accelerated view computes what the original computes, whatever the model looks like."""

import logging
import threading
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from builders import random_images, seeded
from lrat.acceleration import Choices, FastView, accelerate, choose, disagreement
from lrat.attacks import PGD, SAA
from lrat.errors import SettingError
from lrat.losses import cross_entropy
from lrat.models import Normalize, ResNet18, SmallCNN
from lrat.outputs import logits_of
from lrat.threat import Linf

FAST = Choices(channels_last=True, precision="bfloat16")
IMAGES = random_images(12, 3, 8)
LABELS = torch.arange(12) % 4


class Shared(nn.Module):
    """One convolution called twice, one norm called twice, a tied weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 3, padding=1)
        self.norm = nn.BatchNorm2d(3)
        self.alone = nn.Conv2d(3, 3, 3, padding=1)
        self.after = nn.BatchNorm2d(3)
        self.tied = nn.Conv2d(3, 3, 3, padding=1)
        self.tied.weight = self.alone.weight
        self.head = nn.Linear(3 * 64, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.norm(self.first(images))
        hidden = self.norm(self.first(hidden)).relu()
        hidden = self.after(self.alone(hidden)).relu() + self.tied(hidden)
        return self.head(hidden.flatten(1))


class Branching(nn.Module):
    """Control flow that depends on the images, which tracing cannot follow."""

    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
        self.head = nn.Linear(4 * 36, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.block(images)
        if images.mean() > 0.9:
            hidden = hidden * 2
        return self.head(hidden.flatten(1))


class Functional(nn.Module):
    """batch_norm called as a function, and a norm before its convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.before = nn.BatchNorm2d(3)
        self.layer = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4 * 36, 4)
        self.register_buffer("mean", torch.rand(4))
        self.register_buffer("variance", torch.rand(4) + 0.5)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.layer(self.before(images))
        hidden = nn.functional.batch_norm(hidden, self.mean, self.variance)
        return self.head(hidden.relu().flatten(1))


class Skipping(nn.Module):
    """A convolution whose output is used beside its norm: folding it would be wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Linear(4 * 36, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.layer(images)
        return self.head((self.norm(hidden) + hidden).relu().flatten(1))


class Remembering(nn.Module):
    """Writes to itself in forward, and returns a tuple."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten())
        self.head = nn.Linear(4 * 36, 4)
        self.seen: Tensor | None = None

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        self.seen = self.body(images)
        return self.head(self.seen), self.seen.view(-1, 4, 6, 6)


def _grouped() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten()),
        *(nn.Linear(4 * 36, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)),
    )


def _normalized() -> nn.Module:
    mean = Normalize((0.4, 0.5, 0.6), (0.2, 0.3, 0.2))
    return nn.Sequential(mean, SmallCNN(channels=3, size=8, classes=4, width=4))


def _bare_norm() -> nn.Module:
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU()),
        *(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()),
        *(nn.Flatten(), nn.Linear(64, 4)),
    )


MODELS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "small-cnn": (lambda: SmallCNN(channels=3, size=8, classes=4, width=4), 3, 0),
    "resnet-18": (lambda: ResNet18(width=4, classes=4), 20, 0),
    "shared modules and tied weights": (Shared, 1, 1),
    "control flow": (Branching, 1, 0),
    "functional batch_norm": (Functional, 0, 1),
    "output used twice": (Skipping, 0, 1),
    "tuple output": (Remembering, 1, 0),
    "GroupNorm and dropout": (_grouped, 1, 0),
    "normalisation as a layer": (_normalized, 3, 0),
    "norms without weights or statistics": (_bare_norm, 1, 1),
}


def trained(name: str) -> nn.Module:
    """The model with statistics and weights that are not their initial ones, in train mode."""
    model = seeded(1, MODELS[name][0])
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in [*model.parameters(), *model.buffers()]:
            if value.is_floating_point():
                value.add_(0.1 * (torch.rand(value.shape, generator=generator) - 0.5))
    return model.train()


def plain_logits(model: nn.Module, images: Tensor = IMAGES) -> Tensor:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    with torch.no_grad():
        logits = logits_of(model(images.float()))
    for module, training in modes:
        module.training = training
    return logits


@pytest.mark.parametrize("name", MODELS)
def test_the_view_has_the_original_s_logits(name: str) -> None:
    model = trained(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    view = accelerate(model, IMAGES, choices=Choices())
    assert (view.folded, view.unfolded) == MODELS[name][1:]
    torch.testing.assert_close(view(IMAGES), plain_logits(model), rtol=1e-4, atol=1e-4)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.state_dict().keys() == before.keys()
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


@pytest.mark.parametrize("name", MODELS)
def test_refresh_takes_over_every_change(name: str) -> None:
    model = trained(name)
    view = accelerate(model, IMAGES, choices=Choices())
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    with torch.random.fork_rng(devices=[]):  # dropout draws
        for _ in range(3):
            optimiser.zero_grad()
            cross_entropy(logits_of(model(IMAGES)), LABELS).mean().backward()
            optimiser.step()
    stale = view(IMAGES)
    expected = plain_logits(model)
    assert (stale - expected).abs().max() > 1e-3
    torch.testing.assert_close(view.refresh()(IMAGES), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", MODELS)
def test_low_precision_inside_keeps_float32_outside(name: str) -> None:
    model = trained(name)
    view = FastView(model, FAST)
    images = IMAGES.clone().requires_grad_()
    logits = view(images)
    (gradient,) = torch.autograd.grad(logits.sum(), images)
    assert logits.dtype == gradient.dtype == torch.float32
    assert gradient.shape == images.shape
    expected = plain_logits(model)
    assert (logits - expected).abs().max() < 0.05 * max(1.0, float(expected.abs().max()))
    view.refresh()
    assert torch.equal(view(IMAGES), logits.detach())


@pytest.mark.parametrize("choices", [Choices(), Choices(channels_last=True), FAST])
@pytest.mark.parametrize(
    "change",
    [
        lambda images: images.double(),
        lambda images: images.half(),
        lambda images: images.contiguous(memory_format=torch.channels_last),
        lambda images: images[:1],
        lambda images: images[:, :, ::2].repeat_interleave(2, dim=2),
    ],
    ids=["float64", "float16", "channels_last", "one image", "not contiguous"],
)
def test_attacks_through_a_view_take_images_of_any_kind(
    change: Callable[[Tensor], Tensor], choices: Choices
) -> None:
    model = trained("small-cnn")
    images = change(IMAGES)
    threat = Linf(epsilon=0.1)
    attack = PGD(threat=threat, steps=3, step_size=0.05)
    variant = attack(FastView(model, choices), images, LABELS[: len(images)])
    assert variant.images.dtype == torch.float32
    assert variant.images.shape == images.shape
    assert float(threat.violation(variant.images, images.float()).max()) <= threat.tolerance
    plain = attack(model, images, LABELS[: len(images)])
    losses = [
        cross_entropy(plain_logits(model, each), LABELS[: len(images)]).mean()
        for each in (variant.images, plain.images, images)
    ]
    assert losses[0] > losses[2]
    assert losses[0] > losses[2] + 0.9 * (losses[1] - losses[2])


def test_a_view_that_computes_something_else_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    calls: list[int] = []

    class Counting(nn.Module):
        """Gives something else on each call."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(3 * 64, 4)

        def forward(self, images: Tensor) -> Tensor:
            calls.append(1)
            return self.head(images.flatten(1)) + len(calls)

    model = seeded(0, Counting)
    with caplog.at_level(logging.WARNING):
        view = accelerate(model, IMAGES)
    assert "logits differ by" in caplog.text
    assert "allowed is 1e-04" in caplog.text
    assert view.is_plain
    assert view.original is model


def test_a_low_precision_view_that_decides_otherwise_is_refused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Fine(nn.Module):
        """Two classes that differ by less than the precision of bfloat16."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3 * 64, 2, bias=False)
            with torch.no_grad():
                self.layer.weight.fill_(1.0)
                self.layer.weight[1, 0] = 1.002

        def forward(self, images: Tensor) -> Tensor:
            logits = self.layer(images.flatten(1)).float()
            middle = logits.mean(1, keepdim=True)
            return 1e4 * (logits - middle) - torch.tensor([0.0, 1.0])

    model = seeded(0, Fine)
    with caplog.at_level(logging.WARNING):
        view = accelerate(model, IMAGES, choices=FAST)
    assert "the same class on" in caplog.text
    assert view.choices.precision == "float32"


def test_a_model_that_cannot_be_copied_is_used_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    model = trained("small-cnn")
    model.lock = threading.Lock()
    view = accelerate(model, IMAGES)
    assert "is refused: TypeError" in caplog.text
    torch.testing.assert_close(logits_of(view(IMAGES)), plain_logits(model))


def test_choices_print_and_parse() -> None:
    for choices in (Choices(), Choices.plain(), FAST, Choices(compiled=True), Choices(graphs=True)):
        assert Choices.parse(str(choices)) == choices
    with pytest.raises(SettingError, match="names no choices"):
        Choices.parse("float16")


def test_a_folded_norm_costs_nothing() -> None:
    """No batch_norm is left in the view of a network whose norms all follow a convolution."""
    seen: list[str] = []

    class Names(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, arguments=(), keywords=None):  # type: ignore[no-untyped-def]
            seen.append(str(function))
            return function(*arguments, **(keywords or {}))

    view = accelerate(trained("resnet-18"), IMAGES)
    with Names(), torch.no_grad():
        view(IMAGES)
    assert sum("convolution" in name for name in seen) == 20
    assert not any("norm" in name for name in seen)


def test_attacks_find_as_much_through_the_view() -> None:
    model = trained("resnet-18")
    threat = Linf(epsilon=0.1)
    for attack in (PGD(threat=threat, steps=5, step_size=0.03), SAA(threat=threat, steps=5)):
        margins = [
            cross_entropy(plain_logits(model, attack(seen, IMAGES, LABELS).images), LABELS).mean()
            for seen in (model, FastView(model, Choices()), FastView(model, FAST))
        ]
        assert abs(margins[1] - margins[0]) < 0.02 * margins[0]
        assert abs(margins[2] - margins[0]) < 0.05 * margins[0]


def test_disagreement_is_said_in_numbers() -> None:
    model = trained("small-cnn")
    view = FastView(model, Choices())
    assert disagreement(view, IMAGES) is None
    with torch.no_grad():
        model.head.bias.add_(torch.tensor([0.5, 0, 0, 0]))
    problem = disagreement(view, IMAGES)
    assert problem is not None
    assert problem.startswith("logits differ by")


def test_graphs_change_nothing_off_cuda() -> None:
    """On a CPU the request is honoured by running eagerly, with the same gradients."""
    model = trained("small-cnn")
    threat = Linf(epsilon=0.1)
    attack = SAA(threat=threat, steps=3)
    differences = [
        attack(FastView(model, Choices(graphs=graphs)), IMAGES, LABELS).images
        for graphs in (False, True)
    ]
    assert torch.equal(*differences)


@pytest.mark.parametrize("pays", [True, False])
def test_what_is_chosen_follows_from_the_model_and_the_processor(
    pays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lrat.acceleration.choice._bfloat16_pays", lambda kind: pays)
    small, large = trained("small-cnn"), seeded(0, lambda: ResNet18(width=16))
    assert choose(small, IMAGES) == Choices()
    expected = FAST if pays else Choices(channels_last=True)
    assert choose(large, torch.rand(2, 3, 32, 32, generator=torch.Generator())) == expected
