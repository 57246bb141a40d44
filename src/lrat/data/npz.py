"""A user's data set: NumPy's .npz with named arrays, read without pickles."""

import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.data.arrays import Splits, image_data
from lrat.data.subset import VALIDATION_FRACTION, stratified_subset, training_parts
from lrat.errors import DataError, LratError
from lrat.files.archives import check_sizes
from lrat.files.read import open_stored
from lrat.text import reason

_KEYS = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train")),
    "validation": (
        ("validation_images", "validation_labels"),
        ("val_images", "val_labels"),
        ("x_validation", "y_validation"),
        ("x_val", "y_val"),
    ),
    "test": (
        ("test_images", "test_labels"),
        ("x_test", "y_test"),
        ("images", "labels"),
        ("x", "y"),
    ),
}


def load_npz(
    path: str | Path,
    *,
    seed: int = 0,
    validation: float = VALIDATION_FRACTION,
    train_limit: int | None = None,
) -> Splits:
    """The splits in a .npz file; ``train`` is None in a file that is for evaluation only.

    Keys: ``train_images`` and ``train_labels`` (or ``x_train``, ``y_train``), ``test_images`` and
    ``test_labels`` (or ``x_test``, ``y_test``; or bare ``images``, ``labels`` or ``x``, ``y``),
    optional ``validation_images`` and ``validation_labels`` (or ``val_...``), optional
    ``class_names`` (text). Images are as in ``image_data``. Without validation images,
    ``validation`` of the training images (first limited to ``train_limit``) is held out by
    ``seed``. ``index`` is the position in the array. Raises DataError for every other file.
    """
    path = Path(path)
    arrays = _read(path)
    pairs = {part: _part(path, arrays, part) for part in _KEYS}
    if pairs["test"] is None:
        raise DataError(
            f"{path} holds no test_images with test_labels (or images with labels): "
            f"its keys are {_listed(arrays)}"
        )
    names = _class_names(path, arrays, [pair[1] for pair in pairs.values() if pair is not None])
    parts = {
        part: image_data(*pair, class_names=names, name=f"{path.name} ({part})")
        for part, pair in pairs.items()
        if pair is not None
    }
    train, held = parts.get("train"), parts.get("validation")
    if train is not None and held is None:
        train, held = training_parts(
            train, train_limit=train_limit, validation=validation, seed=seed
        )
    elif train is not None:
        train = stratified_subset(train, train_limit, seed)
    return Splits(train=train, validation=held, test=parts["test"])


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    try:
        with open_stored(path, follow=True) as stream:
            # numpy would also load a pickle or a bare .npy.
            if not zipfile.is_zipfile(stream):
                raise DataError(f"{path} is not an .npz file: write it with numpy.savez")
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as file:
                known = [key for key in file if key in _KNOWN]
                try:
                    check_sizes(file.zip, known, os.fstat(stream.fileno()).st_size)
                except ValueError as error:
                    raise DataError(f"{path}: {error}") from None
                return {key: _array(path, file, key) if key in known else _UNREAD for key in file}
    except FileNotFoundError:
        raise DataError(
            f"{path} does not exist: npz:PATH needs a file that numpy.savez wrote"
        ) from None
    except LratError:
        raise
    except OSError as error:
        raise DataError(
            f"{path} is not an .npz file that can be read ({reason(error)}): name another"
        ) from None
    except Exception as error:
        # zipfile, its decompressors and numpy raise a dozen kinds of errors for damaged files.
        raise DataError(f"{path} cannot be read ({reason(error)}): write it again") from error


_KNOWN = {key for pairs in _KEYS.values() for pair in pairs for key in pair} | {"class_names"}
_UNREAD: npt.NDArray[Any] = np.empty(0)
"""The value of other keys, which messages list, but whose arrays are not read."""


def _array(path: Path, file: Mapping[str, Any], key: str) -> npt.NDArray[Any]:
    try:
        array = file[key]
    except ValueError as error:
        raise DataError(
            f"{path}: {key} is an array of Python objects or damaged: "
            "save plain numbers of one shape"
        ) from error
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path}: {key} is not a NumPy array: write the file with numpy.savez")
    return array


def _part(path: Path, arrays: Mapping[str, Any], part: str) -> tuple[Any, Any] | None:
    for images, labels in _KEYS[part]:
        if images in arrays and labels in arrays:
            return arrays[images], arrays[labels]
        if images in arrays or labels in arrays:
            present, missing = (images, labels) if images in arrays else (labels, images)
            raise DataError(
                f"{path} holds {present} but no {missing}: its keys are {_listed(arrays)}"
            )
    return None


def _class_names(
    path: Path, arrays: Mapping[str, npt.NDArray[Any]], labels: list[npt.NDArray[Any]]
) -> tuple[str, ...] | None:
    if "class_names" in arrays:
        names = arrays["class_names"]
        if names.dtype.kind != "U" or names.ndim != 1:
            raise DataError(
                f"{path}: class_names must be a list of text, but is {names.dtype} of shape "
                f"{list(names.shape)}"
            )
        return tuple(str(name) for name in names)
    # One numbering for all parts, also where the test images lack the last class.
    numbers = [part for part in labels if part.size and part.dtype.kind in "iu"]
    largest = max((int(part.max()) for part in numbers), default=0)
    return tuple(str(number) for number in range(max(2, min(largest, 99_999) + 1)))


def _listed(arrays: Mapping[str, Any]) -> str:
    return ", ".join(sorted(arrays)) or "none"
