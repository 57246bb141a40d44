"""NumPy's .npz archives from anybody: what they would expand to is known before they are read."""

import math
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np

from lrat.text import cut

_MOST_UNASKED = 2**30
_MOST_EXPANSION = 100


def check_sizes(archive: zipfile.ZipFile, names: Iterable[str], size: int) -> None:
    """Refuse arrays whose headers speak of other sizes than the archive, and a small file that
    would fill the memory. ``names``: of the arrays; ``size``: the file's, in bytes. ``ValueError``,
    or what zipfile and numpy raise on damage."""
    known = archive.NameToInfo
    found = [known[f"{name}.npy"] for name in names if f"{name}.npy" in known]
    for info in found:
        with archive.open(info) as stream:
            told = _size_by_header(stream)
        if told is not None and told != info.file_size:
            by_header = cut(f"{told:,}")
            raise ValueError(
                f"{info.filename} is damaged: its header speaks of {by_header} bytes, and "
                f"there are {info.file_size:,}: write the file again"
            )
    expanded = sum(info.file_size for info in found)
    if expanded > max(_MOST_UNASKED, _MOST_EXPANSION * size):
        raise ValueError(
            f"it would expand to {expanded / 1e9:.1f} GB, more than {_MOST_EXPANSION} times its "
            "size: write it with numpy.savez, which does not compress"
        )


def _size_by_header(stream: Any) -> int | None:
    """Bytes of the header of a .npy file and of the numbers that it speaks of; None for Python
    objects, which have no size."""
    version = np.lib.format.read_magic(stream)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:
        raise ValueError(f"plain numbers are not written in format {version}")
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        return None
    if not dtype.itemsize:
        raise ValueError(f"{dtype} has no size")
    size: int = stream.tell() + math.prod(shape) * dtype.itemsize
    return size
