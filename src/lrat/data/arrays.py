"""Labelled images in memory, checked once on creation."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lrat.data.inputs import class_numbers, dtype_name, plain_tensor, unit_pixels
from lrat.errors import DataError
from lrat.types import Batch

_USUAL_CHANNELS = (1, 3, 4)
_MOST_CLASSES = 100_000

DARKEST = 0.07
"""Images with all pixels below this were probably scaled twice, or stored as uint8 with another
largest value than 255: 16 levels, as of the digits, end at 16/255 = 0.063."""
TOLERANCE = 1e-4
SCALE_WORDS = "but attacks and epsilon work in [0, 1]"


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageData:
    """Images with labels, the stable number of each, and the names of the classes.

    ``images`` [N C H W], uint8 or float32 in [0, 1]; a uint8 pixel means pixel / ``scale``.
    ``labels`` [N] int64 in 0..K-1 with K = ``len(class_names)``. ``index`` [N] int64: the image's
    number in its original data set, also after a selection; all noise of the image follows from it.
    Raises DataError for any other shape, type or value.
    """

    images: Tensor
    labels: Tensor
    index: Tensor
    class_names: tuple[str, ...]
    scale: float = 255
    name: str = "data"

    def __post_init__(self) -> None:
        _check_shape(self.name, tuple(self.images.shape))
        pixels = _sound_pixels(self.name, self.images, self.scale)
        object.__setattr__(self, "images", pixels)
        for field, values in (("labels", self.labels), ("index", self.index)):
            if values.dim() != 1 or values.dtype != torch.int64:
                raise DataError(
                    f"{self.name}: {field} must be int64 [N], but are "
                    f"{dtype_name(values)} {list(values.shape)}"
                )
            if len(values) != len(self.images):
                raise DataError(
                    f"{self.name}: {len(self.images)} images but {len(values)} {field}: "
                    "there must be one per image"
                )
            object.__setattr__(self, field, values.to(pixels.device))
        _check_labels(self.name, self.labels, self.classes)

    @property
    def classes(self) -> int:
        """K."""
        return len(self.class_names)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def __len__(self) -> int:
        return len(self.labels)

    def select(self, rows: Tensor) -> "ImageData":
        """These rows (int64 positions or boolean [N]), at least one; an image keeps its index."""
        rows = rows.to(self.images.device)
        return replace(
            self, images=self.images[rows], labels=self.labels[rows], index=self.index[rows]
        )

    def batch(self, rows: Tensor | slice, device: torch.device | str = "cpu") -> Batch:
        """These rows as float32 in [0, 1] on ``device``; uint8 is converted after the transfer."""
        rows = rows if isinstance(rows, slice) else rows.to(self.images.device)
        images = self.images[rows].to(device)
        if images.dtype == torch.uint8:
            images = images.float().div_(self.scale)
        return Batch(
            images=images, labels=self.labels[rows].to(device), index=self.index[rows].to(device)
        )

    def to(self, device: torch.device | str) -> "ImageData":
        return replace(
            self,
            images=self.images.to(device),
            labels=self.labels.to(device),
            index=self.index.to(device),
        )

    def digest(self) -> str:
        """SHA-256 of pixels, labels, index, scale and class names: the identity of the contents."""
        shape = tuple(self.images.shape)
        header = (shape, dtype_name(self.images), float(self.scale), self.class_names)
        sha = hashlib.sha256(repr(header).encode())
        for part in (self.images, self.labels, self.index):
            sha.update(part.cpu().contiguous().numpy().data)
        return sha.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The parts of a data set; ``train`` and ``validation`` may be None.

    Raises DataError where the parts differ in image shape or class names.
    """

    train: ImageData | None
    validation: ImageData | None
    test: ImageData

    def __post_init__(self) -> None:
        for part in (self.train, self.validation):
            if part is None:
                continue
            if part.shape != self.test.shape:
                raise DataError(
                    f"{part.name}: images are {list(part.shape)}, those of {self.test.name} are "
                    f"{list(self.test.shape)} (C, H, W): all parts need one shape"
                )
            if part.class_names != self.test.class_names:
                raise DataError(
                    f"{part.name}: {part.classes} classes, {self.test.name} has "
                    f"{self.test.classes}, or their names differ: all parts need the same"
                )

    def training(self) -> ImageData:
        """``train``; DataError where there is none."""
        if self.train is None:
            raise DataError(
                f"{self.test.name} holds images for evaluation only: training needs a file with "
                "train_images and train_labels as well"
            )
        return self.train


