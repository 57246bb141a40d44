"""The examination of a model before it is attacked or trained, by a few forwards.

Properties that make its numbers misleading become notes of every result; ``acceptance`` refuses
models that cannot be evaluated or trained.
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
from lrat.outputs import NEVER, in_float32, raw_logits
from lrat.randomness import random_state_kept

_ROUNDING = 1e-3
"""The largest difference of two equal answers, relative to an image's largest logit (or to 1):
float32 sums in another order on a GPU and in another batch (3e-7 was measured)."""
_LOW_ROUNDING = 2.0**-5
"""The same for a model that computes in low precision: bfloat16 has 8 bits."""
_SUM = 1e-4
"""The largest relative difference between float32 sums of a softmax's outputs."""
_ENOUGH = 16
"""The fewest numbers in [0, 1] that are taken for a sigmoid's outputs, not for chance."""
_FEW = 16
"""The number of images of the forward whose graph is examined."""
_SATURATED = 0.95
_SQUASHING = {"Softmax": "softmax", "Sigmoid": "sigmoid", "Tanh": "tanh"}
_PASSING_ON = frozenset(
    {"Mul", "Div", "Add", "Sub", "Rsub", "Neg", "ToCopy", "Clone", "Alias"}
    | {"View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Permute", "Transpose"}
    | {"Select", "Slice"}
)
"""Autograd's names of steps that only scale, shift or reshape the numbers of the step before."""


def examine(
    model: nn.Module, images: Tensor, index: npt.NDArray[np.int64], logits: Tensor | None = None
) -> tuple[str, ...]:
    """Sentences about problems of ``model`` and ``images`` [B C H W]; none for a sound pair.

    ``logits`` [B K]: those of ``classify``, where they are known. Costs one forward of all images,
    one of half of them, one of a single one and one of up to 16, in eval mode; global random states
    are restored. Raises the exceptions of ``classify``.
    """
    written: list[str] = []

    def answer(some: Tensor, numbers: npt.NDArray[np.int64]) -> Tensor:
        """The logits from the same buffers each time; buffers that the model writes are noted."""
        with forward_tried(model) as changed:
            answers = classify(model, some, numbers, NATURAL)
        written[:] = written or changed
        return answers

    with random_state_kept():
        if logits is None:
            logits = answer(images, index)
        with forward_tried(model):
            traced = _traced(model, images[:_FEW])
        is_low = _is_low_precision(logits) or computes_in(traced, torch.float16, torch.bfloat16)
        slack = _LOW_ROUNDING if is_low else _ROUNDING
        again = answer(images, index)
        random = _differing(logits, again, slack)[0]
        notes = [*_squashed(traced, logits)]
        if random:
            notes.append(
                f"the model is random: a second forward gives other logits for {random} of "
                f"{len(images)} images, so verdicts are single draws and attacks look weak; switch "
                "its randomness off, or attack the mean of many draws"
            )
        else:
            notes += _influenced(answer, images, index, logits, slack) or _otherwise(
                logits[:_FEW], traced, slack
            )
    notes += writing(model, written)
    scale = odd_scale(float(images.min()), float(images.max()))
    return (*notes, *([scale] if scale else []), *beside_answers(model, logits))


def beside_answers(model: nn.Module, logits: Tensor) -> tuple[str, ...]:
    """The sentences of ``examine`` that need only the forward of these ``logits`` [B K]: on low
    precision and on the user's hooks."""
    if not _is_low_precision(logits):
        return _hooked(model)
    return (
        "the model answers in float16 or bfloat16, which round its margins, and attacks of other "
        "libraries may get gradients too small for float16; evaluate it in float32 "
        "(model.float(), without autocast)",
        *_hooked(model),
    )


def writing(model: nn.Module, changed: Sequence[str]) -> tuple[str, ...]:
    """A sentence where a forward in eval mode changed tensors of ``model``, by name."""
    buffers = [name for name, _ in model.named_buffers() if name in changed]
    weights = [name for name, _ in model.named_parameters() if name in changed]
    if not (buffers or weights):
        return ()
    kind, names = ("weights", weights) if weights else ("buffers", buffers)
    return (
        f"the model writes into its {kind} in eval mode ({len(names)} of them, as {names[0]}), so "
        "its answers depend on earlier images; each batch of an attack starts from the original "
        "ones: switch off observers, moving averages and the scaling of weights",
    )


