"""The fingerprint of a model, which distinguishes it from others with the same weights.

``fingerprint.json`` holds digests of the code of the model (and of the attacks), and the logits of
a few images when the folder was begun, with their gradients, since a model that hides its gradients
may have the logits of one that does not. Both are compared with a tolerance for other processors,
threads and devices. A folder without this file is not checked.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from lrat.attacks.gradient import image_gradient
from lrat.errors import ModelError, RunFolderError
from lrat.files import read
from lrat.files.names import FINGERPRINT
from lrat.files.write import write_json
from lrat.hardware import full_float32
from lrat.losses import Prepared
from lrat.modes import evaluating, recordable, tensors_kept, usual_autograd
from lrat.outputs import forward_logits
from lrat.randomness import seeded_randomness
from lrat.types import Images

PROBE_IMAGES = 4
_LOGITS, _GRADIENTS, _WEIGHTS = 1e-3, 3e-2, 1e-5
"""The largest difference of logits, gradients and weights, relative to the length of the vector.
Where rounding changes the sign of a unit, a gradient changes by far more than the logits."""
_NOTHING = 1e-12
_PERIOD, _PROJECTIONS = 4099, 3
_SHOWN = 60

Sketch: TypeAlias = list[float | None]
"""The length of a vector and its projections on a few fixed ones; None for NaN and infinity."""


@dataclass(frozen=True, kw_only=True)
class Program:
    """The code of some objects. ``code``: digests of functions by name. ``values``: plain values by
    path, and a model's tree. ``versions``: those of Python and of libraries."""

    versions: str
    code: Mapping[str, str]
    values: Mapping[str, str]

    def digest(self) -> str:
        text = repr((self.versions, sorted(self.code.items()), sorted(self.values.items())))
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Fingerprint(Program):
    """The code, logits and gradients of a model.

    ``parts``: digests of the user's attacks or objective. ``logits`` and ``gradients`` (None where
    the model has none): a sketch per image, [] for a random model. ``weights``: the initial weights
    of a training, a sketch per tensor.
    """

    parts: Mapping[str, str] = field(default_factory=dict)
    logits: Sequence[Sketch] = ()
    gradients: Sequence[Sketch] | None = None
    weights: Mapping[str, Sketch] = field(default_factory=dict)

    def differs(self, now: "Fingerprint") -> str | None:
        """The sentence about the difference to the model ``now``; None where it is the same."""
        return (
            differs_in_code(self, now)
            or _differs_in_parts(self, now)
            or self._differs_in_weights(now.weights)
            or _differs_in_answers(self, now)
        )

    def check(self) -> None:
        """``TypeError`` for values of other types than a fingerprint has."""
        rows, weights = [self.logits, self.gradients or []], self.weights
        if not (
            isinstance(self.versions, str)
            and all(map(_is_texts, (self.code, self.values, self.parts)))
            and all(isinstance(each, list) and all(map(_is_sketch, each)) for each in rows)
            and isinstance(weights, dict)
            and all(map(_is_sketch, weights.values()))
        ):
            raise TypeError("no fingerprint")

    def has_weights(self, weights: Mapping[str, Sketch]) -> bool:
        return self._differs_in_weights(weights) is None

    def _differs_in_weights(self, weights: Mapping[str, Sketch]) -> str | None:
        for name in sorted({*self.weights, *weights}):
            old, new = self.weights.get(name), weights.get(name)
            if old is None or new is None or _far(old, new, _WEIGHTS):
                return (
                    f"its training began with other weights, as those of {name}: seed PyTorch "
                    "before the model is made"
                )
        return None


def differs_in_code(stored: Program, now: Program) -> str | None:
    """The sentence about changed code; None for the same code, and for other ``versions``."""
    if stored.versions != now.versions:
        return None
    for name in sorted({*stored.code, *now.code}):
        if stored.code.get(name) != now.code.get(name):
            return f"the code of {name} changed"
    for name in sorted({*stored.values} & {*now.values}):
        old, new = stored.values[name], now.values[name]
        if old != new:
            is_tree = name.endswith(": tree")
            if is_tree:
                return "its layers changed"
            return f"{name} was {old[:_SHOWN]} and is {new[:_SHOWN]}"
    return None


