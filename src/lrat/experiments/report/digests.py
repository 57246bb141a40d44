"""Digests of what a run keeps, by which evaluations know it."""

import hashlib

from lrat.errors import CheckpointError
from lrat.files.read import NOT_AS_WRITTEN, is_there, listed, safetensors_header, trouble
from lrat.reporting.report.collect.reading import Folder, at
from lrat.runs.folder import BESIDE_TENSORS, CHECKPOINTS, CONTENTS, MODEL, WEIGHTS, read_weights

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
    try:
        known = bool(home.json(MODEL))  # else its damage is told
        return weights_digest(read_weights(home.path / WEIGHTS, checked=known))
    except CheckpointError as error:
        if is_there(home.path / WEIGHTS):
            home.tell(f"{error}.")
    except NOT_AS_WRITTEN:
        home.tell(f"{home.path / WEIGHTS} is damaged: train the run again, or bring it back.")
    return None


def weights_digest(content: bytes) -> str | None:
    """``weights.weights_digest`` of a safetensors file, without torch: over names, types, shapes
    and bytes; None for one that holds more than tensors. Raises one of ``NOT_AS_WRITTEN`` for a
    file that is none."""
    start, tensors = safetensors_header(content)
    if BESIDE_TENSORS in (tensors.pop("__metadata__", None) or {}):
        return None
    sha, bytes_of = hashlib.sha256(), memoryview(content)
    for name in sorted(tensors):
        about = tensors[name]
        first, end = about["data_offsets"]
        if start + end > len(content):
            raise ValueError(f"{name} ends beyond the file")
        sha.update(f"{name} {_KINDS[about['dtype']]} {tuple(about['shape'])}".encode())
        sha.update(bytes_of[start + first : start + end])
    return sha.hexdigest()
