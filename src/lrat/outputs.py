"""The only way in which lrat calls a user's classifier, and the logits in its output."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lrat.errors import LratError, ModelError, StopNow
from lrat.text import in_one_line

NEVER = -1e9
"""Replaces a logit of -inf, of a class that is never chosen. It is far below the logits of
networks, but its square and its ratio to a gradient are still float32 numbers."""
_DEPTH = 3
_SHOWN: WeakKeyDictionary[nn.Module, tuple[Callable[[Tensor, Any], None], ...]] = (
    WeakKeyDictionary()
)
_MEMORY_MESSAGES = (
    "can't allocate memory",  # PyTorch's CPU allocator
    "not enough memory",  # the same on Windows
    "out of memory",
    "std::bad_alloc",
    "ALLOC_FAILED",  # cuBLAS, cuDNN
)


def forward_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Float32 logits [B K] of ``images`` [B ...]; all forwards of a user's model run here.

    The model gets a contiguous copy, into which it may write. Logits of -inf (masked classes)
    become ``NEVER``. ``ModelError`` in one line for an exception of the model, and for an output
    without logits; out-of-memory errors, interrupts and lrat's errors pass unchanged.
    """
    return in_float32(raw_logits(model, images))


def raw_logits(model: nn.Module, images: Tensor) -> Tensor:
    """As ``forward_logits``, in the precision of the model's output and with its -inf."""
    with failing_in_one_line(model, images):
        output = model(images.clone(memory_format=torch.contiguous_format))
        for show in _SHOWN.get(model, ()) if _SHOWN else ():
            show(images, output)
        logits = logits_of(output, len(images))
        return logits if logits.device == images.device else logits.to(images.device)


def in_float32(logits: Tensor) -> Tensor:
    """Raw logits [B K] in float32, -inf as ``NEVER``."""
    logits = logits.float()
    if logits.requires_grad and torch.is_grad_enabled():
        replaced: Tensor = _Replaced.apply(logits)
        return replaced
    return _finite_below(logits)


@contextmanager
def shown_calls(model: nn.Module, show: Callable[[Tensor, Any], None]) -> Iterator[None]:
    """Inside, ``show`` is called with the images and the output of each forward of ``model`` here:
    for a class whose own ``__call__`` runs no hooks."""
    before = _SHOWN.get(model, ())
    _SHOWN[model] = (*before, show)
    try:
        yield
    finally:
        _SHOWN[model] = before


@contextmanager
def handing_copies(model: nn.Module) -> Iterator[None]:
    """Inside, ``model`` gets copies of its arguments also from other libraries, which call it
    directly."""

    def copy(value: Any) -> Any:
        is_tensor = isinstance(value, Tensor)
        return value.clone(memory_format=torch.contiguous_format) if is_tensor else value

    def copies(module: nn.Module, positional: Any, named: Any) -> tuple[Any, Any]:
        return tuple(map(copy, positional)), {name: copy(value) for name, value in named.items()}

    with model.register_forward_pre_hook(copies, with_kwargs=True):
        yield


class failing_in_one_line:  # noqa: N801 - a context manager; a generator would cost ten times as much
    """An exception of ``model`` inside, forward or backward, becomes one line with the batch."""

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        self._model = model
        self._shape = images.shape
        self._device = images.device

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None or isinstance(error, LratError | StopNow | KeyboardInterrupt):
            return
        if is_memory_error(error):
            return
        count, shape = self._shape[0], list(self._shape[1:])
        cure = _device_cure(self._model, self._device) or float_cure(self._model)
        cure = cure or (
            "; call it on such a batch by itself to see where it fails, or pass another batch_size"
        )
        if "does not require grad" in str(error) and not torch.is_grad_enabled():
            cure = "; it is called without gradients: use torch.enable_grad() in forward"
        raise ModelError(
            f"the model fails on {count} images {shape}: {in_one_line(error)}{cure}"
        ) from error


