"""What attacks cost, counted: passes, kernels and tensor operations; and no wait for the device.

Two timings of one loop differ by several per cent on shared machines; counts do not.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from builders import seeded
from lrat.attacks import APGD, CW, PGD, SAA, Attack, Square
from lrat.attacks.ascent import ascend
from lrat.errors import SettingError
from lrat.losses import cross_entropy, dlr, kl, targeted_dlr
from lrat.models import ResNet18, SmallCNN
from lrat.threat import L2, Ball, Linf

LINF, EUCLIDEAN = Linf(epsilon=8 / 255), L2(epsilon=0.5)
STEPS = 20
CONVOLUTIONS = 20  # of a ResNet-18: the stem, 4 stages of 2 blocks of 2, 3 shortcuts
LARGEST_OVERHEAD = 45


class Operations(TorchDispatchMode):
    """Counts tensor operations by name, and kernels that form a gradient of weights."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.weight_gradients = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if func.namespace == "aten":  # fake tensors also ask for their device
            self.counts[name] += 1
        if name in ("convolution_backward", "native_batch_norm_backward"):
            self.weight_gradients += any(args[-1][1:])
        return func(*args, **(kwargs or {}))

    @property
    def total(self) -> int:
        return sum(self.counts.values())


def measure(work: Callable[[nn.Module, Tensor, Tensor], object], batch: int, fake: bool):
    """The operations of ``work`` on a ResNet-18 of width 16, whose weights want gradients."""
    with FakeTensorMode() if fake else nullcontext():
        model = seeded(0, lambda: ResNet18(width=16)).eval()
        assert all(parameter.requires_grad for parameter in model.parameters())
        images = torch.full((batch, 3, 32, 32), 0.5)
        labels = torch.zeros(batch, dtype=torch.long)
        with Operations() as operations:
            work(model, images, labels)
    return operations


def bare(model: nn.Module, images: Tensor, labels: Tensor) -> None:
    """The network alone: as many forwards and image gradients as PGD-20 has steps."""
    for _ in range(STEPS):
        current = images.detach().requires_grad_()
        torch.autograd.grad(model(current).sum(), current)


def pgd(**settings: Any) -> PGD:
    settings = {"threat": LINF, "step_size": 2 / 255} | settings
    return PGD(steps=STEPS, **settings)


def test_pgd_on_a_real_network_and_on_fake_tensors_does_the_same() -> None:
    assert measure(pgd(), 2, fake=False).counts == measure(pgd(), 64, fake=True).counts


@pytest.mark.parametrize(
    "attack",
    [
        pgd(),
        pgd(start="none"),
        pgd(start="gaussian"),
        pgd(threat=EUCLIDEAN, step_size=0.1),
        CW(threat=LINF, steps=STEPS, step_size=2 / 255),
    ],
    ids=["pgd", "none", "gaussian", "l2", "cw"],
)
def test_pgd_20_on_resnet_18_costs_one_pass_each_way_per_step(attack: PGD) -> None:
    """At batch 64 and width 16: no kernel for weights, few operations besides the network's."""
    costs, network = measure(attack, 64, fake=True), measure(bare, 64, fake=True)
    assert costs.counts["convolution"] == STEPS * CONVOLUTIONS
    assert costs.counts["convolution_backward"] == STEPS * CONVOLUTIONS
    for name in ("native_batch_norm", "native_batch_norm_backward", "addmm", "mm"):
        assert costs.counts[name] == network.counts[name]
    assert costs.weight_gradients == 0
    assert costs.counts["clone"] == costs.counts["nan_to_num"]  # the door's two operations
    assert (costs.total - network.total) / STEPS <= LARGEST_OVERHEAD


def test_the_counter_sees_weight_gradients() -> None:
    def backward(model: nn.Module, images: Tensor, labels: Tensor) -> None:
        model(images.requires_grad_()).sum().backward()

    assert measure(backward, 2, fake=False).weight_gradients > 0


def test_kl_costs_one_forward_more() -> None:
    costs = measure(pgd(loss=kl), 64, fake=True)
    assert costs.counts["convolution"] == (STEPS + 1) * CONVOLUTIONS
    assert costs.counts["convolution_backward"] == STEPS * CONVOLUTIONS
    assert costs.weight_gradients == 0


def test_saa_is_one_stacked_ascent_after_the_clean_pass() -> None:
    """A forward per iterate and one for the clean logits; the last iterate gets no gradient."""
    costs = measure(SAA(threat=LINF, steps=STEPS), 4, fake=True)
    assert costs.counts["convolution"] == (STEPS + 2) * CONVOLUTIONS
    assert costs.counts["convolution_backward"] == STEPS * CONVOLUTIONS
    assert costs.weight_gradients == 0


