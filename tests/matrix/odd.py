"""Models as users have them: each does something that a forward, a mode or an output should not.

``MODELS`` maps a name to what builds one and to what must come of it. All of them compute from the
same trained weights, so that those which only look different must be judged as the plain one is.
"""

import random
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from builders import seeded

CLASSES, COUNT = 4, 12


@cache
def problem() -> tuple[Tensor, Tensor]:
    """Images [12 3 8 8] of four noisy patterns, and their labels."""

    def images() -> Tensor:
        patterns = torch.rand(CLASSES, 3, 8, 8)[torch.arange(COUNT) % CLASSES]
        return 0.6 * patterns + 0.4 * torch.rand(COUNT, 3, 8, 8)

    return seeded(0, images), torch.arange(COUNT) % CLASSES


class Net(nn.Module):
    """A convolution, BatchNorm and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(384, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        return functional.relu(self.norm(self.conv(images))).flatten(1)

    def forward(self, images: Tensor) -> Any:
        return self.head(self.features(images))


@cache
def _weights() -> Mapping[str, Tensor]:
    """Weights of a ``Net`` that knows the images and can be fooled within the threat."""
    images, labels = problem()
    model = seeded(0, Net)
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(15):
        optimiser.zero_grad()
        functional.cross_entropy(model(images), labels).backward()
        optimiser.step()
    return model.state_dict()


def of(kind: type[nn.Module], *arguments: Any) -> nn.Module:
    """One of these models with the trained weights, in eval mode."""
    model = seeded(0, lambda: kind(*arguments))
    own = model.state_dict()
    fits = {name: value for name, value in _weights().items() if name in own}
    if all(own[name].shape == value.shape for name, value in fits.items()):
        model.load_state_dict(fits, strict=False)
    return model.eval()


class WritesInput(Net):
    def forward(self, images: Tensor) -> Tensor:
        images -= 0.45
        images *= 2
        images /= 2
        images += 0.45
        return super().forward(images)


class ReluFirst(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(functional.relu_(images))


class WritesThroughView(Net):
    def forward(self, images: Tensor) -> Tensor:
        kept = images[:, 0].clone()
        images[:, 0].zero_()
        return super().forward(torch.cat([kept[:, None], images[:, 1:]], 1))


class WithMaps(Net):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images), self.conv(images), None


class _Answer(NamedTuple):
    auxiliary: Tensor
    logits: Tensor


class Named(Net):
    def forward(self, images: Tensor) -> Any:
        logits = super().forward(images)
        return _Answer(torch.rand_like(logits.detach()) if self.training else -logits, logits)


class Dictionary(Net):
    def forward(self, images: Tensor) -> Any:
        features = self.features(images)
        return {"features": features, "logits": self.head(features), "loss": features.sum()}


@dataclass
class _Output:
    hidden: Tensor
    logits: Tensor


class Structured(Net):
    def forward(self, images: Tensor) -> Any:
        features = self.features(images)
        return _Output(features, self.head(features))


class FeaturesFirst(Net):
    def forward(self, images: Tensor) -> Any:
        features = self.features(images)
        return features, self.head(features)


class EarlyExits(Net):
    def forward(self, images: Tensor) -> Any:
        logits = super().forward(images)
        return [logits.roll(1, 1), logits]


class AuxiliaryInTraining(Net):
    def forward(self, images: Tensor) -> Any:
        logits = super().forward(images)
        return (logits.roll(1, 1), logits) if self.training else logits


class NoiseSwitch(Net):
    """Its noise follows calls of ``train`` and ``eval``, not the flag."""

    noisy = True

    def train(self, mode: bool = True) -> "NoiseSwitch":
        self.noisy = mode
        super().train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images + 0.5 * torch.randn_like(images) * self.noisy)


class EvalSwitch(Net):
    """``eval`` alone merges what training keeps apart."""

    merged = False

    def eval(self) -> "EvalSwitch":
        self.merged = True
        super().eval()
        return self

    def train(self, mode: bool = True) -> "EvalSwitch":
        self.merged = not mode
        super().train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images)
        return logits if self.merged else -logits


class BatchStatistics(Net):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(6, track_running_stats=False)


class BatchMean(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images - 0.5 * images.mean(0))


class Dropping(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(functional.dropout(images, 0.3))


class NumpyNoise(Net):
    def forward(self, images: Tensor) -> Tensor:
        noise = np.random.standard_normal(tuple(images.shape)).astype("float32")
        return super().forward(images + 0.2 * torch.from_numpy(noise))


class Reseeding(Net):
    def forward(self, images: Tensor) -> Tensor:
        torch.manual_seed(0)
        np.random.seed(0)
        random.seed(0)
        return super().forward(images)


class Views(Net):
    def forward(self, images: Tensor) -> Tensor:
        return self.head(functional.relu(self.norm(self.conv(images))).view(-1, 384))


class Centred(Net):
    """Reassigns a buffer in training."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            mean = images.detach().mean((0, 2, 3), keepdim=True)
            self.center = 0.5 * self.center + 0.5 * mean
        return super().forward(images - self.center)


