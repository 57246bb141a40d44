"""Checks of untrusted .npz archives: the sizes of their arrays, before they are read."""

import math
import zipfile
from collections.abc import Iterable
from typing import Any

import numpy as np

from lrat.text import cut

_ALWAYS_ALLOWED = 2**30
_MOST_EXPANSION = 100


def check_sizes(archive: zipfile.ZipFile, names: Iterable[str], size: int) -> None:
    """Refuse arrays whose headers contradict the archive, and a small file that would fill the
    memory. ``names``: those of the arrays; ``size``: that of the file, in bytes. ``ValueError``, or
    the exceptions of zipfile and numpy for damaged files."""
    known = archive.NameToInfo
    members = [known[f"{name}.npy"] for name in names if f"{name}.npy" in known]
    for info in members:
        with archive.open(info) as stream:
            by_header = _size_by_header(stream)
        if by_header is not None and by_header != info.file_size:
            raise ValueError(
                f"{info.filename} is damaged: its header speaks of {cut(f'{by_header:,}')} bytes, "
                f"and there are {info.file_size:,}: write the file again"
            )
    expanded = sum(info.file_size for info in members)
    if expanded > max(_ALWAYS_ALLOWED, _MOST_EXPANSION * size):
        raise ValueError(
            f"it would expand to {expanded / 1e9:.1f} GB, more than {_MOST_EXPANSION} times its "
            "size: write it with numpy.savez, which does not compress"
        )


def _size_by_header(stream: Any) -> int | None:
    """The bytes of a .npy file according to its header; None for Python objects."""
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