def image_data(
    images: Any,
    labels: Any,
    *,
    class_names: tuple[str, ...] | None = None,
    scale: float = 255,
    name: str = "data",
) -> ImageData:
    """ImageData from a user's arrays or tensors, numbered 0..N-1 in their order.

    Grey images [N H W] get a channel; channel-last images [N H W C] with C in 1, 3, 4 are
    transposed unless they may be [N C H W]; float64 and float16 become float32; labels of any
    integer type become int64, [N 1] becomes [N]. Class names default to 0, 1, ... up to the largest
    label. Raises DataError for ambiguous shapes, and as ImageData.
    """
    pixels = plain_tensor(f"{name}: images", images)
    pixels = _channels_first(name, pixels.float() if pixels.is_floating_point() else pixels)
    numbers = class_numbers(f"{name}: labels", plain_tensor(f"{name}: labels", labels))
    if class_names is None:
        largest = int(numbers.max()) if len(numbers) else 0
        if largest >= _MOST_CLASSES:
            raise DataError(f"{name}: labels reach {largest}: number the classes 0..K-1")
        class_names = tuple(str(label) for label in range(max(2, largest + 1)))
    return ImageData(
        images=pixels,
        labels=numbers,
        index=torch.arange(pixels.shape[0] if pixels.dim() else 0, device=pixels.device),
        class_names=class_names,
        scale=scale,
        name=name,
    )


def _channels_first(name: str, images: Tensor) -> Tensor:
    if images.dim() == 3:
        return images[:, None]
    if images.dim() != 4:
        return images
    first, last = (images.shape[axis] in _USUAL_CHANNELS for axis in (1, 3))
    if first and last:
        raise DataError(
            f"{name}: images of shape {list(images.shape)} may be [N C H W] or [N H W C]: if the "
            "channels come last, save images.transpose(0, 3, 1, 2); if they come first, pad the "
            "width to more than 4 pixels"
        )
    return images.permute(0, 3, 1, 2).contiguous() if last else images


def _check_shape(name: str, shape: tuple[int, ...]) -> None:
    if len(shape) == 3:
        raise DataError(
            f"{name}: images have shape {list(shape)}, without a channel axis: pass images[:, None]"
        )
    if len(shape) != 4:
        raise DataError(f"{name}: images must be [N C H W], but have shape {list(shape)}")
    if 0 in shape:
        raise DataError(f"{name} is empty: images have shape {list(shape)}; at least 1 is needed")
    if shape[1] not in _USUAL_CHANNELS and shape[3] in _USUAL_CHANNELS:
        raise DataError(
            f"{name}: images of shape {list(shape)} look channel-last: pass [N C H W], "
            "images.permute(0, 3, 1, 2)"
        )


def _sound_pixels(name: str, images: Tensor, scale: float) -> Tensor:
    if images.dtype == torch.uint8:
        if not 0 < scale <= 255:
            raise DataError(f"{name}: scale {scale:g} must be in (0, 255]")
        if int(images.max()) > scale:
            raise DataError(
                f"{name}: uint8 pixels reach {int(images.max())}, above the scale {scale:g} that "
                "means 1: give the largest possible pixel as scale"
            )
        return images
    if images.dtype != torch.float32:
        raise DataError(
            f"{name}: images are {dtype_name(images)}: save pixels 0..255 as uint8 "
            "or pixels 0..1 as float32"
        )
    return unit_pixels(name, images)


def _check_labels(name: str, labels: Tensor, classes: int) -> None:
    if classes < 2:
        raise DataError(f"{name}: {classes} class names: a classifier needs at least 2 classes")
    wrong = sorted(set(labels[(labels < 0) | (labels >= classes)].tolist()))
    if wrong:
        shown = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
        raise DataError(
            f"{name}: labels must lie in 0..{classes - 1}, but {shown} occur: "
            "number the classes from 0, or name all of them"
        )


def odd_scale(low: float, high: float, what: str = "images") -> str | None:
    """The sentence about images whose pixels from ``low`` to ``high`` are not in [0, 1], or all
    below ``DARKEST``; None for others."""
    if low >= -TOLERANCE and DARKEST <= high <= 1 + TOLERANCE:
        return None
    return (
        f"{what} have values from {low:.4g} to {high:.4g}, {SCALE_WORDS}: "
        "scale the images to [0, 1] and put any normalisation into the model"
    )
