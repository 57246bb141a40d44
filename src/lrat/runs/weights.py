"""A model's weights: what tells them from others, their file, and how they come into a network.

A state dictionary may hold anything beside tensors (``get_extra_state``, quantised layers): its
digest is of all of it. A safetensors file holds dense tensors alone, so the rest is written as JSON
into the file's metadata, which is read without executing anything.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from lrat.config.fingerprints import without_addresses
from lrat.config.settings import RunConfig
from lrat.errors import CheckpointError, ModelError
from lrat.files.names import WEIGHTS
from lrat.files.read import NOT_AS_WRITTEN, is_there, parse_json, safetensors_metadata
from lrat.models.wrappers import Normalize, Normalized
from lrat.runs.folder import BESIDE_TENSORS, read_weights
from lrat.text import in_one_line, reason
from lrat.training import Storage
from lrat.training.state import reported
from lrat.training.storage import misfit


def weights_digest(weights: Mapping[str, Any]) -> str:
    """SHA-256 over names, shapes and bytes, and over all else that a state dictionary holds: the
    identity of a model's weights."""
    sha = hashlib.sha256()
    for name in sorted(weights):
        _add(sha, name, weights[name])
    return sha.hexdigest()


def _add(sha: Any, name: str, value: Any) -> None:
    if isinstance(value, Tensor):
        kind = value.dtype
        value = value.detach()
        value = value.dequantize() if value.is_quantized else value
        value = value if value.layout is torch.strided else value.to_dense()
        value = value.cpu().contiguous().resolve_conj().resolve_neg()
        sha.update(f"{name} {kind} {tuple(value.shape)}".encode())
        sha.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray) and value.dtype != object:
        sha.update(f"{name} {value.dtype} {value.shape}".encode() + value.tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value, key=repr):
            _add(sha, f"{name}[{key!r}]", value[key])
    elif isinstance(value, (list, tuple)):
        for position, each in enumerate(value):
            _add(sha, f"{name}[{position}]", each)
    elif isinstance(value, (set, frozenset)):
        sha.update(f"{name} {sorted(map(repr, value))}".encode())
    elif isinstance(value, torch.ScriptObject):
        _add(sha, name, value.__getstate__())
    elif hasattr(value, "getvalue"):  # a file in memory
        _add(sha, name, value.getvalue())
    else:
        sha.update(f"{name} {without_addresses(repr(value))}".encode())


def write_safetensors(weights: Mapping[str, Any]) -> bytes:
    """The content of a file that ``read_safetensors`` reads back; ModelError that names what such
    a file cannot hold."""
    try:
        return _written(weights)
    except Exception as error:
        name = next(name for name, value in weights.items() if not _can_write(name, value))
        raise ModelError(
            f"the model's state holds {name}, {_kind(weights[name])}, which a file of weights "
            f"(safetensors) cannot ({reason(error)}): {_cure(weights[name])}"
        ) from error


def _written(weights: Mapping[str, Any]) -> bytes:
    from safetensors.torch import save

    # Copies: tied weights share memory, which the format refuses.
    tensors: dict[str, Tensor] = {}
    beside = {}
    for name, value in weights.items():
        packed = _packed(value, name, tensors)
        if packed != {"tensor": name}:
            beside[name] = packed
    return save(tensors, {BESIDE_TENSORS: json.dumps(beside)} if beside else None)


def _can_write(name: str, value: Any) -> bool:
    try:
        _written({name: value})
    except Exception:
        return False
    return True


def _kind(value: Any) -> str:
    return (
        f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    )


def _cure(value: Any) -> str:
    if isinstance(value, Tensor) and value.is_quantized:
        return "keep value.int_repr() and its scale as buffers, or quantise after the training"
    if isinstance(value, Tensor):
        return "convert it, as to torch.float32 or torch.complex64, or register it persistent=False"
    return "return numbers, text, tensors, lists and dictionaries of them from get_extra_state"