class Scheduled(Net):
    """A number and a plain tensor of its own change in training."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0
        self.shift = torch.zeros(1, 3, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        if self.training:
            self.calls += 1
            self.shift = self.shift + 0.01
        return super().forward(images + self.shift) * (1 + self.calls)


class ExtraState(Net):
    def get_extra_state(self) -> Any:
        return {"version": 3, "names": ["a", "b"]}

    def set_extra_state(self, state: Any) -> None:
        assert state["version"] == 3


class Half(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).half()


class Bfloat16Inside(Net):
    def forward(self, images: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(images)


class Masked(Net):
    def forward(self, images: Tensor) -> Tensor:
        logits = super().forward(images)
        return torch.cat([logits, torch.full_like(logits[:, :2], -torch.inf)], 1)


class Sigmoid(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).sigmoid()


class Softmax(Net):
    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale

    def forward(self, images: Tensor) -> Tensor:
        return self.scale * super().forward(images).softmax(1)


class Squeezed(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).squeeze()


class OneBatchSize(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).view(16, CLASSES)


class MapOfLogits(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images)[:, :, None, None]


class Checkpointed(Net):
    def forward(self, images: Tensor) -> Tensor:
        return self.head(checkpoint(self.features, images, use_reentrant=True))


class CheckpointedTwice(Net):
    def forward(self, images: Tensor) -> Tensor:
        return self.head(checkpoint(self.features, images, use_reentrant=False))


class WithLock(Net):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, images: Tensor) -> Tensor:
        with self.lock:
            return super().forward(images)


class WithFile(Net):
    def __init__(self) -> None:
        super().__init__()
        self.log = sys.__stderr__


class Immovable(Net):
    def to(self, *arguments: Any, **named: Any) -> Any:
        raise ValueError("`.to` is not supported for models on more than one device")


class FrozenNorm(Net):
    def train(self, mode: bool = True) -> "FrozenNorm":
        super().train(mode)
        self.norm.eval()
        return self


class Shared(Net):
    def forward(self, images: Tensor) -> Tensor:
        return self.head(
            functional.relu(self.norm(self.conv(images)) + 0 * self.conv(images)).flatten(1)
        )


class Residual(nn.Module):
    """The convolution's output goes around its norm, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.head = nn.Linear(384, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        first = self.conv(images)
        return self.head(functional.relu(self.norm(first) + first).flatten(1))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.LSTM(24, 16, batch_first=True)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        hidden, _ = self.rows(images.transpose(1, 2).flatten(2))
        return 5 * self.head(hidden[:, -1])


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.TransformerEncoderLayer(24, 4, 32, batch_first=True)
        self.head = nn.Linear(24, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return 5 * self.head(self.block(images.transpose(1, 2).flatten(2)).mean(1))


class Grouped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, groups=3), nn.GroupNorm(2, 6), nn.SiLU(inplace=True)
        )
        self.head = nn.Linear(384, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        return 5 * self.head(self.body(images).flatten(1))


class Exiting(Net):
    def forward(self, images: Tensor) -> Tensor:
        sys.exit(0)


class SmallBatches(Net):
    def forward(self, images: Tensor) -> Tensor:
        if len(images) > 8:
            raise KeyError("at most 8 images")
        return super().forward(images)


class AsArray(Net):
    def forward(self, images: Tensor) -> Any:
        return super().forward(images).detach().numpy()


class Detached(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).detach()


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor) -> Tensor:
        return (images * 255).round() / 255

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0]


