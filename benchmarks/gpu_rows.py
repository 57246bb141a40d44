"""What gpu.py measures, one way to compute at a time: training steps and PGD on one device."""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lrat.acceleration import Choices, FastView, disagreement
from lrat.attacks import PGD, Attack
from lrat.hooks import PassCounter
from lrat.methods import Simulated, lrat, sat
from lrat.models import ResNet18
from lrat.objectives import Reweighted
from lrat.threat import Linf
from lrat.training import Optimisation
from lrat.training.step import Stepper
from lrat.types import Batch
from subjects import steadfast

EPOCH_IMAGES = 50_000
EPSILON = 8 / 255


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much is measured; ``measured``: steps timed per method, after ``warm`` untimed ones."""

    width: int = 64
    pixels: int = 32
    batches: tuple[int, ...] = (128, 512)
    steps: int = 10
    saa_steps: int = 20
    pgd_steps: int = 20
    peak: int = 8192
    warm: int = 3
    measured: tuple[tuple[str, int], ...] = (("SAT", 20), ("LRAT-SAA", 5), ("PGD", 5))

    @staticmethod
    def tiny() -> "Size":
        return Size(
            width=2,
            pixels=8,
            batches=(2, 4),
            steps=2,
            saa_steps=2,
            pgd_steps=2,
            peak=64,
            warm=1,
            measured=(("SAT", 1), ("LRAT-SAA", 1), ("PGD", 1)),
        )

    def objective(self, name: str) -> Reweighted:
        simulated = Simulated(
            threat=Linf(epsilon=EPSILON), steps=self.steps, saa_steps=self.saa_steps
        )
        return sat(simulated) if name == "SAT" else lrat(simulated, ["saa"])


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A way to compute attacks: a view's choices, or None for the model itself.

    ``needs``: a module without which there is nothing to measure. ``steps``: whether training
    steps are measured, too.
    """

    name: str
    choices: Choices | None = None
    needs: str | None = None
    steps: bool = True

    @property
    def graphs(self) -> bool:
        """Whether it can do nothing without CUDA."""
        return self.choices is not None and self.choices.graphs

    def cases(self, size: Size) -> list[tuple[str, int]]:
        """(what, batch) of each row."""
        names = ["SAT", "LRAT-SAA"] if self.steps else []
        found = [(name, batch) for batch in size.batches for name in names]
        return [*found, *(("PGD", batch) for batch in size.batches)]

    def view(self, model: nn.Module, images: Tensor) -> nn.Module:
        """What attacks see; an error if it is no stand-in for the model."""
        if self.choices is None:
            return model
        view = FastView(model, self.choices)
        problem = disagreement(view, images)
        if problem is not None:
            raise ValueError(problem)
        return view


LOW = Choices(precision="bfloat16", channels_last=True)
VARIANTS = (
    Variant(name="plain model, float32"),
    Variant(name="bfloat16, folded", choices=LOW),
    Variant(name="torchattacks", needs="torchattacks", steps=False),
    Variant(name="bfloat16, folded, graphs", choices=replace(LOW, graphs=True)),
    Variant(name="bfloat16, folded, compiled", choices=replace(LOW, compiled=True)),
    Variant(name="bfloat16, not folded", choices=replace(LOW, fold=False)),
    Variant(name="float32, folded", choices=Choices(channels_last=True)),
)
"""In the order of interest: the last ones are left out first when time is short."""


@dataclass(kw_only=True)
class Row:
    """One measurement, or why there is none. ``flop`` of one step; ``warning`` of the view."""

    what: str
    batch: int
    variant: str
    seconds: float | None = None
    flop: float | None = None
    passes_per_image: str = ""
    peak_memory_gib: float | None = None
    error: str | None = None
    warning: str | None = None


class _Warnings(logging.Handler):
    """Keeps what the view warns of: such as a network that cannot be captured and runs eagerly."""

    def __init__(self, row: Row) -> None:
        super().__init__(logging.WARNING)
        self._row = row

    def emit(self, record: logging.LogRecord) -> None:
        self._row.warning = record.getMessage()[:200]


def device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def allow_fast_float32() -> None:
    """TensorFloat-32 and the fastest convolutions: what a practised user sets."""
    torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    torch.set_float32_matmul_precision("high")


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def timed(work: Callable[[], object], count: int) -> float:
    """Seconds per call over ``count`` calls, waiting for the device at both ends."""
    synchronize()
    started = time.perf_counter()
    for _ in range(count):
        work()
    synchronize()
    return (time.perf_counter() - started) / count


