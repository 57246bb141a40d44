"""Weights that a user gives, as other programs save them, and how they come into a network.

Files of ``torch.save`` are read with ``weights_only=True`` alone, which runs no code from them.
What a file holds beside the weights, and what others' wrappers put before their names, is left out
where everything fits then; what was done is said in sentences.
"""

import io
import json
import pickle
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lrat.errors import CheckpointError, ModelError
from lrat.files.names import WEIGHTS
from lrat.files.read import is_there
from lrat.models.wrappers import Normalize, Normalized, Statistics
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
_WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.", "network.", "net.")
"""What DataParallel, ``torch.compile``, Lightning and users' own modules put before names."""
_FILES = (WEIGHTS, "pytorch_model.bin")
"""In folders, alone or with ``.index.json`` for several files."""
PICKLES = (b"PK\x03\x04", b"\x80")
"""How files of ``torch.save`` begin: a zip archive, or a pickle itself."""
_OPTIONAL = "num_batches_tracked"
_GLOBAL = re.compile(r"GLOBAL (\S+)")
_MEAN = re.compile(r"(^|[._])(mean|mu)$")
_STD = re.compile(r"(^|[._])(std|sigma)$")
_NAMED = 3
_MOST_CHANNELS = 4
_SAME = 1e-4


@dataclass(frozen=True, kw_only=True)
class GivenWeights:
    """Tensors by the names in the file ``origin``; ``notes``: what was taken out of it."""

    origin: str
    tensors: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Filled:
    """``notes``: what was done with given weights, in sentences. ``fresh``: names of the network's
    weights that are new, of a last layer for other classes."""

    notes: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()


def read_given_weights(place: str | Path) -> GivenWeights:
    """The weights in ``FILE`` or ``FILE#KEY``, or in a folder as ``save_pretrained`` writes it.

    ``.safetensors``, also in several files with an index, and files of ``torch.save`` (``.pt``,
    ``.pth``, ``.bin``, ``.ckpt``): a state dictionary, or a mapping that holds one. ``KEY``, with
    dots, says where in the file. Raises CheckpointError for files that cannot be read without
    running code, or that hold no weights.
    """
    text, _, key = str(place).partition("#")
    path = Path(text)
    path = _in_folder(path) if path.is_dir() else path
    if path.name.endswith(".index.json"):
        return GivenWeights(origin=str(path), tensors=_sharded(path))
    content = read_weights(path, follow=True, checked=False)
    # The length at the beginning of a safetensors file may look like a pickle; a brace follows.
    if content.startswith(PICKLES) and content[8:9] != b"{":
        return _unwrapped(str(path), _loaded(path, content), key)
    return GivenWeights(origin=str(path), tensors=read_safetensors(path, follow=True))


def fill_given(network: nn.Module, given: GivenWeights, *, new_head: bool = False) -> Filled:
    """Load given weights into ``network``.

    Names are matched without the prefixes of wrappers. A normalisation that the file holds must be
    the network's, or becomes it where the network has none. ``new_head``: a last layer for other
    classes stays as it is drawn. Raises ModelError that names what is missing or left over.
    """
    own = network.state_dict()
    statistics = _statistics_names(network)
    tensors, outside, notes = _renamed(own, given)
    theirs, tensors = _normalization_in(tensors, own, statistics)
    notes = (*given.notes, *notes)
    if outside := [name for name in outside if name in tensors]:
        notes += (f"{given.origin}: what is no part of the network is left out: {_some(outside)}",)
    wrong = [name for name in own if name in tensors and _shape(own[name]) != _shape(tensors[name])]
    missing = [
        name
        for name in own
        if name not in tensors and name not in statistics and not name.endswith(_OPTIONAL)
    ]
    left_over = [name for name in tensors if name not in own and name not in outside]
    head = [name for name in wrong if name in _head(network)]
    if wrong != head or missing or left_over or not _differ_in_classes(own, tensors, head):
        raise ModelError(_misfit(network, given, tensors, wrong, missing, left_over))
    if head:
        wide, narrow = (len(each[head[0]]) for each in (tensors, own))
        layer = head[0].rpartition(".")[0]
        if not new_head:
            raise ModelError(
                f"{given.origin}: {layer} has {wide} classes there, the data have {narrow}: train "
                "it on them first (`lrat train --weights` gives it a new last layer)"
            )
        notes += (f"{layer} is new: it had {wide} classes, the data have {narrow}",)
    fresh = tuple(head)
    taken = {name: tensors[name] for name in own if name in tensors and name not in fresh}
    network.load_state_dict({**own, **taken})
    if theirs is not None:
        notes += (_adopt(network, theirs, given.origin),)
    return Filled(notes=notes, fresh=fresh)


