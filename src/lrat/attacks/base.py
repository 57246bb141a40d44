"""The protocol of attacks, their result, and the frame in which every attack of lrat runs.

Also here: the best candidate of each image over several runs (``Best``), the cost of an attack on
its images (``whole``, ``costs``), and the confirmation by the model itself of successes against an
accelerated view (``confirmed``).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from lrat.acceleration import View
from lrat.attacks.gradient import gradients_of
from lrat.attacks.protection import checked_images, users_attack
from lrat.data.inputs import check_logits, check_module, entering, labels_up_to
from lrat.errors import ModelError, SettingError
from lrat.hardware import full_float32
from lrat.hooks import PassCounter
from lrat.losses import Prepared
from lrat.modes import evaluating, gradients_kept, ordinary, outside_autocast, recordable
from lrat.outputs import forward_logits, logits_of
from lrat.randomness import Noise, NoiseLike, as_noise, random_state_kept
from lrat.text import shown
from lrat.threat import Ball, per_image
from lrat.types import Counts, Images, Labels, Logits, PerExample

_CONTRACT = "its perturb(model, images, labels, noise, clean) must return Variant(images=...)"
UNKNOWN = -1
"""Step and source of an attack that does not report them."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """How an attack reached its images; None for what it does not report.

    ``margin`` [B] probability margin (Eq. 11) of the returned image; ``step`` [B] the number of its
    iterate; ``source`` [B] the number of its restart or target; ``forwards`` and ``backwards`` [B]
    the passes of the attack.
    """

    margin: PerExample | None = None
    step: Counts | None = None
    source: Counts | None = None
    forwards: Counts | None = None
    backwards: Counts | None = None


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Adversarial images [B C H W], detached, float32, inside the attack's region.

    An image that the attack could not fool is its strongest candidate, never the clean image.
    ``steps_survived`` [B]: how many of the iterates x_0 ... x_{max_steps - 1} were still classified
    correctly (kappa of Eq. 10), where the attack counts them.
    """

    images: Images
    steps_survived: Counts | None = None
    max_steps: int | None = None
    trace: Trace | None = None


@runtime_checkable
class Attack(Protocol):
    """``(model, images, labels, *, noise, clean_logits) -> Variant``; pure.

    Parameter gradients, modes and global random states stay as they were, also after an exception.
    ``provides`` names the optional fields of ``Variant`` that it fills; ``needs_clean`` says that
    it uses the logits of the clean images, which a caller who has them may pass.
    """

    @property
    def provides(self) -> frozenset[str]: ...

    @property
    def needs_clean(self) -> bool: ...

    def __call__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels,
        *,
        noise: NoiseLike = None,
        clean_logits: Logits | None = None,
    ) -> Variant: ...


