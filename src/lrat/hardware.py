"""What a device computes with."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


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
