"""Images in folders, one folder a class, as torchvision's ImageFolder lays them out.

The pipeline is fixed, so that a verdict can be repeated: Pillow decodes, the orientation in a
file's EXIF is applied, the shorter side is resized (bilinear, antialiased) and the middle is cut
out; pixels are kept as uint8.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from lrat.data.arrays import ImageData, Splits
from lrat.data.subset import VALIDATION_FRACTION, hold_out, stratified_subset, training_parts
from lrat.errors import DataError
from lrat.hardware import processors
from lrat.text import cut, in_one_line

_logger = logging.getLogger(__name__)
_PARTS = {
    "train": ("train", "training"),
    "validation": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
_PART_WORDS = ("train", "val", "test", "dev")
_SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".avif")
)
TEST_FRACTION = 0.2
"""Of a folder without test images: the share of each class that is tested on."""
_SPLIT_SEED = 0
_UNREADABLE = 0.05
"""The largest share of a part's files that may be unreadable."""
_MODES = {1: "L", 3: "RGB"}
_DEEP = {"I", "I;16", "I;16B", "I;16L", "I;16N"}
_FULL_SCALE = 257
"""16-bit pixels are divided by it to lie in 0..255."""
_NAMED = 5
_Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _File:
    """An image file and its class."""

    path: Path
    label: int


def image_folder(
    path: str | Path,
    *,
    size: int | None = None,
    channels: int = 3,
    seed: int = 0,
    validation: float = VALIDATION_FRACTION,
    train_limit: int | None = None,
) -> Splits:
    """The images in ``path``/PART/CLASS/, or in ``path``/CLASS/ where there are no parts.

    Parts are ``train``, ``val`` and ``test``. Without test images the ``val`` images are tested on,
    and without these a stratified fifth of all, always the same. Of the training images (first
    limited to ``train_limit``) ``validation`` is held out by ``seed``, unless ``val`` is there for
    it. ``size``: pixels of a side after resizing and cutting; None for images that have one size.
    ``channels``: 3, or 1 for grey. ``index`` counts the files of a part, from 0. Files
    that cannot be read are left out and named, up to one in twenty. Raises DataError, which says
    what the folder holds instead.
    """
    root = Path(path)
    if not root.is_dir():
        raise DataError(f"{root} is no folder: folder:PATH needs images in PATH/CLASS/")
    folders = _parts(root)
    names = _class_names(folders or {"train": root})
    _check_names(next(iter(folders.values()), root), names)
    read = {
        part: _read(folder, names, size, channels, f"{root.name} ({part})")
        for part, folder in folders.items()
    } or {"train": _read(root, names, size, channels, root.name)}
    train, held = read.get("train"), read.get("validation")
    test = read.get("test")
    if test is None and held is not None:
        test, held = held, None
    if test is None and train is not None:
        train, test = hold_out(train, TEST_FRACTION, _SPLIT_SEED)
    if test is None:
        raise DataError(f"{root} holds too few images to test on any: {TEST_FRACTION:.0%} are none")
    if train is not None and held is None:
        train, held = training_parts(
            train, train_limit=train_limit, validation=validation, seed=seed
        )
    elif train is not None:
        train = stratified_subset(train, train_limit, seed)
    return Splits(train=train, validation=held, test=test)


def _parts(root: Path) -> dict[str, Path]:
    """The folders of parts, in any case of letters; none where a class is only called like one."""
    parts: dict[str, Path] = {}
    beside = []
    for folder in _subfolders(root):
        name = folder.name.casefold()
        part = next((part for part, names in _PARTS.items() if name in names), None)
        if part is None or not _subfolders(folder):
            beside.append(folder.name)
        elif part in parts:
            raise DataError(
                f"{root} holds {parts[part].name} and {folder.name}, both for {part}: leave one"
            )
        else:
            parts[part] = folder
    if parts and beside:
        listed = ", ".join(map(cut, beside[:_NAMED])) + ", ..." * (len(beside) > _NAMED)
        _logger.warning("%s: beside %s, left out: %s", root, ", ".join(parts), listed)
    return {part: parts[part] for part in _PARTS if part in parts}


def _subfolders(folder: Path) -> list[Path]:
    """Its folders that are shown, by name; sorted alike on every system."""
    folders = [each for each in folder.iterdir() if each.is_dir() and _is_shown(each)]
    return sorted(folders, key=lambda each: each.name)


def _check_names(folder: Path, names: Sequence[str]) -> None:
    """Refuse parts of other names that would count as classes; say the order of numbers."""
    if all(map(str.isdecimal, names)) and list(names) != sorted(names, key=int):
        listed = ", ".join(names[:_NAMED])
        _logger.warning("%s: classes are in the order of text: %s, ...", folder, listed)
    inside = [{each.name for each in _subfolders(folder / name)} for name in names]
    are_parts = all(any(part in name.casefold() for part in _PART_WORDS) for name in names)
    if are_parts and len(inside[0]) > 1 and all(each == inside[0] for each in inside):
        raise DataError(
            f"{folder}: {', '.join(names[:_NAMED])} hold the same folders and look like parts: "
            "call them train, val and test"
        )


