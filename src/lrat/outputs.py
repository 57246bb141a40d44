"""The one way in which a classifier of a user is called, and the logits in what it returns."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrat.errors import LratError, ModelError, StopNow
from lrat.text import in_one_line

NEVER = -1e9
"""What stands for a logit of -inf, a class that is never chosen. Far below the logits of networks,
and small enough that its square and its ratio to a gradient are float32 numbers."""
_DEPTH = 3
_MEMORY_SAID = (
    "can't allocate memory",  # PyTorch's CPU allocator
    "not enough memory",  # the same on Windows
    "out of memory",
    "std::bad_alloc",
    "ALLOC_FAILED",  # cuBLAS, cuDNN
)


def forward_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Float32 logits [B K] of ``images`` [B ...]: every forward of a user's model is this one.

    The model gets a contiguous tensor of its own: it may write into it, and ``view`` it.
    Logits of -inf (classes that are masked out) become ``NEVER``. ``ModelError`` in one line for
    whatever the model raises, and for an output without logits; running out of memory, an interrupt
    and our own errors pass.
    """
    return in_float32(raw_logits(model, images))


def raw_logits(model: nn.Module, images: Tensor) -> Tensor:
    """As ``forward_logits``, in the precision in which the model answers and with its -inf."""
    with failing_in_one_line(model, images):
        output = model(images.clone(memory_format=torch.contiguous_format))
        logits = logits_of(output, len(images))
        return logits if logits.device == images.device else logits.to(images.device)


def in_float32(logits: Tensor) -> Tensor:
    """Raw logits [B K] in float32, -inf as ``NEVER``."""
    logits = logits.float()
    if logits.requires_grad and torch.is_grad_enabled():
        found: Tensor = _Replaced.apply(logits)
        return found
    return _finite_below(logits)


@contextmanager
def handing_copies(model: nn.Module) -> Iterator[None]:
    """Inside, whoever calls ``model`` directly hands it copies: for code that is not ours."""

    def copied(module: nn.Module, given: Any, named: Any) -> tuple[Any, Any]:
        return tuple(map(_copy, given)), {name: _copy(value) for name, value in named.items()}

    with model.register_forward_pre_hook(copied, with_kwargs=True):
        yield


def _copy(value: Any) -> Any:
    return (
        value.clone(memory_format=torch.contiguous_format) if isinstance(value, Tensor) else value
    )


class failing_in_one_line:  # noqa: N801 - a context manager; a generator would cost ten times as much
    """What ``model`` raises inside, forward or backward, becomes one line with the batch."""

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
            cure = "; answers are asked for without gradients: use torch.enable_grad() in forward"
        raise ModelError(
            f"the model fails on {count} images {shape}: {in_one_line(error)}{cure}"
        ) from error


def _device_cure(model: nn.Module, device: torch.device) -> str:
    """What to add to the cause when a model fails whose weights lie elsewhere than the images."""
    found = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    if not found or device in found:
        return ""
    there = ", ".join(sorted(map(str, found)))
    return (
        f"; the images are on {device}, its weights on {there}: move both to one device, by .to()"
    )


def is_memory_error(error: BaseException) -> bool:
    """Whether an error says that memory on a device or of the machine ran out."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _MEMORY_SAID)


def float_cure(model: nn.Module) -> str:
    """What to add to the cause when a model fails: ``; its weights are float64: call .float() ...``
    where they are not float32, as the images are and verdicts are; else nothing."""
    original = getattr(model, "original", model)  # of a view, whose copy may be in bfloat16
    model = original if isinstance(original, nn.Module) else model
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32:
            kind = str(tensor.dtype).removeprefix("torch.")
            return f"; its weights are {kind} and the images float32: call .float() on the model"
    return ""


def logits_of(output: Any, count: int | None = None) -> Tensor:
    """The logits [B K] in a model's output, in their own precision; B is ``count`` where known.

    These are the output itself, what it holds under the name ``logits`` (key or field), or else its
    only floating tensor [B K] with K >= 2. ``ModelError`` where there is none, and where there are
    several: which of them are meant is for the user to say.
    """
    found = output
    for _ in range(_DEPTH):
        named = None if isinstance(found, Tensor) else dict(_parts(found)).get("logits")
        if named is None:
            break
        found = named
    if not isinstance(found, Tensor):
        found = _only_candidate(found, count)
    if not _fits(found, count):
        number = len(found) if count is None and found.dim() else count
        raise ModelError(
            f"the model returns shape {tuple(found.shape)} for {number} images: needed are logits "
            f"({number}, K) of K >= 2 classes, a dense tensor of floating-point numbers"
        )
    return found


def _fits(value: Tensor, count: int | None) -> bool:
    if value.layout is not torch.strided or not value.is_floating_point():
        return False
    if value.dim() != 2 or value.shape[1] < 2:
        return False
    return count is None or len(value) == count


def _only_candidate(output: Any, count: int | None) -> Tensor:
    found = {
        id(value): (path, value)
        for path, value in _tensors(output, "output")
        if _fits(value, count)
    }
    if len(found) == 1:
        ((_, logits),) = found.values()
        return logits
    if not found:
        raise ModelError(
            f"the model returns {type(output).__name__} without logits: needed is a tensor of "
            f"shape ({'B' if count is None else count}, K) with K >= 2 classes, by itself or under "
            "the name 'logits'"
        )
    listed = ", ".join(f"{path} {tuple(value.shape)}" for path, value in found.values())
    raise ModelError(
        f"the model returns {len(found)} tensors that may be its logits, {listed}: return the "
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
    """The floating tensors of an output, whatever they are."""
    return [value for _, value in _tensors(output, "output") if value.is_floating_point()]


def _parts(value: Any) -> list[tuple[Any, Any]]:
    """What an output holds, by key, name of the field, or index."""
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
    """``_finite_below``, whose gradient passes as it is: no loss has one at a logit this low."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        return _finite_below(logits)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]
