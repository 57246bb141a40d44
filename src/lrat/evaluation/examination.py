"""What is looked at before a model is attacked or trained, in a handful of forwards.

What makes its numbers less than they seem is a note, which every result carries; what makes the
work impossible is refused in ``acceptance``.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from lrat.acceleration.state import hooks_of, is_of
from lrat.attacks.gradient import computes_in
from lrat.data.arrays import odd_scale
from lrat.errors import LratError
from lrat.evaluation.forward import classify
from lrat.evaluation.outcomes import NATURAL
from lrat.modes import evaluating, forward_tried
from lrat.outputs import (
    NEVER,
    in_float32,
    raw_logits,
)
from lrat.randomness import random_state_kept

_ROUNDING = 1e-3
"""By how much of an image's largest logit (or of 1) two answers may differ: float32 adds in another
order on a GPU and in another batch (3e-7 was measured)."""
_LOW_ROUNDING = 2.0**-5
"""The same of a model that computes in low precision: bfloat16 keeps 8 bits."""
_SUM = 1e-4
"""How far the float32 sums of a softmax's outputs may lie apart, relative to them."""
_ENOUGH = 16
"""So many numbers that all lie in [0, 1] are no chance."""
_FEW = 16
"""Images of the forward whose graph is followed."""
_SATURATED = 0.95
_SQUASHING = {"Softmax": "softmax", "Sigmoid": "sigmoid", "Tanh": "tanh"}
_PASSING_ON = frozenset(
    {"Mul", "Div", "Add", "Sub", "Rsub", "Neg", "ToCopy", "Clone", "Alias"}
    | {"View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Permute", "Transpose"}
    | {"Select", "Slice"}
)
"""What autograd calls the steps through which numbers are still those of the step before."""


def examine(
    model: nn.Module, images: Tensor, index: npt.NDArray[np.int64], logits: Tensor | None = None
) -> tuple[str, ...]:
    """Sentences about what is odd in ``model`` and ``images`` [B C H W]; none for a sound pair.

    ``logits`` [B K]: what ``classify`` gave for them, where that is known. Costs one forward of all
    images, one of half of them, one of a single one and one of up to 16, in eval mode; global
    random numbers are as before. Raises what ``classify`` does.
    """
    written: list[str] = []

    def answer(some: Tensor, numbers: npt.NDArray[np.int64]) -> Tensor:
        """Each time from the same buffers: that a model writes them is a finding of its own."""
        with forward_tried(model) as changed:
            found = classify(model, some, numbers, NATURAL)
        written[:] = written or changed
        return found

    with random_state_kept():
        if logits is None:
            logits = answer(images, index)
        with forward_tried(model):
            traced = _traced(model, images[:_FEW])
        is_low = _is_low_precision(logits) or computes_in(traced, torch.float16, torch.bfloat16)
        slack = _LOW_ROUNDING if is_low else _ROUNDING
        again = answer(images, index)
        random = _differing(logits, again, slack)[0]
        found = [*_squashed(traced, logits)]
        if random:
            found.append(
                f"the model is random: asked twice, it gives other logits for {random} of "
                f"{len(images)} images, so verdicts are single draws and attacks look weak; switch "
                "its randomness off, or attack the mean of many draws"
            )
        else:
            found += _influenced(answer, images, index, logits, slack) or _otherwise(
                logits[:_FEW], traced, slack
            )
    found += writing(model, written)
    scale = odd_scale(float(images.min()), float(images.max()))
    return (*found, *([scale] if scale else []), *beside_answers(model, logits))


def beside_answers(model: nn.Module, logits: Tensor) -> tuple[str, ...]:
    """The sentences of ``examine`` that need no forward but the one that gave ``logits`` [B K]: on
    low precision and on the user's hooks."""
    if not _is_low_precision(logits):
        return _hooked(model)
    return (
        "the model answers in float16 or bfloat16, which round its margins, and attacks of others "
        "may meet gradients too small for float16; evaluate it in float32 (model.float(), without "
        "autocast)",
        *_hooked(model),
    )


