"""What to do when a step does not fit into memory: find how many images do, and say so."""

import gc
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lrat.errors import MemoryShortError


def largest_fitting(
    attempt: Callable[[int], None], batch: int, *, reserve: Sequence[Tensor] = ()
) -> int:
    """The largest number of images, below ``batch``, that ``attempt`` gets through; 0 for none.

    ``reserve``: as much memory as these tensors take is held meanwhile, for what a whole step
    needs beyond the attempt (momentum that the optimiser makes at its first step).
    ``attempt(n)`` does with n images what did not fit with ``batch`` of them, and lets go of
    everything it allocated. It is called about log2(batch) times. To be called outside of the
    ``except`` that caught the error: while an error is handled its traceback holds the tensors of
    the step that failed. Whatever else fails in an attempt counts as not fitting: layers that
    refuse a batch of one image must not hide what went wrong.
    """
    fits, fails = 0, batch
    while fails - fits > 1:
        middle = (fits + fails) // 2
        release()
        held: list[Tensor] = []
        try:
            held += [torch.empty_like(tensor) for tensor in reserve]
            attempt(middle)
        except Exception:
            fails = middle
        else:
            fits = middle
    release()
    return fits


def shortage(
    fits: int, batch: int, device: torch.device, *, accumulate: int = 1, processes: int = 1
) -> Exception:
    """``MemoryShortError`` that names the largest batch that fits, and how to keep the same step.

    ``batch``: images of one batch, ``accumulate`` of which make a step; ``processes`` share it, and
    a multiple of them fits.
    """
    what = f"a batch of {batch} does not fit into the memory of {device}"
    if fits == 0:
        return MemoryShortError(
            f"{what}, nor does a single image: use a smaller model, or a device with more memory"
        )
    divisors = [n for n in range(2, batch + 1) if batch % (n * processes) == 0]
    parts = next((n for n in divisors if batch // n <= fits), batch)
    size, same = batch // parts, "the same step"
    if 2 * size < fits or size % processes:  # a batch that divides badly
        size, parts, same = fits, -(-batch // fits), "about the same step"
    return MemoryShortError(
        f"{what}; the largest that does is {fits}: batch_size={size} with "
        f"accumulate={parts * accumulate} makes {same} (--set training.batch_size={size} --set "
        f"training.accumulate={parts * accumulate})"
    )


def release() -> None:
    """Hand back what nobody holds: reference cycles, and the device's cached blocks."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