def _device_cure(model: nn.Module, device: torch.device) -> str:
    """The cure for a model whose weights lie on another device than the images; else nothing."""
    devices = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if not devices or device in devices:
        return ""
    listed = ", ".join(sorted(map(str, devices)))
    return (
        f"; the images are on {device}, its weights on {listed}: move both to one device, by .to()"
    )


def is_memory_error(error: BaseException) -> bool:
    """Whether the error means that a device or the machine has run out of memory."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MEMORY_MESSAGES)


def float_cure(model: nn.Module) -> str:
    """The cure ``; its weights are float64 and the images float32: call .float() ...`` for a model
    whose weights are not float32; else nothing."""
    original = getattr(model, "original", model)  # a view's copy may be in bfloat16
    model = original if isinstance(original, nn.Module) else model
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            return f"; its weights are {kind} and the images float32: call .float() on the model"
    return ""


def logits_of(output: Any, count: int | None = None) -> Tensor:
    """The logits [B K] in a model's output, in their own precision; B is ``count`` where known.

    These are the output itself, its part with the name ``logits`` (key or field), or else its only
    floating tensor [B K] with K >= 2. ``ModelError`` where there is none, and where there are
    several, among which the user must choose.
    """
    logits = output
    for _ in range(_DEPTH):
        named = None if isinstance(logits, Tensor) else dict(_parts(logits)).get("logits")
        if named is None:
            break
        logits = named
    if not isinstance(logits, Tensor):
        logits = _only_candidate(logits, count)
    if not _fits(logits, count):
        number = len(logits) if count is None and logits.dim() else count
        raise ModelError(
            f"the model returns shape {tuple(logits.shape)} for {number} images: needed are logits "
            f"({number}, K) of K >= 2 classes, a dense tensor of floating-point numbers"
        )
    return logits


def _fits(value: Tensor, count: int | None) -> bool:
    if value.layout is not torch.strided or not value.is_floating_point():
        return False
    if value.dim() != 2 or value.shape[1] < 2:
        return False
    return count is None or len(value) == count


def _only_candidate(output: Any, count: int | None) -> Tensor:
    candidates = {
        id(value): (path, value)
        for path, value in _tensors(output, "output")
        if _fits(value, count)
    }
    if len(candidates) == 1:
        ((_, logits),) = candidates.values()
        return logits
    if not candidates:
        raise ModelError(
            f"the model returns {type(output).__name__} without logits: needed is a tensor of "
            f"shape ({'B' if count is None else count}, K) with K >= 2 classes, by itself or under "
            "the name 'logits'"
        )
    listed = ", ".join(f"{path} {tuple(value.shape)}" for path, value in candidates.values())
    raise ModelError(
        f"the model returns {len(candidates)} tensors that may be its logits, {listed}: return the "
        "logits under the name 'logits', or pass lrat.models.PickOutput(model, key), whose key is "
        "the index or the name of the right one"
    )


def _tensors(value: Any, path: str, depth: int = 0) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif depth < _DEPTH:
        for name, part in _parts(value):
            yield from _tensors(part, f"{path}[{name!r}]", depth + 1)


def tensors_in(output: Any) -> list[Tensor]:
    """All floating tensors of an output."""
    return [value for _, value in _tensors(output, "output") if value.is_floating_point()]


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """The parts of an output, by key, name of the field, or index."""
    if isinstance(value, Mapping):
        return list(value.items())
    if hasattr(value, "_fields"):  # a named tuple
        return [(name, getattr(value, name)) for name in value._fields]
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    if is_dataclass(value):
        return [(field.name, getattr(value, field.name, None)) for field in fields(value)]
    logits = getattr(value, "logits", None)
    return [] if logits is None else [("logits", logits)]


def _finite_below(logits: Tensor) -> Tensor:
    return torch.nan_to_num(logits, nan=torch.nan, posinf=torch.inf, neginf=NEVER)


class _Replaced(torch.autograd.Function):
    """``_finite_below`` with an unchanged gradient: no loss has one at a logit as low as this."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        return _finite_below(logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]