class StraightThrough(Net):
    def forward(self, images: Tensor) -> Tensor:
        rounded: Tensor = _Rounded.apply(images)
        return super().forward(rounded)


SEEN: list[Any] = []
"""What ``Listing`` was shown."""


class Listing(Net):
    def forward(self, images: Tensor) -> Tensor:
        SEEN.append(images)
        del SEEN[:-4]
        return super().forward(images)


class Observing(Net):
    """Moves a buffer at every forward, eval mode or not, as an observer of ranges does."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("range", torch.ones(()))

    def forward(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            self.range.mul_(0.99).add_(0.01 * images.detach().amax())
        return super().forward(images * self.range)


class ScalesWeights(Net):
    """Shrinks weights in every forward, behind autograd's back."""

    def forward(self, images: Tensor) -> Tensor:
        self.head.weight.data = 0.99 * self.head.weight.data
        return super().forward(images)


class ByGradient(Net):
    """Another function where a gradient is to follow."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = super().forward(images)
        return logits.roll(1, 1) if images.requires_grad else logits


class OwnBackward(Net):
    """Goes backward in its own forward, and leaves gradients in its weights."""

    def forward(self, images: Tensor) -> Tensor:
        with torch.enable_grad():
            inner = images.detach().requires_grad_()
            super().forward(inner).sum().backward()
        return super().forward(images - 0.01 * inner.grad.sign())  # type: ignore[union-attr]


class DefaultType(Net):
    """Sets a setting of the whole process."""

    def forward(self, images: Tensor) -> Tensor:
        torch.set_default_dtype(torch.float64)
        return super().forward(images)


class Sparse(Net):
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(images).to_sparse()


class CallsEval(Net):
    """Switches its own modes while it computes."""

    def forward(self, images: Tensor) -> Tensor:
        self.norm.eval()
        return super().forward(images)


def _hooked(change: Callable[..., Any]) -> nn.Module:
    model = of(Net)
    model.conv.register_forward_hook(change)
    return model


def _weight_normed() -> nn.Module:
    model = of(Net)
    nn.utils.parametrizations.weight_norm(model.conv)
    return model


def _compiled() -> nn.Module:
    return torch.compile(of(Net), backend="eager")  # type: ignore[return-value]


def _exported() -> nn.Module:
    dynamic = ({0: torch.export.Dim("batch", min=1, max=512)},)
    return torch.export.export(of(Net), (problem()[0][:2],), dynamic_shapes=dynamic).module()


def _quantised() -> nn.Module:
    with torch.no_grad():
        return torch.ao.quantization.quantize_dynamic(of(Net), {nn.Linear}, dtype=torch.qint8)


def _frozen() -> nn.Module:
    return of(Net).requires_grad_(False)


def _with_gradients() -> nn.Module:
    model = of(Net)
    images, labels = problem()
    functional.cross_entropy(model(images), labels).backward()
    return model


def _half_awake() -> nn.Module:
    model = nn.Sequential(nn.Dropout(0.5), of(Net)).eval()
    model[0].train()
    return model


KEPT: list[Tensor] = []


@dataclass(frozen=True)
class Odd:
    """``build``: makes the model. ``like_plain``: its verdicts are those of ``Net``.

    ``note``: a word that the notes of an evaluation hold. ``refused``: the entry points that end in
    one line, of ``evaluate``, ``fit``, ``masking``; others must answer.
    """

    build: Callable[[], nn.Module]
    like_plain: bool = True
    note: str | None = None
    refused: frozenset[str] = frozenset()


def _odd(
    build: type[nn.Module] | Callable[[], nn.Module],
    *refused: str,
    like_plain: bool = True,
    note: str | None = None,
) -> Odd:
    make = (lambda: of(build)) if isinstance(build, type) else build
    return Odd(make, like_plain and not refused, note, frozenset(refused))


_EVERYWHERE = ("evaluate", "fit", "masking")

MODELS: Mapping[str, Odd] = {
    "plain": _odd(Net),
    "writes its input": _odd(WritesInput),
    "relu in place first": _odd(ReluFirst),
    "writes through a view": _odd(WritesThroughView),
    "logits and maps": _odd(WithMaps),
    "named tuple": _odd(Named),
    "dictionary": _odd(Dictionary),
    "dataclass": _odd(Structured),
    "features first": _odd(FeaturesFirst, *_EVERYWHERE),
    "early exits": _odd(EarlyExits, *_EVERYWHERE),
    "auxiliary in training": Odd(lambda: of(AuxiliaryInTraining), refused=frozenset({"fit"})),
    "noise by train()": _odd(NoiseSwitch),
    "merged by eval()": _odd(EvalSwitch),
    "batch statistics": _odd(BatchStatistics, like_plain=False, note="beside it"),
    "batch mean": _odd(BatchMean, like_plain=False, note="beside it"),
    "dropout always": _odd(Dropping, like_plain=False, note="random"),
    "noise of numpy": _odd(NumpyNoise, like_plain=False, note="random"),
    "reseeds": _odd(Reseeding),
    "view(-1, n)": _odd(Views),
    "buffer reassigned": _odd(Centred),
    "attributes change": _odd(Scheduled),
    "extra state": _odd(ExtraState),
    "float16 logits": _odd(Half, like_plain=False, note="float16"),
    "bfloat16 inside": _odd(Bfloat16Inside, like_plain=False, note="bfloat16"),
    "float64 weights": _odd(lambda: of(Net).double(), *_EVERYWHERE),
    "classes never chosen": _odd(Masked),
    "sigmoid": _odd(Sigmoid, like_plain=False, note="logits"),
    "softmax": _odd(Softmax, like_plain=False, note="logits"),
    "softmax times 100": _odd(lambda: of(Softmax, 100.0), like_plain=False, note="logits"),
    "squeezed": _odd(Squeezed, *_EVERYWHERE),
    "one batch size": _odd(OneBatchSize, *_EVERYWHERE),
    "map of logits": _odd(MapOfLogits, *_EVERYWHERE),
    "checkpointed": _odd(Checkpointed),
    "checkpointed, not reentrant": _odd(CheckpointedTwice),
    "a lock": _odd(WithLock),
    "an open file": _odd(WithFile),
    "cannot be moved": _odd(Immovable),
    "frozen norm": _odd(FrozenNorm),
    "shared layer": _odd(Shared),
    "residual": _odd(Residual, like_plain=False),
    "recurrent": _odd(Recurrent, like_plain=False),
    "attention": _odd(Attending, like_plain=False),
    "groups": _odd(Grouped, like_plain=False),
    "exits": _odd(Exiting, *_EVERYWHERE),
    "small batches": _odd(SmallBatches, *_EVERYWHERE),
    "numpy array": _odd(AsArray, *_EVERYWHERE),
    "detached": _odd(Detached, "evaluate", "fit"),
    "straight through": _odd(StraightThrough, like_plain=False),
    "lists its inputs": _odd(Listing),
    "observes": _odd(Observing, like_plain=False, note="buffer"),
    "another for gradients": _odd(ByGradient, like_plain=False, note="another function"),
    "its own backward": _odd(OwnBackward, like_plain=False),
    "dropout left on": Odd(_half_awake, note="train mode"),
    "scales its weights": _odd(ScalesWeights, like_plain=False, note="weights"),
    "sets the default type": _odd(DefaultType),
    "sparse logits": _odd(Sparse, *_EVERYWHERE),
    "switches modes": _odd(CallsEval),
    "hook that keeps": _odd(
        lambda: _hooked(lambda layer, given, out: KEPT.append(out)), note="hooks"
    ),
    "hook that changes": _odd(
        lambda: _hooked(lambda layer, given, out: 2 * out), like_plain=False, note="hooks"
    ),
    "weight norm": _odd(_weight_normed),
    "compiled": _odd(_compiled),
    "data parallel": _odd(lambda: nn.DataParallel(of(Net)).eval()),
    "script": _odd(lambda: torch.jit.script(of(Net))),
    "exported": _odd(_exported),
    "quantised": _odd(_quantised, "evaluate", "fit"),
    "no trainable weights": Odd(_frozen, refused=frozenset({"fit"})),
    "gradients of the caller": _odd(_with_gradients),
    "in train mode": Odd(lambda: of(Net).train(), note="train"),
}