def in_train_mode(model: nn.Module) -> tuple[str, ...]:
    """A sentence where a model, or a part of it, comes to an evaluation in train mode."""
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
    subject = "the model" if model.training else f"{trained[-1]}, a part of the model,"
    return (
        f"{subject} came in train mode and was evaluated in eval mode: call model.eval() before, "
        "if that is what is meant",
    )


def _has_a_mode(part: nn.Module, *, alone: bool) -> bool:
    """Whether the mode of ``part`` may matter. It does for norms and dropout. It does not for a
    wrapper without weights, nor for another layer of PyTorch that has no weights, or that is
    ``alone`` in train mode (as weight norm is)."""
    if hasattr(part, "track_running_stats") or "drop" in type(part).__name__.lower():
        return True
    has_weights = any(True for _ in part.parameters(recurse=False))
    if type(part).__module__.startswith(("torch.", "lrat.")):
        return has_weights and not alone
    return has_weights or not any(True for _ in part.children())


def looks_squashed(logits: Tensor) -> bool:
    """Whether ``logits`` [B K] look like outputs of a softmax or a sigmoid.

    Those are rows of non-negative numbers with equal sums (a softmax times any factor), or numbers
    in [0, 1] on both sides of one half.
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
    """Logits with their autograd graph; empty for a model that fails here, which its first attack
    reports."""
    try:
        with evaluating(model), torch.enable_grad():
            return raw_logits(model, images.detach().clone().float().requires_grad_())
    except LratError:
        return torch.empty(0)


def _last_step(traced: Tensor) -> str:
    """``softmax``, ``sigmoid`` or a saturated ``tanh`` if that is the last step of the autograd
    graph before factors and shapes, else ``""``.

    This finds a squashing layer in an untrained network too, whose numbers do not show it yet.
    """
    node = traced.grad_fn
    while node is not None:
        name = node.name().rstrip("0123456789").removesuffix("Backward")
        if name in _SQUASHING:
            is_far = name != "Tanh" or bool((node._saved_result.abs() > _SATURATED).any())  # type: ignore[attr-defined]
            return _SQUASHING[name] if is_far else ""
        previous = [
            each
            for each, _ in node.next_functions
            if each is not None and "AccumulateGrad" not in each.name()
        ]
        node = previous[0] if name in _PASSING_ON and len(previous) == 1 else None
    return ""


def _is_low_precision(logits: Tensor) -> bool:
    """Whether every number is a float16 or a bfloat16 number, which 4 of float32 are with
    probability 2 ** -52. Whole numbers are in every format and do not count."""
    values = logits[logits.isfinite() & (logits != logits.round())]
    values = torch.unique(values)
    return len(values) >= 4 and any(
        bool((values.to(low).float() == values).all()) for low in (torch.float16, torch.bfloat16)
    )


def _differing(logits: Tensor, other: Tensor, slack: float) -> tuple[int, float]:
    """The number of images whose logits [B K] differ, and the largest difference relative to an
    image's largest logit."""
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
    """The sentence for a model whose logits for an image depend on the rest of the batch."""
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
    """The sentence for a model whose logits [B K] differ where gradients are recorded."""
    if not len(traced):
        return ()
    count, largest = _differing(logits, in_float32(traced.detach()), slack)
    if not count:
        return ()
    return (
        f"the model answers otherwise where gradients are recorded: logits of {count} of "
        f"{len(logits)} images change by up to {100 * largest:.2g} % of the largest, so attacks "
        "follow another function than the one that is judged; remove the tests of requires_grad "
        "or is_grad_enabled() from its forward",
    )


def _hooked(model: nn.Module) -> tuple[str, ...]:
    """The sentence for the user's forward and backward hooks; those of PyTorch (of pruning, weight
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
