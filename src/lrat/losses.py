"""Losses per example: attacks ascend them, training descends them; the caller reduces.

A ``Loss`` is prepared once for a batch, which chooses targets and keeps clean predictions, and then
called on the logits of each step. A plain function ``(logits, labels) -> [B]`` is adapted by
``as_loss``. Logits are converted to float32.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from inspect import unwrap
from types import FunctionType
from typing import Any, Protocol, TypeAlias, runtime_checkable

import torch
import torch.nn.functional as F  # noqa: N812 - the community's name
from torch import Tensor

from lrat.errors import LratError, SettingError
from lrat.outputs import is_memory_error
from lrat.text import in_one_line, shown
from lrat.types import Labels, Logits, PerExample

_logger = logging.getLogger(__name__)
_TINY = 1e-12


@dataclass(frozen=True)
class Prepared:
    """A loss that lacks the logits alone; ``context`` holds its other tensors, with rows [B]."""

    function: Callable[..., Tensor]
    context: tuple[Tensor, ...]

    def __call__(self, logits: Logits) -> PerExample:
        logits = logits.float()
        if not _is_from_lrat(self.function):
            return _user_losses(self.function, logits, self.context)
        losses: Tensor = self.function(logits, *self.context)
        return losses

    def select(self, rows: Tensor) -> "Prepared":
        """The loss of these rows (integer or boolean [B])."""
        return Prepared(self.function, tuple(part[rows] for part in self.context))

    @staticmethod
    def stack(parts: Sequence["Prepared"], sizes: Sequence[int] | None = None) -> "Prepared":
        """One prepared loss for several batches, with a loss each, stacked along the rows.

        ``sizes``: the rows of each part, for losses whose ``context`` is empty.
        """
        if any(part.function is not parts[0].function for part in parts):
            counts = [len(part.context[0]) for part in parts] if sizes is None else list(sizes)
            stacked = _LossesByRow(tuple(parts), tuple(counts))
            return Prepared(stacked, (stacked.rows,))
        contexts = zip(*(part.context for part in parts), strict=True)
        return Prepared(parts[0].function, tuple(torch.cat(tensors) for tensors in contexts))


def _is_from_lrat(function: Callable[..., Any]) -> bool:
    """Whether lrat defines the function; a closure of lrat's wraps a function of the user."""
    function = unwrap(function)
    if not isinstance(function, FunctionType):
        return isinstance(function, _LossesByRow | SmoothedCrossEntropy)
    return str(function.__module__).startswith("lrat.") and function.__closure__ is None


def _user_losses(
    function: Callable[..., Any], logits: Tensor, context: tuple[Tensor, ...]
) -> PerExample:
    """Float32 [B] of a user's function, which gets a copy of the logits, into which it may write.

    Where a loss is NaN or infinite its gradient becomes NaN: a constant would have the gradient 0,
    and attacks would silently not move.
    """
    name = f"loss {getattr(function, '__name__', function)!r}"
    try:
        losses = function(logits.clone(), *context)
    except Exception as error:
        if isinstance(error, LratError) or is_memory_error(error):
            raise
        raise SettingError(
            f"{name} fails on {len(logits)} images: {in_one_line(error)}; it is called with "
            "(logits, labels) and must return one value per image"
        ) from error
    is_tensor = isinstance(losses, Tensor) and not losses.is_complex()
    if not is_tensor or losses.shape != logits.shape[:1]:
        text = f"shape {tuple(losses.shape)}" if is_tensor else shown(losses)
        raise SettingError(
            f"{name} returned {text} for {len(logits)} images: return one value per image "
            "(reduction='none')"
        )
    values: Tensor = losses.float()
    return values * (1 + 0 * logits.sum(1)) if values.requires_grad else values


class _LossesByRow:
    """Several prepared losses as one function of the stacked logits and the rows' numbers [B].

    With all ``rows``, in the order in which they were stacked, it splits the logits without waiting
    for the device; a selection is first sorted by part, which waits.
    """

    def __init__(self, parts: tuple[Prepared, ...], sizes: tuple[int, ...]) -> None:
        self._parts = parts
        self._sizes = list(sizes)
        device = next((tensor.device for part in parts for tensor in part.context), None)
        self.rows = torch.arange(sum(sizes), device=device)

    def __call__(self, logits: Tensor, rows: Tensor) -> Tensor:
        if rows is self.rows:
            pieces = zip(self._parts, torch.split(logits, self._sizes), strict=True)
            return torch.cat([part(piece) for part, piece in pieces])
        order = rows.argsort()
        losses, first = [], 0
        for part, size in zip(self._parts, self._sizes, strict=True):
            chosen = order[(rows[order] >= first) & (rows[order] < first + size)]
            losses.append(part.select(rows[chosen] - first)(logits[chosen]))
            first += size
        return torch.cat(losses)[order.argsort()]