def _class_names(folders: dict[str, Path]) -> tuple[str, ...]:
    """The classes of all parts. DataError for none, and for those that only some parts have."""
    classes = {
        part: {each.name for each in _subfolders(folder)} for part, folder in folders.items()
    }
    first = next(iter(classes))
    for part, names in classes.items():
        if names != classes[first]:
            odd = ", ".join(sorted(names ^ classes[first])[:_NAMED])
            raise DataError(
                f"{folders[part]} and {folders[first]} differ in their classes ({odd}): every part "
                "needs a folder for each class"
            )
    names = classes[first]
    alike = [name for name, count in Counter(map(str.casefold, names)).items() if count > 1]
    if alike:
        both = ", ".join(sorted(name for name in names if name.casefold() == alike[0]))
        raise DataError(f"{folders[first]}: the classes {both} differ in case alone: rename one")
    if len(names) < 2:
        raise DataError(
            f"{folders[first]} holds {len(names)} folders of classes: put the images of each of at "
            "least two classes into a folder of its own"
        )
    return tuple(sorted(names))


def _is_shown(path: Path) -> bool:
    return not path.name.startswith((".", "__"))


def _files(folder: Path, names: Sequence[str]) -> list[_File]:
    """Every image file, by class and by name. DataError for a class without any."""
    files = []
    for label, name in enumerate(names):
        of_class = [
            each
            for each in (folder / name).rglob("*")
            if each.suffix.lower() in _SUFFIXES
            and all(map(_is_shown, (each, *each.relative_to(folder / name).parents)))
            and each.is_file()
        ]
        of_class.sort(key=lambda each: each.relative_to(folder).parts)
        if not of_class:
            raise DataError(f"{folder / name} holds no images: remove the folder, or fill it")
        files += [_File(each, label) for each in of_class]
    return files


def _read(
    folder: Path, names: tuple[str, ...], size: int | None, channels: int, called: str
) -> ImageData:
    files = _files(folder, names)
    with ThreadPoolExecutor(processors()) as pool:
        pixels = list(pool.map(partial(_decoded, size=size, channels=channels), files))
    broken = [
        (str(file.path.relative_to(folder)), why)
        for file, why in zip(files, pixels, strict=True)
        if isinstance(why, str)
    ]
    if broken:
        listed = ", ".join(cut(name) for name, _ in broken[:_NAMED])
        more = ", ..." if len(broken) > _NAMED else ""
        said = (
            f"{folder}: {len(broken)} of {len(files)} images cannot be read: {listed}{more} "
            f"(the first: {broken[0][1]})"
        )
        if len(broken) > max(1, _UNREADABLE * len(files)):
            raise DataError(f"{said}; repair or remove them (up to {_UNREADABLE:.0%} are left out)")
        _logger.warning("%s; they are left out", said)
    kept = [row for row, each in enumerate(pixels) if not isinstance(each, str)]
    decoded = [each for each in pixels if not isinstance(each, str)]
    if lost := sorted({*range(len(names))} - {files[row].label for row in kept}):
        raise DataError(f"{folder / names[lost[0]]}: none of its images can be read: repair them")
    sizes = Counter(each.shape[1:] for each in decoded)
    if len(sizes) > 1:
        usual = ", ".join(f"{width}x{height}" for (height, width), _ in sizes.most_common(3))
        raise DataError(
            f"{folder}: images have {len(sizes)} sizes (as {usual}): choose one by data.size "
            "(--size 64), to which they are resized"
        )
    return ImageData(
        images=torch.from_numpy(np.stack(decoded)),
        labels=torch.tensor([files[row].label for row in kept]),
        index=torch.tensor(kept),
        class_names=names,
        name=called,
    )


def _decoded(file: _File, *, size: int | None, channels: int) -> _Pixels | str:
    """The pixels [C H W] of an image file, or why it cannot be read."""
    from PIL import Image, ImageOps

    try:
        with Image.open(file.path) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode == "F" or (image.mode == "I" and opened.format == "TIFF"):
                return "its pixels have 32 bits and so no known range: save it with 8 or 16"
            if image.mode in _DEEP:  # 16 bits: Pillow would cut them off at 255
                deep = np.asarray(image, dtype=np.float64)
                image = Image.fromarray((deep / _FULL_SCALE).round().astype(np.uint8))
            image = image.convert(_MODES[channels])
            if size is not None and image.size != (size, size):
                image = ImageOps.fit(image, (size, size), Image.Resampling.BILINEAR)
    except Exception as error:  # Pillow raises a dozen kinds for damage
        return in_one_line(error)
    array = np.asarray(image, dtype=np.uint8)
    return array[None] if channels == 1 else array.transpose(2, 0, 1)
