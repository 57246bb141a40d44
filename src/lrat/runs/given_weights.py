"""Weights that a user gives, as other programs save them.

Files of ``torch.save`` are read with ``weights_only=True`` alone, which runs no code from them.
What a file holds beside the weights is left out; what was done is said in sentences.
"""

import io
import json
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lrat.errors import CheckpointError
from lrat.files.names import WEIGHTS
from lrat.files.read import is_there
from lrat.runs.folder import read_weights
from lrat.runs.weights import read_safetensors
from lrat.text import cut, in_one_line

_CONTAINERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "weights",
    "params",
    "state_dict_ema",
    "model_ema",
    "ema",
)
"""Under which keys training programs save weights beside other things; the first one is taken."""
_FILES = (WEIGHTS, "pytorch_model.bin")
"""In folders, alone or with ``.index.json`` for several files."""
PICKLES = (b"PK\x03\x04", b"\x80")
"""How files of ``torch.save`` begin: a zip archive, or a pickle itself."""
_GLOBAL = re.compile(r"GLOBAL (\S+)")
_NAMED = 3
_DEEPEST = 4
_BESIDE = ("mean", "std")


@dataclass(frozen=True, kw_only=True)
class GivenWeights:
    """Tensors by the names in the file ``origin``; ``notes``: what was taken out of it.
    ``classes``: the names of its outputs, where the file says them."""

    origin: str
    tensors: Mapping[str, Any]
    notes: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()


def read_given_weights(address: str | Path) -> GivenWeights:
    """The weights in ``FILE`` or ``FILE#KEY``, or in a folder as ``save_pretrained`` writes it.

    ``.safetensors``, also in several files with an index, and files of ``torch.save`` (``.pt``,
    ``.pth``, ``.bin``, ``.ckpt``): a state dictionary, or a mapping that holds one. ``KEY``, with
    dots, says where in the file; its end may be the beginning of names, as ``ema_model``. Raises
    CheckpointError for files that cannot be read without running code, or that hold no weights.
    """
    text, _, key = str(address).rpartition("#")
    if not text or is_there(Path(address)):
        text, key = str(address), ""
    path = Path(text)
    path = _in_folder(path) if path.is_dir() else path
    if path.name.endswith(".index.json"):
        given = GivenWeights(origin=str(path), tensors=_sharded(path))
    else:
        content = read_weights(path, follow=True, checked=False)
        # The length at the beginning of a safetensors file may look like a pickle; a brace follows.
        if content.startswith(PICKLES) and content[8:9] != b"{":
            return _unwrapped(str(path), _loaded(path, content), key)
        given = GivenWeights(origin=str(path), tensors=read_safetensors(path, follow=True))
    return replace(given, tensors=_below(given.tensors, key, given.origin, given.tensors))


def _below(tensors: Mapping[str, Any], key: str, origin: str, content: Any) -> Mapping[str, Any]:
    """The tensors whose names begin with ``key`` and a dot, without that."""
    if not key:
        return tensors
    start = f"{key}."
    state = {
        name.removeprefix(start): value for name, value in tensors.items() if name.startswith(start)
    }
    if not state:
        raise CheckpointError(f"{origin} holds no {key!r}: {_keys(content)}")
    return state


def _in_folder(folder: Path) -> Path:
    for name in _FILES:
        for path in (folder / name, folder / f"{name}.index.json"):
            if is_there(path):
                return path
    raise CheckpointError(
        f"{folder} holds no weights: name a file, or a folder with {' or '.join(_FILES)}"
    )


def _sharded(index: Path) -> dict[str, Any]:
    """The tensors of all files that an index names, each of which lies beside it."""
    try:
        files = set(
            json.loads(read_weights(index, follow=True, checked=False))["weight_map"].values()
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{index} is no index of weights: {in_one_line(error)}") from None
    tensors: dict[str, Any] = {}
    for name in sorted(files):
        path = index.parent / str(name)
        if Path(str(name)).name != str(name):
            raise CheckpointError(f"{index} names {cut(str(name))}, which does not lie beside it")
        tensors |= read_given_weights(path).tensors
    return tensors


def _loaded(path: Path, content: bytes) -> Any:
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        wants = _GLOBAL.search(str(error))
        holds = f"{wants[1]} objects" if wants else "more than tensors"
        raise CheckpointError(
            f"{path} holds {holds}, which only running code from the file could read: save the "
            "weights alone, torch.save(model.state_dict(), FILE), where you trust it"
        ) from None
    except Exception as error:
        raise CheckpointError(f"{path} is no file of weights: {in_one_line(error)}") from None


def _unwrapped(origin: str, content: Any, key: str) -> GivenWeights:
    """The state dictionary in what a file holds."""
    whole, inside, beside = content, [], {}
    left = key.split(".") if key else []
    while left and isinstance(content, Mapping) and left[0] in content:
        inside.append(left.pop(0))
        content = content[inside[-1]]
    note = ""
    while containers := _containers(content):
        first, *others = containers
        inside.append(first)
        also = "".join(f", also there: {origin}#{other}" for other in others)
        note = f"the weights are {'.'.join(inside)!r} of {origin}{also}"
        beside = {name: content[name] for name in _BESIDE if name in content}
        content = content[first]
    if not _is_state(content):
        raise CheckpointError(f"{origin} holds no weights by name: {_keys(content)}")
    tensors = _below(dict(content), ".".join(left), origin, whole)
    return GivenWeights(
        origin=origin,
        tensors={**_statistics_beside(beside), **tensors},
        notes=(note,) if note else (),
        classes=_classes_in(whole),
    )


def _statistics_beside(beside: Mapping[str, Any]) -> dict[str, Tensor]:
    """The mean and std that a file holds beside its state dictionary."""
    try:
        statistics = {
            name: torch.as_tensor(value, dtype=torch.float32) for name, value in beside.items()
        }
    except (TypeError, ValueError, RuntimeError):
        return {}
    return statistics if len(statistics) == len(_BESIDE) else {}


def _classes_in(content: Any) -> tuple[str, ...]:
    """The names of the outputs, where a training program saved them beside the weights."""
    if not isinstance(content, Mapping):
        return ()
    numbers = content.get("class_to_idx")
    if isinstance(numbers, Mapping) and all(isinstance(each, int) for each in numbers.values()):
        return tuple(map(str, sorted(numbers, key=lambda name: numbers[name])))
    names = next((content[key] for key in ("classes", "class_names") if key in content), ())
    is_list = isinstance(names, (list, tuple)) and all(isinstance(each, str) for each in names)
    return tuple(names) if is_list else ()


def _is_state(content: Any) -> bool:
    """Whether it maps names to tensors, and to little else."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return False
    tensors = sum(isinstance(value, Tensor) for value in content.values())
    return tensors > len(content) / 2


def _containers(content: Any, depth: int = 0) -> list[str]:
    """Its keys of known names below which weights are."""
    if not isinstance(content, Mapping) or depth > _DEEPEST:
        return []
    parts = {key: content[key] for key in _CONTAINERS if isinstance(content.get(key), Mapping)}
    return [key for key, part in parts.items() if _is_state(part) or _containers(part, depth + 1)]


def _keys(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"it is a {type(content).__name__}"
    return "it holds " + (some([repr(key) for key in content]) or "nothing")


def some(names: Iterable[str]) -> str:
    listed = [cut(each) for each in names]
    rest = len(listed) - _NAMED
    return ", ".join(listed[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