@runtime_checkable
class Loss(Protocol):
    """A loss that attacks ascend and objectives descend.

    ``needs_clean``: ``prepare`` needs the logits of the clean images. ``targeted``: ``prepare``
    needs ``rank`` too, [B] int64: 1 is the highest wrong class of the clean logits, 2 the next.
    ``prepare`` never detaches: attacks call it under ``no_grad``, training does not.
    """

    @property
    def needs_clean(self) -> bool: ...

    @property
    def targeted(self) -> bool: ...

    def prepare(
        self, labels: Labels, clean_logits: Logits | None = None, rank: Labels | None = None
    ) -> Prepared: ...


LossLike: TypeAlias = Loss | Callable[[Tensor, Tensor], Tensor]
"""A loss as attacks take it: a ``Loss``, or a plain function (logits, labels) -> [B]."""


class _Named:
    """A loss that prints as the name of its function, so that configurations read as written."""

    function: Callable[..., Tensor]

    def __reduce__(self) -> str | tuple[Any, ...]:
        # The function's name leads to its decorated loss, so pickle stores the name.
        name = self.function.__name__ if hasattr(self.function, "__name__") else ""
        return name if globals().get(name) is self else (type(self), (self.function,))

    def __repr__(self) -> str:
        return getattr(self.function, "__name__", repr(self.function))


@dataclass(frozen=True, repr=False)
class Untargeted(_Named):
    """A loss of logits and labels alone."""

    function: Callable[[Tensor, Tensor], Tensor]
    needs_clean = False
    targeted = False

    def __call__(self, logits: Logits, labels: Labels) -> PerExample:
        return self.prepare(labels)(logits)

    def prepare(
        self, labels: Labels, clean_logits: Logits | None = None, rank: Labels | None = None
    ) -> Prepared:
        return Prepared(self.function, (labels,))


@dataclass(frozen=True, repr=False)
class Targeted(_Named):
    """A loss of logits, labels and target classes, which the clean logits give by rank."""

    function: Callable[[Tensor, Tensor, Tensor], Tensor]
    needs_clean = True
    targeted = True

    def __call__(self, logits: Logits, labels: Labels, targets: Labels) -> PerExample:
        return self.function(logits.float(), labels, targets)

    def prepare(
        self, labels: Labels, clean_logits: Logits | None = None, rank: Labels | None = None
    ) -> Prepared:
        if clean_logits is None or rank is None:
            raise SettingError(f"{self!r} is targeted: prepare needs clean_logits and rank")
        return Prepared(self.function, (labels, ranked_targets(clean_logits, labels, rank)))


@dataclass(frozen=True, repr=False)
class Paired(_Named):
    """A loss between logits and the clean image's logits."""

    function: Callable[[Tensor, Tensor, Tensor], Tensor]
    needs_clean = True
    targeted = False

    def __call__(self, logits: Logits, labels: Labels, clean_logits: Logits) -> PerExample:
        return self.function(logits.float(), labels, clean_logits.float())

    def prepare(
        self, labels: Labels, clean_logits: Logits | None = None, rank: Labels | None = None
    ) -> Prepared:
        if clean_logits is None:
            raise SettingError(
                f"{self!r} compares with the clean image: prepare needs clean_logits"
            )
        return Prepared(self.function, (labels, clean_logits.float()))


def as_loss(loss: Any) -> Loss:
    """A ``Loss`` unchanged; a function ``(logits, labels) -> [B]`` as an untargeted loss."""
    if isinstance(loss, Loss) and not isinstance(loss, type):
        return loss
    if callable(loss) and not isinstance(loss, type):
        return Untargeted(loss)
    raise SettingError(f"loss={shown(loss)}: pass a Loss or a function (logits, labels) -> [B]")


def untargeted_loss(loss: Any, attack: str) -> Loss:
    """As ``as_loss``; ``SettingError`` for a targeted one, for which ``attack`` has no targets."""
    known = as_loss(loss)
    if known.targeted:
        raise SettingError(
            f"{attack}(loss={shown(known)}): a targeted loss needs targets: use APGD(targets=)"
        )
    return known


def ranked_targets(clean_logits: Logits, labels: Labels, rank: Labels) -> Labels:
    """[B]: the rank-th highest wrong class of the clean logits (1 is the highest)."""
    wrong = _without_label(clean_logits, labels)
    order = wrong.argsort(dim=1, descending=True, stable=True)
    return order.gather(1, (rank - 1)[:, None]).squeeze(1)


def _without_label(logits: Tensor, labels: Tensor) -> Tensor:
    return logits.scatter(1, labels[:, None], float("-inf"))


def _of_class(logits: Tensor, classes: Tensor) -> Tensor:
    return logits.gather(1, classes[:, None]).squeeze(1)


def true_probability(logits: Logits, labels: Labels) -> PerExample:
    """V_PGD (Eq. 5): p_y, from a float32 softmax. The smaller, the more vulnerable."""
    return _of_class(logits.float().softmax(dim=1), labels)