def writing(model: nn.Module, changed: Sequence[str]) -> tuple[str, ...]:
    """A sentence where a forward in eval mode changed tensors of ``model``, by name."""
    buffers = [name for name, _ in model.named_buffers() if name in changed]
    weights = [name for name, _ in model.named_parameters() if name in changed]
    if not (buffers or weights):
        return ()
    what, names = ("weights", weights) if weights else ("buffers", buffers)
    return (
        f"the model writes into its {what} in eval mode ({len(names)} of them, as {names[0]}), so "
        "its answers depend on what it saw before; each batch of an attack starts from those that "
        "came with it: switch observers, moving averages and what scales weights off",
    )


def in_train_mode(model: nn.Module) -> tuple[str, ...]:
    """A sentence where a model, or a part of it, comes to an evaluation as it is trained."""
    modules = dict(model.named_modules())
    if any("eval" in vars(part) for part in modules.values()):
        return ()  # an exported program, which has no modes
    trained = [
        name
        for name, part in modules.items()
        if getattr(part, "training", False) and _has_a_mode(part, alone=not model.training)
    ]
    if not trained:
        return ()
    who = "the model" if model.training else f"{trained[-1]}, a part of the model,"
    return (
        f"{who} came in train mode and was evaluated in eval mode: call model.eval() before, if "
        "that is what is meant",
    )


def _has_a_mode(part: nn.Module, *, alone: bool) -> bool:
    """Whether its mode may matter: not that of a wrapper around a model in eval mode, nor of layers
    of PyTorch's, but for norms and dropout, without weights or ``alone`` in a model in eval mode
    (weight norm comes in train mode)."""
    if hasattr(part, "track_running_stats") or "drop" in type(part).__name__.lower():
        return True
    has_weights = any(True for _ in part.parameters(recurse=False))
    if type(part).__module__.startswith(("torch.", "lrat.")):
        return has_weights and not alone
    return has_weights or not any(True for _ in part.children())


def looks_squashed(logits: Tensor) -> bool:
    """Whether what should be logits [B K] looks like a softmax's or a sigmoid's outputs.

    Rows of non-negative numbers that all have one sum (a softmax, whatever it was multiplied with),
    or numbers of [0, 1] on both sides of one half.
    """
    if bool((logits < 0).any()):
        return False
    sums = logits.sum(1)
    if bool(((sums - 1).abs() <= _SUM).all()):
        return True
    least, most = logits.amin(), logits.amax()
    one_sum = (sums.amax() - sums.amin()) <= _SUM * sums.amax()
    varies = (logits.amax(0) - logits.amin(0)).amax() > 10 * _SUM * sums.amax()
    inside = (most <= 1) & (most > 0.5) & (least < 0.5)
    return bool(one_sum & varies) or (logits.numel() >= _ENOUGH and bool(inside))


def _squashed(traced: Tensor, logits: Tensor) -> tuple[str, ...]:
    last = _last_step(traced)
    if not last and not looks_squashed(logits):
        return ()
    return (
        "the model seems to return probabilities instead of logits: gradients vanish and attacks "
        f"look weak; remove its {last or 'softmax or sigmoid'}",
    )


def _traced(model: nn.Module, images: Tensor) -> Tensor:
    """Logits with their graph; without one of a model that has no gradients, of which attacks
    speak."""
    try:
        with evaluating(model), torch.enable_grad():
            return raw_logits(model, images.detach().clone().float().requires_grad_())
    except LratError:
        return torch.empty(0)