def _differ_in_classes(
    own: Mapping[str, Any], tensors: Mapping[str, Any], head: Iterable[str]
) -> bool:
    """Whether these weights of a last layer differ in their first dimension alone."""
    return all(_shape(own[name])[1:] == _shape(tensors[name])[1:] for name in head)


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
    inside = key
    for part in key.split(".") if key else ():
        if not isinstance(content, Mapping) or part not in content:
            raise CheckpointError(f"{origin} holds no {key!r}: {_keys(content)}")
        content = content[part]
    notes: list[str] = []
    while not _is_state(content):
        found = _containers(content)
        if not found:
            raise CheckpointError(f"{origin} holds no weights by name: {_keys(content)}")
        first, *others = found
        inside = f"{inside}.{first}" if inside else first
        also = "".join(f", also there: {origin}#{other}" for other in others)
        notes.append(f"the weights are {inside!r} of {origin}{also}")
        content = content[first]
    return GivenWeights(origin=origin, tensors=dict(content), notes=tuple(notes[-1:]))


def _is_state(content: Any) -> bool:
    """Whether it maps names to tensors, and to little else."""
    if not isinstance(content, Mapping) or not all(isinstance(name, str) for name in content):
        return False
    tensors = sum(isinstance(value, Tensor) for value in content.values())
    return tensors > len(content) / 2


def _containers(content: Any) -> list[str]:
    """Its keys of known names below which weights may be."""
    if not isinstance(content, Mapping):
        return []
    return [key for key in _CONTAINERS if isinstance(content.get(key), Mapping)]


def _keys(content: Any) -> str:
    if not isinstance(content, Mapping):
        return f"it is a {type(content).__name__}"
    return "it holds " + (_some([repr(key) for key in content]) or "nothing")


def _renamed(
    own: Mapping[str, Any], given: GivenWeights
) -> tuple[dict[str, Any], list[str], tuple[str, ...]]:
    """The given tensors under the network's names, those that are no part of it, and notes.

    Of several readings of the names (as they are, without wrappers, as the part of a larger module)
    the one is taken under which most are the network's.
    """
    bare = {_bare(name): name for name in own}
    best = {name: name if name in own else bare.get(_bare(name), name) for name in given.tensors}
    for part in sorted(_modules_in(given.tensors)):
        inside = [name for name in given.tensors if name.startswith(part)]
        names = {name: bare.get(_bare(name.removeprefix(part)), name) for name in inside}
        best = max(best, names, key=lambda each: _fit(each, own))
    outside = [name for name in given.tensors if name not in best]
    renamed = {best.get(name, name): value for name, value in given.tensors.items()}
    changed = next(((old, _bare(new)) for old, new in best.items() if old != new), None)
    if changed is None or changed[0] == changed[1]:
        return renamed, outside, ()
    return renamed, outside, (f"{given.origin}: {changed[0]} is read as {changed[1]}, and so on",)


def _fit(names: Mapping[str, str], own: Mapping[str, Any]) -> tuple[int, int]:
    """How many of the network's names are there, and, as a negative number, how many are not."""
    found = len(own.keys() & set(names.values()))
    return found, found - len(names)


