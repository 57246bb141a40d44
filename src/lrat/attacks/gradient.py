"""The gradient of a loss with respect to the images alone, which attacks follow."""

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
"""PyTorch's messages where an operation has no derivative, or the images have no gradient."""


@dataclass
class _Method:
    """How a model's gradients are computed: known from its first one, kept during an attack.

    ``low``: whether it computes in float16, whose smallest number is 6e-8. ``by_backward``: whether
    it refuses ``torch.autograd.grad``.
    """

    low: bool | None = None
    by_backward: bool = False


_METHODS: WeakKeyDictionary[nn.Module, _Method] = WeakKeyDictionary()


@contextmanager
def gradients_of(model: nn.Module) -> Iterator[None]:
    """Inside, the first gradient of ``model`` decides how all of its gradients are computed."""
    before = _METHODS.get(model)
    if before is None:
        _METHODS[model] = _Method()
    try:
        with differentiable(model):
            yield
    finally:
        if before is None:
            _METHODS.pop(model, None)


def image_gradient(
    model: nn.Module, loss: Prepared, images: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of the summed loss with respect to the images, the losses [B] and the logits [B K].

    One forward and one backward to the images alone: no weight gradient is formed and no
    ``param.grad`` is touched. For a model that refuses ``torch.autograd.grad`` (reentrant
    checkpoints) a whole backward with frozen parameters replaces it. In a float16 network each
    image's gradient is scaled, so that it does not underflow.

    Raises ``NoGradientError`` where no gradient reaches the images, ``ModelError`` in one line for
    exceptions of the model, forward or backward.
    """
    method = _METHODS.get(model) or _Method()
    while True:
        try:
            with _frozen(model) if method.by_backward else nullcontext():
                return _gradient(model, loss, images, method)
        except _RefusedError:
            method.by_backward = True
        except ModelError as error:
            if not isinstance(model, View) or not model.gives_way(error):
                raise


class _RefusedError(LratError):
    """The model's graph refuses to compute only some of its gradients."""


def _gradient(
    model: nn.Module, loss: Prepared, images: Tensor, method: _Method
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        raw = raw_logits(model, leaf)
        if method.low is None:
            method.low = computes_in(raw, torch.float16)
        logits = in_float32(raw)
        check_logits(logits)
        if method.low:
            logits = logits.detach().requires_grad_(raw.requires_grad)
        losses = loss(logits)
        if not losses.requires_grad:
            raise _no_gradient("a detach, no_grad or integer step in the model or the loss?")
        with failing_in_one_line(model, images):
            if method.low:
                gradient = _scaled(losses, logits, raw, leaf, method)
            else:
                gradient = _pulled_back(losses.sum(), leaf, None, method)
    return gradient.float(), losses.detach(), logits.detach()


def _scaled(losses: Tensor, logits: Tensor, raw: Tensor, leaf: Tensor, method: _Method) -> Tensor:
    """The gradient through float16: that of each image starts at 1 and is scaled in float32."""
    (slope,) = torch.autograd.grad(losses.sum(), logits)
    size = slope.abs().amax(1).clamp(min=_LEAST)
    gradient = _pulled_back(raw, leaf, (slope / size[:, None]).to(raw.dtype), method).float()
    return gradient * per_image(size, gradient)


def _pulled_back(value: Tensor, leaf: Tensor, slope: Tensor | None, method: _Method) -> Tensor:
    try:
        if method.by_backward:
            torch.autograd.backward(value, slope)
            gradient = leaf.grad
        else:
            (gradient,) = torch.autograd.grad(value, leaf, slope, allow_unused=True)
    except RuntimeError as error:
        if not method.by_backward and ".grad()" in str(error):
            raise _RefusedError from error
        if any(text in str(error) for text in _REFUSALS):
            raise _no_gradient(str(error).splitlines()[0]) from error
        raise
    if gradient is None:
        raise _no_gradient("the logits do not depend on them")
    return gradient


def _no_gradient(cause: str) -> NoGradientError:
    return NoGradientError(
        f"the loss does not depend on the images differentiably ({cause}): gradient attacks cannot "
        "be used on it; evaluate with Square alone, which needs no gradient: a suite file with the "
        "line `attacks: {square: {attack: square}}`"
    )


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Inside, no parameter requires a gradient, so that a backward reaches the images alone."""
    trained = [value for value in model.parameters() if value.requires_grad]
    for value in trained:
        value.requires_grad_(False)
    try:
        yield
    finally:
        for value in trained:
            value.requires_grad_()


def computes_in(logits: Tensor, *kinds: torch.dtype) -> bool:
    """Whether any step from the images to these logits used one of these precisions, or is hidden
    from autograd, as in a reentrant checkpoint."""
    visited, queue = set(), [logits.grad_fn]
    while queue:
        node = queue.pop()
        if node is None or node in visited:
            continue
        visited.add(node)
        if node.name() == "CheckpointFunctionBackward" or any(
            part.dtype in kinds for part in getattr(node, "_input_metadata", ())
        ):
            return True
        queue += [previous for previous, _ in node.next_functions]
    return False


def without_gradient(model: nn.Module, images: Tensor) -> Tensor:
    """[B]: where the gradient of the summed logits is NaN, for the message that names an image."""
    gradient, _, _ = image_gradient(model, Prepared(lambda logits: logits.sum(1), ()), images)
    return gradient.flatten(1).isnan().any(1)
