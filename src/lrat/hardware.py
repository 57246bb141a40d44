"""What a device computes with, where a model lies, and how it comes to another device."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from lrat.errors import ModelError, in_one_line


@contextmanager
def full_float32(kind: str) -> Iterator[None]:
    """Without TF32 on CUDA, which keeps 10 bits of a float32's 23 and is cuDNN's default."""
    if kind != "cuda":
        yield
        return
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    before = cudnn.allow_tf32, matmul.allow_tf32
    cudnn.allow_tf32 = matmul.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, matmul.allow_tf32 = before


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
