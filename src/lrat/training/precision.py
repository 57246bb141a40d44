"""What the network computes in during the update: float32, or bfloat16 inside."""

import copy
import logging
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lrat.acceleration.observe import observed
from lrat.errors import SettingError
from lrat.hardware import bfloat16_is_fast
from lrat.text import reason
from lrat.types import Images

Precision = Literal["float32", "bf16-mixed"]
_logger = logging.getLogger(__name__)
_LOW = (torch.float16, torch.bfloat16)


def mixed(model: nn.Module, precision: Precision, device: torch.device) -> nn.Module:
    """What the loss sees: ``model`` itself in float32, else a ``Mixed`` around it.

    Weights, gradients, logits and losses are float32 either way; attacks have a view of their own.
    Raises ``SettingError`` for a device that does not compute in bfloat16; one that only emulates
    it is named in a warning.
    """
    if precision == "float32":
        return model
    problem = _tried(device)
    if problem is not None:
        raise SettingError(
            f"precision={precision!r}: {device} does not compute in bfloat16 ({problem}): use "
            "'float32' or another device"
        )
    if bfloat16_is_fast(device.type) is False:
        _logger.warning(
            "%s computes bfloat16 by emulation: training in %r works, but is slower than in "
            "'float32'",
            device,
            precision,
        )
    return Mixed(model)


class Mixed(nn.Module):
    """A model under bfloat16 autocast; whatever floating tensors it returns come out in float32.

    The linear layer that makes the logits, where it can be found, stays in float32: margins and
    weights compare logits with each other, and bfloat16 keeps 8 bits of them. The model keeps its
    own names, parameters and modes; this wrapper is for calling alone.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self._heads: list[nn.Module | None] = []  # a list, which registers no parameters twice
        self.training = model.training

    def forward(self, images: Images) -> Any:
        kind = images.device.type
        if not self._heads:
            self._heads.append(_head(self.model, images))
        with ExitStack() as stack:
            stack.enter_context(torch.autocast(kind, torch.bfloat16))
            for head in self._heads:
                if head is not None:
                    stack.enter_context(_outside_autocast(head, kind))
            return in_float32(self.model(images))


@contextmanager
def _outside_autocast(module: nn.Module, kind: str) -> Iterator[None]:
    """Inside, the module's calls are taken out of autocast: float32 in, float32 out."""
    calls = ExitStack()

    def before(module: nn.Module, inputs: Any, named: Any) -> tuple[Any, Any]:
        calls.enter_context(torch.autocast(kind, enabled=False))
        return in_float32(inputs), in_float32(named)

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        calls.close()

    with (
        calls,
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, always_call=True),
    ):
        yield


def in_float32(output: Any) -> Any:
    """The same structure with its low-precision tensors in float32.

    Tensors, tuples, lists and mappings of them, and objects with ``logits`` (see ``outputs``).
    """
    if isinstance(output, Tensor):
        return output.float() if output.dtype in _LOW else output
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return type(output)(*map(in_float32, output))
    if isinstance(output, tuple | list):
        return type(output)(map(in_float32, output))
    if isinstance(output, Mapping):
        changed: Any = copy.copy(output)
        for name, value in output.items():
            changed[name] = in_float32(value)
        return changed
    if isinstance(getattr(output, "logits", None), Tensor):
        changed = copy.copy(output)
        object.__setattr__(changed, "logits", in_float32(output.logits))
        return changed
    return output


def _head(model: nn.Module, images: Images) -> nn.Module | None:
    """The linear layer whose output is the logits; None where there is no such one."""
    try:
        name = observed(model, images).head
    except Exception:  # a model that cannot be copied
        return None
    return None if name is None else model.get_submodule(name)


def _tried(device: torch.device) -> str | None:
    """Why a small layer in bfloat16 fails forward or backward there; None if it does not."""
    try:
        with torch.autocast(device.type, torch.bfloat16):
            images = torch.ones((2, 4, 4, 4), device=device)
            weight = torch.ones((4, 4, 3, 3), device=device, requires_grad=True)
            logits = torch.nn.functional.conv2d(images, weight).flatten(1)
            logits = logits @ torch.ones((16, 3), device=device)
        if logits.dtype != torch.bfloat16:
            return f"it returned {logits.dtype}"
        torch.autograd.grad(logits.float().sum(), weight)
        finite = bool(torch.isfinite(logits).all())
    except Exception as error:
        return reason(error)
    return None if finite else "the result is not finite"
