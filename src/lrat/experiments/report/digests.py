"""Digests of what a run keeps, by which evaluations know it."""

import hashlib
from pathlib import Path
from typing import Any

from lrat.errors import CheckpointError
from lrat.experiments.folder import (
    BESIDE_TENSORS,
    CHECKPOINTS,
    CONTENTS,
    MODEL,
    WEIGHTS,
    check_weights,
)
from lrat.experiments.report.reading import Folder, at
from lrat.reading import NOT_AS_WRITTEN, listed, open_stored, parse_json, trouble

_KINDS = {
    "F64": "torch.float64",
    "F32": "torch.float32",
    "F16": "torch.float16",
    "BF16": "torch.bfloat16",
    "I64": "torch.int64",
    "I32": "torch.int32",
    "I16": "torch.int16",
    "I8": "torch.int8",
    "U8": "torch.uint8",
    "BOOL": "torch.bool",
}
_LENGTH = 8


def digests(home: Folder) -> dict[str, str]:
    """By name: ``weights`` (the selected ones, as evaluations know them), ``configuration``, and
    the contents that the run was begun with (``train images`` and so on)."""
    found = {}
    weights = _of_weights(home)
    if weights is not None:
        found["weights"] = weights
    try:
        checkpoints = listed(home.path / CHECKPOINTS, "*.json")
    except OSError as error:
        home.tell(f"{home.path / CHECKPOINTS} {trouble(error)}.")
        checkpoints = []
    for path in checkpoints[-1:]:
        identity = at(Folder(path.parent, home.problems).json(path.name), "identity")
        if isinstance(identity, str):
            found["configuration"] = identity
    for name, value in home.json(CONTENTS).items():
        found[name if " " in name else f"{name} images"] = str(value)
    return found


def _of_weights(home: Folder) -> str | None:
    path = home.path / WEIGHTS
    if not path.is_file():
        return None
    try:
        if home.json(MODEL):  # else its damage is told
            check_weights(home.path)
        return weights_file_digest(path)
    except CheckpointError as error:
        home.tell(f"{error}.")
        return None
    except OSError as error:
        home.tell(f"{path} {trouble(error)}.")
        return None
    except NOT_AS_WRITTEN:
        home.tell(f"{path} is damaged: train the run again, or bring it back.")
        return None


def weights_file_digest(path: Path) -> str | None:
    """``weights.weights_digest`` of a safetensors file, without torch: over names, types, shapes
    and bytes; None for one that holds more than tensors. Raises ``ValueError`` or ``KeyError`` for
    a file that is none."""
    with open_stored(path) as file:
        content = memoryview(file.read())
    start = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    if start > len(content):
        raise ValueError("a header that ends beyond the file")
    tensors: dict[str, Any] = parse_json(bytes(content[_LENGTH:start]).decode())
    if BESIDE_TENSORS in (tensors.pop("__metadata__", None) or {}):
        return None
    sha = hashlib.sha256()
    for name in sorted(tensors):
        about = tensors[name]
        first, end = about["data_offsets"]
        if start + end > len(content):
            raise ValueError(f"{name} ends beyond the file")
        sha.update(f"{name} {_KINDS[about['dtype']]} {tuple(about['shape'])}".encode())
        sha.update(content[start + first : start + end])
    return sha.hexdigest()