@pytest.mark.parametrize(("threat", "largest"), [(LINF, 31), (EUCLIDEAN, 97)], ids=["linf", "l2"])
def test_square_is_one_forward_per_query_and_little_else(threat: Ball, largest: int) -> None:
    """No gradient at all; the windows of a hundred queries are drawn at once.

    Two operations of a query are the door's: a copy of the images, and -inf replaced.
    """
    queries = 100
    costs = measure(Square(threat=threat, queries=queries), 8, fake=True)
    with torch.no_grad():
        network = measure(lambda model, images, labels: model(images), 8, fake=True)
    assert costs.counts["convolution"] == (queries + 1) * CONVOLUTIONS
    assert costs.counts["convolution_backward"] == 0
    assert (costs.total - (queries + 1) * network.total) / queries <= largest


@pytest.mark.parametrize(
    "attack",
    [
        pgd(),
        pgd(threat=EUCLIDEAN),
        pgd(loss=kl),
        CW(threat=LINF, steps=5, step_size=2 / 255),
        SAA(threat=LINF, steps=10),
        SAA(threat=EUCLIDEAN, steps=10),
        APGD(threat=LINF, steps=10, stacked=True, restarts=2),
        Square(threat=LINF, queries=110),
        Square(threat=EUCLIDEAN, queries=110),
    ],
    ids=["pgd", "pgd-l2", "pgd-kl", "cw", "saa", "saa-l2", "apgd-stacked", "square", "square-l2"],
)
def test_nothing_waits_for_the_device(attack: Attack) -> None:
    """Reading a value back to the host raises under fake tensors."""
    with FakeTensorMode():
        model = seeded(0, lambda: SmallCNN(channels=3, size=8, width=2))
        images, labels = torch.empty(3, 3, 8, 8), torch.zeros(3, dtype=torch.long)
        assert attack(model, images, labels).images.shape == images.shape


@pytest.mark.parametrize("loss", [cross_entropy, dlr, targeted_dlr], ids=repr)
@pytest.mark.parametrize("threat", [LINF, EUCLIDEAN], ids=["linf", "l2"])
def test_the_ascent_never_waits_for_the_device(threat: Any, loss: Any) -> None:
    with FakeTensorMode(), torch.no_grad():
        model = seeded(0, lambda: SmallCNN(channels=3, size=8, width=2)).eval()
        images, labels = torch.empty(3, 3, 8, 8), torch.zeros(3, dtype=torch.long)
        prepared = loss.prepare(labels, model(images), torch.ones_like(labels))
        run = ascend(model, prepared, images, images, labels, threat=threat, steps=30)
        assert run.best.images.shape == images.shape


def test_fake_tensors_catch_a_wait() -> None:
    def waiting(logits: Tensor, labels: Tensor) -> Tensor:
        return logits.sum(1) * float(logits.max())

    with pytest.raises(SettingError, match="DataDependentOutputException"):
        measure(pgd(loss=waiting), 2, fake=True)


class PassCounter(nn.Module):
    """Counts forwards of a model and gradients that flow back into it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.forwards, self.backwards = model, 0, 0

    def forward(self, images: Tensor) -> Tensor:
        self.forwards += 1
        logits: Tensor = self.model(images)
        if logits.requires_grad:
            logits.register_hook(self.count)
        return logits

    def count(self, gradient: Tensor) -> None:
        self.backwards += 1


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("targets", [None, 3])
@pytest.mark.parametrize("restarts", [1, 2])
def test_auto_pgd_takes_steps_plus_one_forwards_per_try(
    steps: int, targets: int | None, restarts: int
) -> None:
    """On a model that cannot be fooled; and the trace says so."""

    class Certain(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            flat = images.flatten(1)
            return torch.stack([flat.sum(1) + 100, flat[:, 0], flat[:, 1], flat[:, 2]], dim=1)

    model = PassCounter(Certain())
    loss = cross_entropy if targets is None else targeted_dlr
    attack = APGD(threat=LINF, steps=steps, loss=loss, targets=targets, restarts=restarts)
    images, labels = torch.full((2, 1, 2, 2), 0.5), torch.zeros(2, dtype=torch.long)
    trace = attack(model, images, labels).trace
    tries = (targets or 1) * restarts
    assert model.forwards == tries * (steps + 1) + (targets is not None)
    assert model.backwards == tries * steps
    assert trace is not None
    assert trace.forwards is not None
    assert trace.backwards is not None
    assert trace.forwards.tolist() == [tries * (steps + 1)] * 2
    assert trace.backwards.tolist() == [tries * steps] * 2