def logit_margin(logits: Logits, labels: Labels) -> PerExample:
    """V_CW (Eq. 6): z_y - max_{i != y} z_i. Negative exactly where the image is misclassified."""
    logits = logits.float()
    return _of_class(logits, labels) - _without_label(logits, labels).max(dim=1).values


def probability_margin(logits: Logits, labels: Labels) -> PerExample:
    """t (Eq. 11): p_y - max_{i != y} p_i, in [-1, 1], from a float32 softmax."""
    probabilities = logits.float().softmax(dim=1)
    others = probabilities.scatter(1, labels[:, None], -1.0).max(dim=1).values
    return _of_class(probabilities, labels) - others


def margin_deficit(logits: Logits, labels: Labels) -> PerExample:
    """1 - t (Eq. 11 and 12), in [0, 2], from a float32 softmax: 1 - p_y is summed from the other
    probabilities, so that it does not cancel where p_y is near 1."""
    others = logits.float().softmax(dim=1).scatter(1, labels[:, None], 0.0)
    return others.sum(dim=1) + others.max(dim=1).values


@Untargeted
def cross_entropy(logits: Logits, labels: Labels) -> PerExample:
    """-log p_y (Eq. 13)."""
    return F.cross_entropy(logits, labels, reduction="none")


@dataclass(frozen=True, repr=False)
class SmoothedCrossEntropy:
    """(1 - s) * (-log p_y) + s * mean_k(-log p_k): cross-entropy against labels of which the share
    s is spread over all classes (Szegedy et al. 2016, section 7). For training, not for attacks.
    """

    smoothing: float
    needs_clean = False
    targeted = False

    def __post_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise SettingError(
                f"label_smoothing={self.smoothing!r}: the share of the label that is spread over "
                "all classes must lie in [0, 1), as 0.1; 0 for none"
            )

    def __call__(self, logits: Logits, labels: Labels) -> PerExample:
        return F.cross_entropy(
            logits.float(), labels, reduction="none", label_smoothing=self.smoothing
        )

    def prepare(
        self, labels: Labels, clean_logits: Logits | None = None, rank: Labels | None = None
    ) -> Prepared:
        return Prepared(self, (labels,))

    def __repr__(self) -> str:
        return f"smoothed_cross_entropy({self.smoothing!r})"


def smoothed_cross_entropy(smoothing: float) -> Loss:
    """Cross-entropy with label smoothing; ``cross_entropy`` for 0.

    Raises ``SettingError`` for a smoothing outside [0, 1).
    """
    smoothed = SmoothedCrossEntropy(smoothing)
    return smoothed if smoothing else cross_entropy


@Untargeted
def cw(logits: Logits, labels: Labels) -> PerExample:
    """max_{i != y} z_i - z_y (Eq. 8 and 14).

    The paper's constant kappa_c = 50 is left out: without a clamp it changes no gradient.
    """
    return -logit_margin(logits, labels)


@cache
def _log_fallback(name: str, classes: int, instead: str) -> None:
    _logger.warning("%s is undefined for %d classes: %s is used instead", name, classes, instead)


@Untargeted
def dlr(logits: Logits, labels: Labels) -> PerExample:
    """Difference of logits ratio (Croce & Hein 2020): -(z_y - max_{i != y} z_i) / (z_1 - z_3).

    z_k is the k-th largest logit. With two classes there is no third: the logit margin is used.
    """
    classes = logits.shape[1]
    if classes < 3:
        _log_fallback("dlr", classes, "the logit margin")
        return -logit_margin(logits, labels)
    top = logits.topk(3, dim=1).values
    return -logit_margin(logits, labels) / (top[:, 0] - top[:, 2] + _TINY)


@Targeted
def targeted_dlr(logits: Logits, labels: Labels, targets: Labels) -> PerExample:
    """Targeted DLR (Eq. 9): -(z_y - z_t) / (z_1 - (z_3 + z_4) / 2), maximised.

    With fewer than four classes the denominator is undefined: z_t - z_y is used.
    """
    classes = logits.shape[1]
    difference = _of_class(logits, labels) - _of_class(logits, targets)
    if classes < 4:
        _log_fallback("targeted_dlr", classes, "z_t - z_y")
        return -difference
    top = logits.topk(4, dim=1).values
    return -difference / (top[:, 0] - 0.5 * (top[:, 2] + top[:, 3]) + _TINY)


@Targeted
def difference(logits: Logits, labels: Labels, targets: Labels) -> PerExample:
    """z_t - z_y: negative on the label's side of the boundary to the target, 0 on it."""
    return _of_class(logits, targets) - _of_class(logits, labels)


@Paired
def kl(logits: Logits, labels: Labels, clean_logits: Logits) -> PerExample:
    """KL(p(clean) || p(x')) per example, which TRADES ascends and descends (Zhang et al. 2019)."""
    clean = clean_logits.log_softmax(dim=1)
    return (clean.exp() * (clean - logits.log_softmax(dim=1))).sum(dim=1)