def read_safetensors(path: Path, *, follow: bool = False) -> dict[str, Any]:
    """Weights by name; CheckpointError for a file that is missing or not what its name says.

    ``follow`` as in ``reading.open_stored``.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = read_weights(path, follow=follow)
    try:
        tensors = load(content)
        beside = parse_json(safetensors_metadata(content).get(BESIDE_TENSORS, "{}"))
        taken: set[str] = set()
        others = {name: _unpacked(value, tensors, taken) for name, value in beside.items()}
    except (AssertionError, RuntimeError, SafetensorError, *NOT_AS_WRITTEN) as error:
        raise CheckpointError(f"{path} is no safetensors file: {reason(error)}") from None
    return {**{name: each for name, each in tensors.items() if name not in taken}, **others}


def _packed(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON holds it, its tensors in ``tensors``."""
    if isinstance(value, Tensor):
        tensors[name] = value.detach().to_dense().clone().contiguous()
        if value.layout is torch.strided:
            return {"tensor": name}
        return {"sparse": [name, str(value.layout).removeprefix("torch.")]}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, Mapping):
        items = ((key, _packed(inner, f"{name}[{key!r}]", tensors)) for key, inner in value.items())
        return {"pairs": [[_packed(key, name, tensors), inner] for key, inner in items]}
    if isinstance(value, (list, tuple)):
        inner = [_packed(each, f"{name}[{index}]", tensors) for index, each in enumerate(value)]
        return {"tuple": inner} if isinstance(value, tuple) else inner
    return value


def _unpacked(value: Any, tensors: Mapping[str, Tensor], taken: set[str]) -> Any:
    """What ``_packed`` was given; ``taken``: the names of the tensors inside it."""
    if isinstance(value, list):
        return [_unpacked(each, tensors, taken) for each in value]
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        taken.add(inner)
        return tensors[inner]
    if kind == "bytes":
        return bytes.fromhex(inner)
    if kind == "sparse":
        name, layout = inner
        taken.add(name)
        return tensors[name].to_sparse(layout=_of_torch(layout, torch.layout))
    if kind == "dtype":
        return _of_torch(inner, torch.dtype)
    parts = [_unpacked(each, tensors, taken) for each in inner]
    return tuple(parts) if kind == "tuple" else dict(parts)


def _of_torch(name: str, kind: type) -> Any:
    value = getattr(torch, name)
    if not isinstance(value, kind):
        raise ValueError(f"torch.{name} is no {kind.__name__}")
    return value


def check_state(network: nn.Module) -> None:
    """Refuse a model that does not load its state dictionary, with which a training ends."""
    try:
        network.load_state_dict(network.state_dict())
    except Exception as error:
        raise ModelError(
            f"the model does not load its own state_dict: {in_one_line(error)}; mend its "
            "state_dict or load_state_dict, with which a training ends"
        ) from error


def fill(network: nn.Module, weights: Mapping[str, Any], origin: str) -> None:
    """Load a run's own weights; ModelError in one line where they do not fit the network.

    A normalisation among them, which the run took from given weights, becomes the network's.
    """
    if isinstance(network, Normalized) and isinstance(network.normalize, nn.Identity):
        named = [f"normalize.{name}" for name in ("mean", "std")]
        if weights.keys() >= set(named):
            network.normalize = Normalize(*(weights[name].flatten().tolist() for name in named))
    reason = misfit(network, weights)
    if reason is not None:
        raise ModelError(f"{origin} does not fit {type(network).__name__}: {reason}")
    network.load_state_dict(weights)


def storage(config: RunConfig, folder: Path, *, portable: bool = False) -> Storage:
    """Where the run's metrics, checkpoints and recorded weights lie."""
    training = config.training
    return Storage(
        folder=folder,
        identity=config.digest(),
        keep_last=training.keep_last,
        keep_epochs=training.keep_epochs,
        record_epochs=training.record_weights,
        every_steps=training.checkpoint_every_steps,
        every_minutes=training.checkpoint_every_minutes,
        portable=portable,
    )


def load_weights(folder: Path, config: RunConfig, checkpoint: str) -> dict[str, Any]:
    """The weights called ``selected``, ``last`` or ``epoch-N``, on the CPU."""
    if checkpoint == "selected" and is_there(folder / WEIGHTS):
        return read_safetensors(folder / WEIGHTS)
    return reported(storage(config, folder).checkpoints().load(checkpoint))
