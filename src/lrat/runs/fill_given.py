"""How given weights come into a network: what names, shapes and normalisation must be.

What others' wrappers put before names is left out where everything fits then; what was done is said
in sentences. Weights that fit in two ways are refused.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lrat.errors import ModelError
from lrat.models.wrappers import Normalize, Normalized, Statistics
from lrat.runs.given_weights import GivenWeights, some
from lrat.text import cut, in_one_line

_WRAPPERS = ("module.", "_orig_mod.", "model.", "backbone.", "network.", "net.")
"""What DataParallel, ``torch.compile``, Lightning and users' own modules put before names."""
_OPTIONAL = "num_batches_tracked"
_MEAN = re.compile(r"(^|[._])(?<!running_)(means?|mu)$")
_STD = re.compile(r"(^|[._])(stds?|sigma)$")
_MOST_CHANNELS = 4
_SAME = 1e-4


@dataclass(frozen=True, kw_only=True)
class Filled:
    """``notes``: what was done with given weights, in sentences. ``fresh``: names of the network's
    weights that are new, of a last layer for other classes."""

    notes: tuple[str, ...] = ()
    fresh: tuple[str, ...] = ()


def fill_given(network: nn.Module, given: GivenWeights, *, new_head: bool = False) -> Filled:
    """Load given weights into ``network``.

    Names are matched without the prefixes of wrappers. A normalisation that the file holds must be
    the network's, or becomes it where the network has none. ``new_head``: a last layer for other
    classes stays as it is drawn. Raises ModelError that names what is missing or left over, and for
    a file that holds the network more than once.
    """
    state = network.state_dict()
    readings = _readings(state, given.tensors)
    tensors, outside, notes = _renamed(state, given, readings)
    theirs, tensors = _normalization_in(tensors, state, network, given.origin)
    notes = (*given.notes, *notes)
    outside = [
        name
        for name, value in tensors.items()
        if name in outside or not (name in state or isinstance(value, Tensor))
    ]
    if outside:
        notes += (f"{given.origin}: what is no part of the network is left out: {some(outside)}",)
    wrong = [
        name for name in state if name in tensors and _shape(state[name]) != _shape(tensors[name])
    ]
    statistics = _statistics_names(network)
    missing = [
        name
        for name in state
        if name not in tensors and name not in statistics and not name.endswith(_OPTIONAL)
    ]
    shared = _shared(state, tensors, given.origin)
    missing = [name for name in missing if _memory(state[name]) not in shared]
    left_over = [name for name in tensors if name not in state and name not in outside]
    head = [name for name in wrong if name in _head(network)]
    if wrong != head or missing or left_over or not _differ_in_classes(state, tensors, head):
        raise ModelError(_misfit(network, given, tensors, wrong, missing, left_over))
    _refuse_two(state, given, readings)
    if head:
        wide, narrow = (len(each[head[0]]) for each in (tensors, state))
        layer = head[0].rpartition(".")[0]
        if not new_head:
            raise ModelError(
                f"{given.origin}: {layer} has {wide} classes there, the data have {narrow}: train "
                "it on them first (`lrat train --weights` gives it a new last layer)"
            )
        notes += (f"{layer} is new: it had {wide} classes, the data have {narrow}",)
    fresh = tuple(head)
    taken = {name: tensors[name] for name in state if name in tensors and name not in fresh}
    for name, value in taken.items():
        _check_kind(name, state[name], value, given.origin)
    try:
        network.load_state_dict({**state, **taken})
    except Exception as error:  # of the network's own load_state_dict and hooks
        raise ModelError(f"{given.origin} cannot be loaded: {in_one_line(error)}") from error
    if theirs is not None:
        notes += (_adopt(network, theirs, given.origin),)
    return Filled(notes=notes, fresh=fresh)


def _memory(value: Any) -> Any:
    """Equal for tied weights; None or 0 for what has no memory to share."""
    if not isinstance(value, Tensor) or value.layout is not torch.strided or not value.numel():
        return None
    return value.data_ptr() and (value.data_ptr(), tuple(value.shape))


def _shared(state: Mapping[str, Any], tensors: Mapping[str, Any], origin: str) -> set[Any]:
    """Where the weights lie that the file has. ModelError for tied ones that differ there."""
    names: dict[Any, str] = {}
    for name in state:
        memory = _memory(state[name])
        if not memory or name not in tensors:
            continue
        other = names.setdefault(memory, name)
        if not _equal(tensors[other], tensors[name]):
            raise ModelError(
                f"{origin}: {_bare(other)} and {_bare(name)} differ there, and are one weight in "
                "the network: untie them in the network"
            )
    return set(names)


def _check_kind(name: str, current: Any, value: Any, origin: str) -> None:
    """ModelError for a tensor that copying would turn into other numbers, as int8 ones."""
    if not isinstance(current, Tensor) or not current.is_floating_point() or current.is_quantized:
        return
    if value.is_quantized or not value.is_floating_point() or value.is_meta:
        kind = "meta" if value.is_meta else value.dtype
        raise ModelError(
            f"{origin}: {_bare(name)} is of {kind} there and of {current.dtype} in the network: "
            "save the weights as floating-point numbers"
        )


def _differ_in_classes(
    state: Mapping[str, Any], tensors: Mapping[str, Any], head: Iterable[str]
) -> bool:
    """Whether these weights of a last layer differ in their first dimension alone."""
    return all(_shape(state[name])[1:] == _shape(tensors[name])[1:] for name in head)


