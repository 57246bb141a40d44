"""The gradient that attacks follow: of a loss, with respect to the images alone."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lrat.acceleration import View
from lrat.data.inputs import check_logits
from lrat.errors import LratError, ModelError, NoGradientError
from lrat.hardware import differentiable
from lrat.losses import Prepared
from lrat.outputs import failing_in_one_line, in_float32, raw_logits
from lrat.threat import per_image

_LEAST = 1e-30
_REFUSALS = (
    "derivative for",
    "not implemented",
    "must implement",
    "not differentiable",
    "does not require grad",
    "not have been used in the graph",
    "Inference tensors",
)
"""What PyTorch says where an operation has no derivative, or nothing leads back to the images."""


@dataclass
class _Way:
    """How a model's gradients are taken: found out at its first one, kept while it is attacked.

    ``low``: whether it computes in float16, whose smallest number is 6e-8. ``by_backward``: whether
    it refuses ``torch.autograd.grad``.
    """

    low: bool | None = None
    by_backward: bool = False


_WAYS: WeakKeyDictionary[nn.Module, _Way] = WeakKeyDictionary()


@contextmanager
def gradients_of(model: nn.Module) -> Iterator[None]:
    """Inside, what the first gradient of ``model`` shows about it holds for all of them."""
    before = _WAYS.get(model)
    if before is None:
        _WAYS[model] = _Way()
    try:
        with differentiable(model):
            yield
    finally:
        if before is None:
            _WAYS.pop(model, None)


def image_gradient(
    model: nn.Module, loss: Prepared, images: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the summed loss with respect to the images, the losses [B] and the logits [B K].

    One forward and one backward to the images alone: no weight gradient is formed and no
    ``param.grad`` is touched. A model that refuses ``torch.autograd.grad`` (reentrant checkpoints)
    goes backward with its parameters frozen. Through a network in float16 each image's gradient is
    scaled, so that it does not underflow.

    Raises ``NoGradientError`` where no gradient reaches the images, ``ModelError`` in one line for
    what the model raises forward or backward.
    """
    way = _WAYS.get(model) or _Way()
    while True:
        try:
            with _frozen(model) if way.by_backward else nullcontext():
                return _taken(model, loss, images, way)
        except _RefusedError:
            way.by_backward = True
        except ModelError as error:
            if not isinstance(model, View) or not model.gives_way(error):
                raise


class _RefusedError(LratError):
    """The model's graph cannot be asked for some of its gradients alone."""


def _taken(
    model: nn.Module, loss: Prepared, images: Tensor, way: _Way
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        raw = raw_logits(model, leaf)
        if way.low is None:
            way.low = computes_in(raw, torch.float16)
        logits = in_float32(raw)
        check_logits(logits)
        if way.low:
            logits = logits.detach().requires_grad_(raw.requires_grad)
        losses = loss(logits)
        if not losses.requires_grad:
            raise _no_gradient("a detach, no_grad or integer step in the model or the loss?")
        with failing_in_one_line(model, images):
            if way.low:
                gradient = _scaled(losses, logits, raw, leaf, way)
            else:
                gradient = _pulled_back(losses.sum(), leaf, None, way)
    return gradient.float(), losses.detach(), logits.detach()


def _scaled(losses: Tensor, logits: Tensor, raw: Tensor, leaf: Tensor, way: _Way) -> Tensor:
    """The gradient by way of float16: each image's starts at 1 and is divided back in float32."""
    (slope,) = torch.autograd.grad(losses.sum(), logits)
    size = slope.abs().amax(1).clamp(min=_LEAST)
    gradient = _pulled_back(raw, leaf, (slope / size[:, None]).to(raw.dtype), way).float()
    return gradient * per_image(size, gradient)


def _pulled_back(value: Tensor, leaf: Tensor, slope: Tensor | None, way: _Way) -> Tensor:
    try:
        if way.by_backward:
            torch.autograd.backward(value, slope)
            found = leaf.grad
        else:
            (found,) = torch.autograd.grad(value, leaf, slope, allow_unused=True)
    except RuntimeError as error:
        if not way.by_backward and ".grad()" in str(error):
            raise _RefusedError from error
        if any(text in str(error) for text in _REFUSALS):
            raise _no_gradient(str(error).splitlines()[0]) from error
        raise
    if found is None:
        raise _no_gradient("the logits do not depend on them")
    return found


def _no_gradient(why: str) -> NoGradientError:
    return NoGradientError(
        f"the loss does not depend on the images differentiably ({why}): gradient attacks cannot "
        "be used on it; evaluate with Square, which needs none, alone: a suite file with the line "
        "`attacks: {square: {attack: square}}`"
    )


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """No parameter wants a gradient inside, so that a whole backward reaches the images alone."""
    trained = [value for value in model.parameters() if value.requires_grad]
    for value in trained:
        value.requires_grad_(False)
    try:
        yield
    finally:
        for value in trained:
            value.requires_grad_()


def computes_in(logits: Tensor, *kinds: torch.dtype) -> bool:
    """Whether any step from the images to these logits was in one of these precisions, or is one
    that autograd does not show, as a reentrant checkpoint's."""
    seen, left = set(), [logits.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "CheckpointFunctionBackward" or any(
            part.dtype in kinds for part in getattr(node, "_input_metadata", ())
        ):
            return True
        left += [before for before, _ in node.next_functions]
    return False


def without_gradient(model: nn.Module, images: Tensor) -> Tensor:
    """[B]: where the gradient of the summed logits is NaN; for the error that names an image."""
    gradient, _, _ = image_gradient(model, Prepared(lambda logits: logits.sum(1), ()), images)
    return gradient.flatten(1).isnan().any(1)
