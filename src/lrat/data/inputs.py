"""The checks of images and labels, for data sets, evaluations and attacks."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from lrat.checks import MODULE
from lrat.errors import DataError, ModelError
from lrat.text import shown

_logger = logging.getLogger(__name__)
ROUNDING = 1e-6
"""Pixels at most this far outside [0, 1] are rounding errors, and are clipped."""
_UNCHECKED, _TRUSTED = -2, -1
_largest_label: ContextVar[int] = ContextVar("largest_label", default=_UNCHECKED)


def dtype_name(values: Tensor) -> str:
    """``float32``."""
    return str(values.dtype).removeprefix("torch.")


def plain_tensor(what: str, values: Any) -> Tensor:
    """A user's values as a dense tensor of real numbers. ``what``: their name in messages.

    Raises DataError.
    """
    if isinstance(values, list | tuple) and any(isinstance(each, Tensor) for each in values):
        values = _stacked(what, values)
    if isinstance(values, Tensor):
        for kind, is_kind, cure in (
            ("sparse or nested", values.layout != torch.strided or values.is_nested, "to_dense()"),
            ("quantised", values.is_quantized, "dequantize()"),
            ("complex", values.is_complex(), "real"),
            ("on the device 'meta', which holds no numbers", values.is_meta, "to_empty('cpu')"),
        ):
            if is_kind and not isinstance(values, FakeTensor):
                raise DataError(f"{what} are {kind}: pass a dense tensor of numbers, as .{cure}")
        return values.detach().resolve_neg()
    array = _array(what, values)
    if array.dtype.kind not in "biuf":
        raise DataError(f"{what} of type {array.dtype} are not an array of numbers")
    if array.dtype.itemsize > 8:  # torch knows no long double
        array = array.astype(np.float64)
    # A copy in the machine's byte order: torch takes neither another order nor read-only memory.
    return torch.from_numpy(np.array(array, dtype=array.dtype.newbyteorder("="), order="C"))


def _stacked(what: str, values: Any) -> Tensor:
    try:
        return torch.stack([torch.as_tensor(each) for each in values])
    except (RuntimeError, TypeError, ValueError):
        raise DataError(f"{what} differ in shape or type: pass one tensor of all") from None


def _array(what: str, values: Any) -> npt.NDArray[Any]:
    try:
        array = np.asarray(values)
        if np.ma.is_masked(values):
            raise TypeError
        # Data frames hold Python's numbers in arrays of objects.
        return np.asarray(array.tolist()) if array.dtype == object else array
    except Exception:
        raise DataError(
            f"{what} {shown(values)} are no array of numbers (rows of different lengths?): pass "
            "one array or tensor of all"
        ) from None


def class_numbers(what: str, labels: Tensor) -> Tensor:
    """int64 [B] from labels [B] or [B 1] of any integer type, or of whole numbers as floats.

    Raises DataError.
    """
    if labels.dim() == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dim() != 1:
        raise DataError(
            f"{what} must be [N] class numbers, but have shape {list(labels.shape)}; "
            "of one-hot rows pass labels.argmax(1)"
        )
    if labels.dtype == torch.bool:
        raise DataError(f"{what} are bool: class numbers must be integers, 0..K-1")
    if labels.is_floating_point() and not isinstance(labels, FakeTensor):
        broken = labels[~((labels == labels.round()) & labels.isfinite())]
        if len(broken):
            raise DataError(
                f"{what} are {dtype_name(labels)}, as {float(broken[0]):g}: class numbers must be "
                "integers, 0..K-1"
            )
    return labels.long()


def unit_pixels(what: str, images: Tensor) -> Tensor:
    """Float images in [0, 1]; rounding errors beyond are clipped, with a warning.

    Waits for the device once. Raises DataError.
    """
    if isinstance(images, FakeTensor) or not images.numel():
        return images
    low, high = _range(images)
    if low >= 0 and high <= 1:
        return images
    if not (math.isfinite(low) and math.isfinite(high)):
        raise DataError(f"{what}: {_not_finite(images)}")
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        beyond = max(-low, high - 1)
        _logger.warning("%s: pixels up to %.2g outside [0, 1] are clipped", what, beyond)
        return images.clamp(0, 1)
    raise DataError(
        f"{what}: float images must lie in [0, 1], but range over [{_end(low)}, {_end(high)}]: "
        + _range_cure(low, high)
    )


def _range(values: Tensor) -> tuple[float, float]:
    with _disable_current_modes():  # modes that count an attack's operations do not count these
        low, high = torch.stack(torch.aminmax(values)).tolist()
    return low, high


def _end(value: float) -> str:
    """The value with enough digits to show on which side of 0 and 1 it lies."""
    text = f"{value:g}"
    return f"{value:.9g}" if float(text) in (0.0, 1.0) else text


def _not_finite(images: Tensor) -> str:
    bad = ~images.isfinite()
    inside = images[~bad]
    others = (
        f"the others range over [{float(inside.min()):g}, {float(inside.max()):g}]"
        if len(inside)
        else "all of them"
    )
    return (
        f"{int(bad.sum())} pixels are NaN or infinite, in {int(bad.flatten(1).any(1).sum())} "
        f"images ({others}): remove or repair them"
    )


def _range_cure(low: float, high: float) -> str:
    if low < -1 - ROUNDING or (low < 0 and high > 1 + ROUNDING):
        return (
            "undo the normalisation, images * std + mean, and put it into the model "
            "(lrat.models.Normalize)"
        )
    if low < 0:
        return (
            "pass (images + 1) / 2 of images in [-1, 1], and put the rest into the model, "
            "lrat.models.Normalize([0.5], [0.5]) with one 0.5 per channel"
        )
    return (
        "pixels 0..255 must be uint8 or divided by 255, and normalisation belongs into the model "
        "(lrat.models.Normalize)"
    )


def check_classes(largest: int, classes: int, *, smallest: int = 0) -> None:
    """``ModelError`` where the ``largest`` label is beyond the model's classes."""
    if largest >= classes:
        raise ModelError(
            f"labels go up to {largest}, which takes {largest + 1} classes, but the model has "
            f"{classes}: " + from_zero(smallest, largest, classes)
        )