def _modules_in(names: Iterable[str]) -> set[str]:
    """The first one and two parts of dotted names, with their dots."""
    split = [name.split(".")[:-1] for name in names]
    return {".".join(parts[:depth]) + "." for parts in split for depth in (1, 2) if parts[:depth]}


def _bare(name: str) -> str:
    """A name without what wrappers put before it, and DDP and ``torch.compile`` within."""
    for wrapper in _WRAPPERS[:2]:
        name = f".{name}".replace(f".{wrapper}", ".").removeprefix(".")
    while any(name.startswith(wrapper) for wrapper in _WRAPPERS):
        name = name.partition(".")[2]
    return name


def _shape(value: Any) -> Any:
    return tuple(value.shape) if isinstance(value, Tensor) else type(value)


def _head(network: nn.Module) -> set[str]:
    """The names of the weights of the last linear or 1x1 layer in the order of its modules."""
    last = ""
    for name, module in network.named_modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            last = name
    return {name for name in network.state_dict() if name.rpartition(".")[0] == last}


def _statistics_names(network: nn.Module) -> set[str]:
    return {
        f"{name}.{each}" if name else each
        for name, module in network.named_modules()
        if isinstance(module, Normalize)
        for each in ("mean", "std")
    }


def _normalization_in(
    tensors: Mapping[str, Any], own: Mapping[str, Any], statistics: set[str]
) -> tuple[Statistics | None, dict[str, Any]]:
    """The mean and std that a file holds beside the network's weights, and the tensors without."""
    found = {}
    for kind in (_MEAN, _STD):
        names = [
            name
            for name, value in tensors.items()
            if (name not in own or name in statistics)
            and kind.search(name)
            and isinstance(value, Tensor)
            and value.numel() <= _MOST_CHANNELS
        ]
        if len(names) != 1:
            return None, dict(tensors)
        found[names[0]] = tensors[names[0]].flatten().tolist()
    mean, std = found.values()
    return (mean, std), {name: each for name, each in tensors.items() if name not in found}


def _adopt(network: nn.Module, theirs: Statistics, origin: str) -> str:
    """Compare a file's normalisation with the network's, or give it to one that has none."""
    stated = ";".join(",".join(f"{each:g}" for each in part) for part in theirs)
    layer = network.normalize if isinstance(network, Normalized) else None
    if isinstance(network, Normalized) and isinstance(layer, nn.Identity):
        network.normalize = Normalize(*theirs)
        return f"images are normalised as {origin} says: {stated}"
    if isinstance(layer, Normalize):
        pairs = zip((layer.mean, layer.std), theirs, strict=True)
        if all(torch.allclose(own.flatten(), torch.tensor(of), atol=_SAME) for own, of in pairs):
            return f"{origin} holds the model's normalisation: {stated}"
    raise ModelError(
        f"{origin} holds another normalisation than the model has: pass --normalize '{stated}'"
    )


def _misfit(
    network: nn.Module,
    given: GivenWeights,
    tensors: Mapping[str, Any],
    wrong: list[str],
    missing: list[str],
    left_over: list[str],
) -> str:
    inner = network.network if isinstance(network, Normalized) else network
    parts = []
    if wrong:
        own = network.state_dict()
        name = wrong[0]
        theirs, ours = (list(_shape(each[name])) for each in (tensors, own))
        parts.append(f"{_bare(name)} is {theirs} there and {ours} in the network{_more(wrong)}")
    if missing:
        parts.append(f"{len(missing)} weights are missing ({_some(map(_bare, missing))})")
    if left_over:
        parts.append(f"{len(left_over)} are left over ({_some(left_over)})")
    return f"{given.origin} does not fit {type(inner).__name__}: {'; '.join(parts)}"


def _more(names: list[str]) -> str:
    return f", and so are {len(names) - 1} more" if len(names) > 1 else ""


def _some(names: Iterable[str]) -> str:
    listed = [cut(each) for each in names]
    rest = len(listed) - _NAMED
    return ", ".join(listed[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