def _differs_in_parts(stored: Fingerprint, now: Fingerprint) -> str | None:
    if stored.versions != now.versions:
        return None
    for name in sorted({*stored.parts} & {*now.parts}):
        if stored.parts[name] != now.parts[name]:
            return f"the code or a setting of {name} changed"
    return None


def _differs_in_answers(stored: Fingerprint, now: Fingerprint) -> str | None:
    if any(map(_far, stored.logits, now.logits, [_LOGITS] * len(now.logits))):
        return "it answers otherwise"
    if (stored.gradients is None) != (now.gradients is None):
        return "only one of them has gradients"
    old, new = stored.gradients or (), now.gradients or ()
    if any(map(_far, old, new, [_GRADIENTS] * len(new))):
        return "its gradients are others"
    return None


def answers(model: nn.Module, images: Images) -> dict[str, Any]:
    """``logits`` and ``gradients`` of a fingerprint: the model's own, in float32 and eval mode."""
    with (
        usual_autograd(),
        recordable(model),
        tensors_kept(model, buffers_only=True),
        evaluating(model),
        full_float32(),
    ):
        images = images.float()
        with seeded_randomness(0):
            try:
                gradient, _, logits = image_gradient(model, Prepared(_mixed, ()), images)
                gradients = [sketch(each) for each in gradient]
            except ModelError:  # no gradient, or quantised layers
                logits, gradients = forward_logits(model, images).detach(), None
        with seeded_randomness(1), torch.no_grad():
            again = forward_logits(model, images)
    rows, others = ([sketch(each) for each in batch] for batch in (logits, again))
    if any(map(_far, rows, others, [_LOGITS] * len(rows))):
        return {"logits": [], "gradients": []}
    return {"logits": rows, "gradients": gradients}


def _mixed(logits: Tensor) -> Tensor:
    """A value per image, a sum over classes with weights whose gradients do not cancel."""
    return (logits * torch.arange(1, logits.shape[1] + 1, device=logits.device).cos()).sum(1)


def sketch(value: Tensor) -> Sketch:
    """A few numbers for a tensor, which are close for close tensors, on every device."""
    flat = value.detach().to_dense().cpu().flatten().to(torch.float64)
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % _PERIOD))
    folded = padded.reshape(-1, _PERIOD).sum(0)
    at = torch.arange(1, _PERIOD + 1, dtype=torch.float64)
    values = [flat.norm(), *((folded * (at * at * n).cos()).sum() for n in range(1, _PROJECTIONS))]
    return [float(f"{each:.9g}") if math.isfinite(each) else None for each in map(float, values)]


def sketches(weights: Mapping[str, Any]) -> dict[str, Sketch]:
    """Sketches of the floating tensors in a state dictionary, tied ones under each name."""
    return {
        name: sketch(value)
        for name, value in weights.items()
        if isinstance(value, Tensor) and value.is_floating_point()
    }


def _far(old: Sketch, new: Sketch, tolerance: float) -> bool:
    if None in old or None in new:
        return old != new
    pairs = [(a, b) for a, b in zip(old, new, strict=True) if a is not None and b is not None]
    length = max(pairs[0])
    return length > _NOTHING and max(abs(a - b) for a, b in pairs) > tolerance * length


def write_fingerprint(folder: Path, fingerprint: Fingerprint) -> None:
    write_json(folder / FINGERPRINT, asdict(fingerprint))


def read_fingerprint(folder: Path) -> Fingerprint | None:
    """The fingerprint of the model with which ``folder`` was begun; None without the file.

    Raises ``RunFolderError`` for a damaged file.
    """
    path = folder / FINGERPRINT
    try:
        stored = Fingerprint(**read.read_json(path))
        stored.check()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, *read.NOT_AS_WRITTEN):
        raise RunFolderError(
            f"{path} is damaged: bring it back, or remove it to go on without the check of the "
            "model's code"
        ) from None
    return stored


def _is_sketch(value: Any) -> bool:
    is_list = isinstance(value, list) and len(value) == _PROJECTIONS
    return is_list and all(each is None or isinstance(each, (int, float)) for each in value)


def _is_texts(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())