def from_zero(smallest: int, largest: int, classes: int) -> str:
    """The cure where a model has fewer classes than the labels take."""
    if smallest == 1 and largest == classes:
        return "number the classes from 0, labels - 1"
    return "give it one output per class"


def channels_cure(shape: Sequence[int]) -> str:
    """The cure where a model refuses images (C, H, W) whose channels are probably wrong."""
    channels, _, width = shape if len(shape) == 3 else (3, 0, 0)
    if width < channels:
        return "; if the channels come last, pass images.permute(0, 3, 1, 2)"
    if channels == 4:
        return "; if the fourth channel is alpha, leave it out: images[:, :3]"
    return "" if channels in (1, 3) else f"; the images have {channels} channels"


def check_module(model: Any) -> None:
    """``SettingError`` for an object that is no ``nn.Module``; a module on 'meta' is allowed."""
    if not isinstance(model, nn.Module):
        MODULE("model", model)


def entering(images: Any, labels: Any) -> tuple[Tensor, Tensor, int]:
    """The arguments of an attack, checked: float32 images, int64 labels, the largest label.

    They are not checked again inside ``trusting`` or in the attacks that another one runs. On CUDA
    a check is one wait for the device. Raises DataError.
    """
    if _largest_label.get() != _UNCHECKED:
        return images.detach().float(), labels.long(), _largest_label.get()
    for name, value in (("images", images), ("labels", labels)):
        if not isinstance(value, Tensor):
            raise DataError(f"{name}={shown(value)}: an attack takes tensors of images and labels")
    images, labels = plain_tensor("images", images), plain_tensor("labels", labels)
    if not images.is_floating_point():
        raise DataError(
            f"images are {dtype_name(images)}: attacks take floats in [0, 1], as images / 255"
        )
    if images.dim() < 2:
        raise DataError(f"images have shape {list(images.shape)}: pass [B C H W], images[None]")
    if not len(images):
        raise DataError("there are no images to attack: pass at least one")
    if len(labels.shape) and len(labels) != len(images):
        raise DataError(f"{len(images)} images but {len(labels)} labels: pass one per image")
    if labels.device != images.device:
        raise DataError(
            f"images are on {images.device}, labels on {labels.device}: move both to the model's "
            "device"
        )
    labels, images = class_numbers("labels", labels), unit_pixels("images", images.float())
    if isinstance(labels, FakeTensor):
        return images, labels, _TRUSTED
    lowest, largest = map(int, _range(labels))
    if lowest < 0:
        raise DataError(f"labels start at 0, found {lowest}")
    return images, labels, largest


@contextmanager
def labels_up_to(largest: int) -> Iterator[None]:
    """Inside, attacks do not check their images and labels, the largest of which is ``largest``."""
    token = _largest_label.set(largest)
    try:
        yield
    finally:
        _largest_label.reset(token)


def trusting() -> AbstractContextManager[None]:
    """Inside, attacks do not check their images and labels, which the caller has checked."""
    return labels_up_to(_TRUSTED)


def check_logits(logits: Tensor) -> None:
    """``ModelError`` where labels of the current attack are beyond the classes of these logits
    [B K]."""
    check_classes(_largest_label.get(), logits.shape[1])