def measured_peak(size: Size) -> float:
    """FLOP/s of the fastest of a few bfloat16 matrix products."""
    left = torch.ones(size.peak, size.peak, dtype=torch.bfloat16, device=device())
    right = left.clone()
    return 2 * size.peak**3 / min(timed(lambda: left @ right, 5) for _ in range(6))


def forward_flop(size: Size) -> float:
    """FLOP of one image's forward, two per multiply-add."""
    from torch.utils.flop_counter import FlopCounterMode

    model = _network(size).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, size.pixels, size.pixels))
    return float(counter.get_total_flops())


def rows(variant: Variant, size: Size) -> Iterator[Row]:
    """Every case of the variant; one that fails says why and the next goes on."""
    flop = forward_flop(size)
    for what, batch in variant.cases(size):
        row = Row(what=what, batch=batch, variant=variant.name)
        measure = _pgd if what == "PGD" else _step
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        logger, handler = logging.getLogger("lrat"), _Warnings(row)
        logger.addHandler(handler)
        try:
            measure(row, variant, size, flop)
        except Exception as error:
            row.error = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        logger.removeHandler(handler)
        if torch.cuda.is_available():
            row.peak_memory_gib = torch.cuda.max_memory_allocated() / 2**30
        yield row


def _batch(count: int, size: Size) -> Batch:
    generator = torch.Generator().manual_seed(0)
    batch = Batch(
        images=torch.rand(count, 3, size.pixels, size.pixels, generator=generator),
        labels=torch.zeros(count, dtype=torch.long),
        index=torch.arange(count),
    )
    return batch.to(device())


def _model(size: Size, images: Tensor) -> nn.Module:
    """Sure of its classes, so that low precision cannot change one by chance."""
    return steadfast(_network(size).to(device()), images)


def _network(size: Size) -> ResNet18:
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return ResNet18(width=size.width)


def _step(row: Row, variant: Variant, size: Size, flop: float) -> None:
    """A whole training step of ``row.what``: view refreshed, attack, update."""
    batch = _batch(row.batch, size)
    model = _model(size, batch.images).train()
    objective = size.objective(row.what)
    settings = Optimisation(epochs=1, lr=0.001)
    view = variant.view(model, batch.images)
    descent = settings.optimizer(model)
    stepper = Stepper(model, view, objective, descent, settings, {})
    with stepper:
        for _ in range(size.warm):
            passes = stepper([batch], epoch=0, step=0).passes
        count = dict(size.measured)[row.what]
        seconds = timed(lambda: stepper([batch], epoch=0, step=0), count)
    forwards = int(passes.attack_forwards) + passes.update_forwards
    backwards = int(passes.attack_backwards) + passes.update_backwards
    # An update's backward forms two gradients: of its input and of its weights.
    _fill(row, seconds, forwards, backwards, flop, weight_gradients=passes.update_backwards)


def _pgd(row: Row, variant: Variant, size: Size, flop: float) -> None:
    batch = _batch(row.batch, size)
    model = _model(size, batch.images)
    view = variant.view(model, batch.images)
    work = _torchattacks(model, batch, size)
    if variant.needs != "torchattacks":
        attack = PGD(threat=Linf(epsilon=EPSILON), steps=size.pgd_steps, step_size=2 / 255)
        work = _ours(attack, view, batch)
    for _ in range(size.warm):
        with PassCounter(view) as counter:
            work()
    forwards, backwards = counter.read()
    _fill(row, timed(work, dict(size.measured)["PGD"]), forwards, backwards, flop)


def _ours(attack: Attack, view: nn.Module, batch: Batch) -> Callable[[], Any]:
    return lambda: attack(view, batch.images, batch.labels, noise=0)


def _torchattacks(model: nn.Module, batch: Batch, size: Size) -> Callable[[], Any]:
    def work() -> Tensor:
        import torchattacks

        steps = size.pgd_steps
        attack = torchattacks.PGD(model, eps=EPSILON, alpha=2 / 255, steps=steps)
        result: Tensor = attack(batch.images, batch.labels)
        return result

    return work


def _fill(
    row: Row,
    seconds: float,
    forwards: int,
    backwards: int,
    flop: float,
    *,
    weight_gradients: int = 0,
) -> None:
    """Time and work of a step; each pass and each gradient of weights costs a forward's FLOP."""
    row.seconds = seconds
    row.flop = flop * (forwards + backwards + weight_gradients)
    row.passes_per_image = f"{forwards / row.batch:g} + {backwards / row.batch:g}"