def _readings(state: Mapping[str, Any], names: Iterable[str]) -> list[dict[str, str]]:
    """Ways to read given names as the network's: all of them, or those of a part of a larger
    module; each as it is, else without what wrappers put before it."""
    names = list(names)
    bare: dict[str, str] = {}
    for name in state:
        bare[_bare(name)] = "" if _bare(name) in bare else name  # which of two is unknown

    def read(name: str, inside: str) -> str:
        return inside if inside in state else bare.get(_bare(inside)) or name

    return [
        {name: read(name, name.removeprefix(part)) for name in names if name.startswith(part)}
        for part in ("", *sorted(_modules_in(names)))
    ]


def _renamed(
    state: Mapping[str, Any], given: GivenWeights, readings: list[dict[str, str]]
) -> tuple[dict[str, Any], list[str], tuple[str, ...]]:
    """The given tensors under the network's names, those that are no part of it, and notes.

    Of several readings of the names the one is taken under which most are the network's.
    """
    best = max(readings, key=lambda each: _fit(each, state))
    outside = [name for name in given.tensors if name not in best]
    renamed = {best.get(name, name): value for name, value in given.tensors.items()}
    changed = next(((old, _bare(new)) for old, new in best.items() if old != new), None)
    if changed is None or changed[0] == changed[1]:
        return renamed, outside, ()
    return renamed, outside, (f"{given.origin}: {changed[0]} is read as {changed[1]}, and so on",)


def _refuse_two(
    state: Mapping[str, Any], given: GivenWeights, readings: list[dict[str, str]]
) -> None:
    """ModelError where two different tensors could be one of the network's, as its average's."""
    most = max(_fit(each, state)[0] for each in readings)
    sources: dict[str, str] = {}
    for reading in readings:
        for name, target in reading.items() if _fit(reading, state)[0] == most else ():
            other = sources.setdefault(target, name)
            if target in state and not _equal(given.tensors[other], given.tensors[name]):
                first, second = sorted((other, name))
                raise ModelError(
                    f"{given.origin} holds both {cut(first)} and {cut(second)}: say which is meant "
                    f"by the beginning of its names, as {given.origin}#{second.partition('.')[0]}"
                )


def _equal(one: Any, other: Any) -> bool:
    if not (isinstance(one, Tensor) and isinstance(other, Tensor)):
        return one is other
    return one is other or (one.shape == other.shape and bool(torch.equal(one, other)))


def _fit(names: Mapping[str, str], state: Mapping[str, Any]) -> tuple[int, int]:
    """How many of the network's names are there, and, as a negative number, how many are not."""
    known = len(state.keys() & set(names.values()))
    return known, known - len(names)


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
    tensors: Mapping[str, Any], state: Mapping[str, Any], network: nn.Module, origin: str
) -> tuple[Statistics | None, dict[str, Any]]:
    """The mean and std that a file holds beside the network's weights, and the tensors without."""
    # Deeper in a network a normalisation is a part of it, whose numbers are loaded with the others.
    outer = {"normalize.mean", "normalize.std"} if isinstance(network, Normalized) else set()
    statistics: list[dict[str, list[float]]] = [
        {
            name: value.flatten().tolist()
            for name, value in tensors.items()
            if (name not in state or name in outer)
            and kind.search(name)
            and isinstance(value, Tensor)
            and value.numel() <= _MOST_CHANNELS
        }
        for kind in (_MEAN, _STD)
    ]
    means, stds = ([*each.values()] for each in statistics)
    if not means or not stds:
        return None, dict(tensors)
    if any(each != several[0] for several in (means, stds) for each in several):
        names = some(name for each in statistics for name in each)
        raise ModelError(
            f"{origin} holds several normalisations ({names}): save the network that is meant alone"
        )
    rest = {
        name: each for name, each in tensors.items() if not any(name in of for of in statistics)
    }
    return (means[0], stds[0]), rest


def _adopt(network: nn.Module, theirs: Statistics, origin: str) -> str:
    """Compare a file's normalisation with the network's, or give it to one that has none."""
    stated = ";".join(",".join(f"{each:g}" for each in part) for part in theirs)
    layers = [each for each in network.modules() if isinstance(each, Normalize)]
    if isinstance(network, Normalized) and not layers:
        network.normalize = Normalize(*theirs)
        return f"images are normalised as {origin} says: {stated}"
    if len(layers) == 1:
        pairs = zip((layers[0].mean.flatten(), layers[0].std.flatten()), theirs, strict=True)
        if all(
            len(of) in (1, len(current)) and torch.allclose(current, torch.tensor(of), atol=_SAME)
            for current, of in pairs
        ):
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
        state = network.state_dict()
        name = wrong[0]
        theirs, ours = (list(_shape(each[name])) for each in (tensors, state))
        parts.append(f"{_bare(name)} is {theirs} there and {ours} in the network{_more(wrong)}")
    if missing:
        parts.append(f"{len(missing)} weights are missing ({some(map(_bare, missing))})")
    if left_over:
        parts.append(f"{len(left_over)} are left over ({some(left_over)})")
    return f"{given.origin} does not fit {type(inner).__name__}: {'; '.join(parts)}"


def _more(names: list[str]) -> str:
    return f", and so are {len(names) - 1} more" if len(names) > 1 else ""