def _last_step(traced: Tensor) -> str:
    """``softmax``, ``sigmoid`` or a ``tanh`` that is near its ends, where autograd sees that this
    is the last thing that happens to the logits but for factors and shapes; else nothing.

    A fresh network shows by this alone what its numbers show once it is trained.
    """
    node = traced.grad_fn
    while node is not None:
        name = node.name().rstrip("0123456789").removesuffix("Backward")
        if name in _SQUASHING:
            is_far = name != "Tanh" or bool((node._saved_result.abs() > _SATURATED).any())  # type: ignore[attr-defined]
            return _SQUASHING[name] if is_far else ""
        before = [
            each
            for each, _ in node.next_functions
            if each is not None and "AccumulateGrad" not in each.name()
        ]
        node = before[0] if name in _PASSING_ON and len(before) == 1 else None
    return ""


def _is_low_precision(logits: Tensor) -> bool:
    """Whether every number is one of float16's or bfloat16's; 4 of float32 are so with a chance of
    2 ** -52. Whole numbers are in every format and count for nothing."""
    values = logits[logits.isfinite() & (logits != logits.round())]
    values = torch.unique(values)
    return len(values) >= 4 and any(
        bool((values.to(low).float() == values).all()) for low in (torch.float16, torch.bfloat16)
    )


def _differing(logits: Tensor, other: Tensor, slack: float) -> tuple[int, float]:
    """How many images [B K] have another answer, and the largest difference relative to one's
    largest logit."""
    scale = torch.where(logits > NEVER, logits, 0).abs().amax(1).clamp(min=1)
    change = (other - logits).abs().amax(1) / scale
    return int((change > slack).sum()), float(change.max())


def _influenced(
    answer: Callable[[Tensor, npt.NDArray[np.int64]], Tensor],
    images: Tensor,
    index: npt.NDArray[np.int64],
    logits: Tensor,
    slack: float,
) -> tuple[str, ...]:
    """What to say of a model whose answer for an image changes with the images beside it."""
    count = len(images)
    if count == 1:
        pair = torch.cat([images, 1 - images])
        logits = answer(pair, np.repeat(index, 2))
    changed, largest = 0, 0.0
    spans = {(row, row + 1) for row in range(count)}
    if count > 2:  # without the first and the last one, on which all others may depend
        spans = {(1, 1 + count // 2), (count // 2, count // 2 + 1)}
    for first, end in sorted(spans):
        some = slice(first, end)
        few = answer(images[some], index[some])
        other, change = _differing(logits[some], few, slack)
        changed, largest = max(changed, other), max(largest, change)
    if not changed:
        return ()
    return (
        f"the answer for an image depends on the images beside it: alone or in half of a batch, "
        f"logits change by up to {100 * largest:.2g} % of the largest, so accuracies depend on the "
        "batch size; give BatchNorm running statistics, and take means over the batch out of "
        "the model",
    )


def _otherwise(logits: Tensor, traced: Tensor, slack: float) -> tuple[str, ...]:
    """What to say of a model whose answers [B K] are others where a gradient is to follow."""
    if not len(traced):
        return ()
    count, largest = _differing(logits, in_float32(traced.detach()), slack)
    if not count:
        return ()
    return (
        f"the model answers otherwise where gradients are recorded: logits of {count} of "
        f"{len(logits)} images change by up to {100 * largest:.2g} % of the largest, so attacks "
        "follow another function than the one that is judged; take what asks for requires_grad or "
        "is_grad_enabled() out of its forward",
    )


def _hooked(model: nn.Module) -> tuple[str, ...]:
    """What to say of forward and backward hooks of the user's; PyTorch's own (of pruning, weight
    norm) are part of the model."""
    names = [
        name or type(module).__name__
        for name, module in model.named_modules()
        if any(not is_of(hook, "torch.") for hook in hooks_of(module).values())
    ]
    if not names:
        return ()
    more = f" and {len(names) - 1} more modules" if len(names) > 1 else ""
    return (
        f"hooks of {names[0]}{more} run in every forward of the model (in attacks through a view: "
        "those that change the answer), and one that stores outputs keeps all of them: remove "
        "hooks that the answer does not need",
    )