class GradientAttack(ABC):
    """The base of lrat's attacks: concrete attacks write ``perturb``, ``__call__`` is final.

    ``__call__`` adapts the noise, computes the clean logits where they are needed, puts the model
    into eval mode and back, and lets autograd record image gradients alone. A user's ``perturb`` is
    treated as ``Foreign`` treats a function: its changes of the model are undone and noted, global
    random numbers follow from the noise, and images outside ``threat`` raise
    ``RegionViolationError``.
    """

    threat: Ball
    provides: ClassVar[frozenset[str]] = frozenset()

    @property
    @abstractmethod
    def needs_clean(self) -> bool:
        """Whether ``perturb`` needs the logits of the clean images."""

    @abstractmethod
    def perturb(
        self, model: nn.Module, images: Images, labels: Labels, noise: Noise, clean: Logits | None
    ) -> Variant:
        """The attack itself, called under ``no_grad`` with ``model`` in eval mode."""

    @final
    def __call__(
        self,
        model: nn.Module,
        images: Images,
        labels: Labels,
        *,
        noise: NoiseLike = None,
        clean_logits: Logits | None = None,
    ) -> Variant:
        """Attack ``images`` [B C H W] in [0, 1] with ``labels`` [B].

        ``noise``: a ``Noise``, an int seed, a ``torch.Generator``; None means seed 0, so a user's
        training loop must pass noise, or every epoch starts from the same points.
        ``clean_logits`` [B K]: the logits of ``images``, if the caller has them.
        """
        with framed(model, images, labels, clean_logits, needs_clean=self.needs_clean) as inputs:
            adapted = as_noise(noise, len(images), images.device)
            if type(self).__module__.startswith("lrat."):
                return self.perturb(model, inputs.images, inputs.labels, adapted, inputs.clean)
            name, clean = type(self).__name__, inputs.clean
            with users_attack(name, model, inputs.images, adapted, _CONTRACT):
                variant = self.perturb(
                    model,
                    inputs.images.clone(),
                    inputs.labels.clone(),
                    adapted,
                    None if clean is None else clean.clone(),
                )
            if not isinstance(variant, Variant):
                raise SettingError(f"{name} returned {type(variant).__name__}: {_CONTRACT}")
            threat = getattr(self, "threat", None)
            checked = checked_images(name, variant.images, inputs.images, threat)
            return replace(variant, images=checked)


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The inputs of an attack: float32 images, int64 labels, the clean logits where needed."""

    images: Tensor
    labels: Tensor
    clean: Tensor | None


@contextmanager
def framed(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    clean_logits: Tensor | None,
    *,
    needs_clean: bool,
) -> Iterator[Inputs]:
    """The frame of attacks: ``model`` in eval mode, no gradient but for images, tensors adapted.

    The caller's autocast and inference mode do not apply inside; the random states are restored.
    """
    check_module(model)
    images, labels, largest = entering(images, labels)
    with (
        labels_up_to(largest),
        torch.inference_mode(False),
        outside_autocast(images.device.type),
        random_state_kept(),
        recordable(model),
        evaluating(model),
        gradients_kept(model),
        gradients_of(model),
        torch.no_grad(),
    ):
        if isinstance(model, View):
            model.begin_attack()
        images, labels = ordinary(images), ordinary(labels)
        if clean_logits is None and needs_clean:
            clean_logits = forward_logits(model, images)
        elif clean_logits is not None:
            clean_logits = ordinary(_checked_clean(clean_logits, len(images)))
        if clean_logits is not None:
            check_logits(clean_logits)
        yield Inputs(images=images, labels=labels, clean=clean_logits)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """The rows that an attack forwards in each step: its tries, stacked over its images.

    ``start``, ``center`` [R C H W] and ``labels`` [R] with R = tries * ``batch``; ``loss`` of these
    rows.
    """

    loss: Prepared
    start: Tensor
    center: Tensor
    labels: Tensor
    batch: int

    @staticmethod
    def stack(parts: Sequence["Rows"]) -> "Rows":
        """The rows of several attacks on the same images, one attack after the other."""
        return Rows(
            loss=Prepared.stack(
                [part.loss for part in parts], [len(part.labels) for part in parts]
            ),
            start=torch.cat([part.start for part in parts]),
            center=torch.cat([part.center for part in parts]),
            labels=torch.cat([part.labels for part in parts]),
            batch=parts[0].batch,
        )


def _checked_clean(logits: Any, count: int) -> Tensor:
    try:
        return logits_of(logits, count).detach().float()
    except ModelError:
        raise SettingError(
            f"clean_logits={shown(logits)}: pass the model's logits ({count}, K) of the images, "
            "or None"
        ) from None


class Best:
    """The best variant so far of each image of a batch, and the passes of all its runs.

    That is the first success, else the candidate with the smallest probability margin. An image
    that is fooled takes part in no later run.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        zeros = torch.zeros_like(labels)
        self.images = images.clone()
        self.margin = torch.full_like(zeros, torch.inf, dtype=torch.float32)
        self.fooled = zeros.bool()
        self.step, self.source = zeros.clone(), zeros.clone()
        self.forwards, self.backwards = zeros.clone(), zeros.clone()

    def take(
        self,
        rows: Tensor,
        images: Tensor,
        *,
        margin: Tensor,
        fooled: Tensor,
        step: Tensor,
        source: int,
        forwards: Tensor | int,
        backwards: Tensor | int,
    ) -> None:
        """Take in the candidates of a run for the images ``rows`` (integers), and its passes."""
        better = fooled | (margin < self.margin[rows])
        wide = per_image(better, images)
        self.images[rows] = torch.where(wide, images, self.images[rows])
        self.margin[rows] = torch.where(better, margin, self.margin[rows])
        self.step[rows] = torch.where(better, step, self.step[rows])
        self.source[rows] = self.source[rows].masked_fill(better, source)
        self.fooled[rows] |= fooled
        self.forwards[rows] += forwards
        self.backwards[rows] += backwards

    def variant(self) -> Variant:
        return Variant(
            images=self.images,
            trace=Trace(
                margin=self.margin,
                step=self.step,
                source=self.source,
                forwards=self.forwards,
                backwards=self.backwards,
            ),
        )


def costs(trace: Trace | None, counter: PassCounter, images: int) -> dict[str, Tensor | float]:
    """``step``, ``source``, ``forwards`` and ``backwards`` of an attack on so many images.

    Each comes from the trace [B], else it is one number for every image: ``UNKNOWN``, and the mean
    of the passes that ``counter`` has counted.
    """
    defaults = {
        "step": UNKNOWN,
        "source": UNKNOWN,
        "forwards": counter.forwards / images,
        "backwards": counter.backwards / images,
    }
    reported = {name: getattr(trace, name, None) for name in defaults}
    return {name: defaults[name] if value is None else value for name, value in reported.items()}


def whole(value: Tensor | float, like: Tensor) -> Tensor:
    """[B] integers on the device of ``like`` [B]; one number for all images is rounded up."""
    if isinstance(value, Tensor):
        return value.to(like.device)
    return torch.full_like(like, math.ceil(value))


def confirmed(model: nn.Module, images: Tensor, labels: Tensor, claimed: Tensor) -> Tensor:
    """[B]: where ``claimed`` [B] and the view's original misclassifies the image too.

    A model that is no view, or a plain one, needs no confirmation. This costs one float32 forward
    of the claimed images and waits for the device, so it is called where images leave a batch, not
    in every step.
    """
    if not isinstance(model, View) or model.is_plain:
        return claimed
    rows = claimed.nonzero().flatten()
    if len(rows) == 0:
        return claimed
    original = model.original
    wrong = float32_logits(original, images[rows]).argmax(1) != labels[rows]
    return claimed.index_put((rows,), wrong)


@torch.no_grad()
def float32_logits(model: nn.Module, images: Tensor) -> Tensor:
    """The logits [B K] for verdicts: those of ``model`` itself, in float32, in eval mode, without
    autocast."""
    with evaluating(model), outside_autocast(images.device.type), full_float32():
        return forward_logits(model, images.float())
