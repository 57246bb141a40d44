"""What a device computes with, where a model lies, and how it comes to another device."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lrat.errors import ModelError, in_one_line

_FULL = "ieee"


@contextmanager
def full_float32() -> Iterator[None]:
    """Without TF32 or bfloat16 inside float32 operations, however the user allowed them.

    TF32 keeps 10 bits of a float32's 23, and is cuDNN's default. The settings are as before
    afterwards, also where they were made by ``torch.set_float32_matmul_precision``.
    """
    holders = _holders()
    if holders:
        before = [holder.fp32_precision for holder in holders]
        try:
            for holder in holders:
                holder.fp32_precision = _FULL
            yield
        finally:
            for holder, value in zip(holders, before, strict=True):
                holder.fp32_precision = "none"  # as the setting for all backends says
                if holder.fp32_precision != value:
                    holder.fp32_precision = value
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    flags = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = flags


def float32_settings() -> tuple[Any, ...]:
    """How precise float32 operations of this process are, for ``set_float32`` in another one."""
    holders = _holders()
    if holders:
        return tuple(holder.fp32_precision for holder in holders)
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def set_float32(settings: tuple[Any, ...]) -> None:
    """What ``float32_settings`` gave."""
    holders = _holders()
    if not holders:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = settings
    for holder, value in zip(holders, settings, strict=False):
        if holder.fp32_precision != value:
            holder.fp32_precision = value


def _holders() -> list[Any]:
    """Where PyTorch 2.9 and later keep the precision of float32 operations; [] before."""
    backends: Any = torch.backends
    found = [backends.cuda.matmul]
    for library in (backends.cudnn, backends.mkldnn):
        found += [getattr(library, name, None) for name in ("matmul", "conv", "rnn")]
    return [holder for holder in found if hasattr(holder, "fp32_precision")]


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """cuDNN off for a model with recurrent layers: it refuses their backward in eval mode."""
    cudnn: Any = torch.backends.cudnn
    if not cudnn.enabled or not any(isinstance(part, nn.RNNBase) for part in model.modules()):
        yield
        return
    cudnn.enabled = False
    try:
        yield
    finally:
        cudnn.enabled = True


def device_of(model: nn.Module) -> torch.device | None:
    """The device of the model's first parameter, or of its first buffer; None without either."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return None


def move(model: nn.Module, device: torch.device) -> nn.Module:
    """The model itself, on ``device``.

    ``.to`` is called only where all of its tensors lie on one other device: some libraries forbid
    it, and a model whose parts lie on several devices was divided on purpose. Raises ``ModelError``
    where ``.to`` fails.
    """
    found = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    wanted = torch.empty(0, device=device).device  # with its index, as tensors have it
    if len(found) != 1 or found == {wanted}:
        return model
    try:
        return model.to(wanted)
    except Exception as error:
        (here,) = found
        raise ModelError(
            f"the model lies on {here} and cannot be moved to {wanted}: "
            f"{in_one_line(error)}; pass device={str(here)!r}, or a model that lies there"
        ) from error
