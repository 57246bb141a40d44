"""Noise as a value: counter-based for lrat's runs, sequential for parity with other libraries.

``Keyed`` derives every random number of an image from that image's 64-bit key with integer tensor
arithmetic (the SplitMix64 finaliser, Steele et al. 2014), so a number depends on the seed, the
image's index, the stream and the position alone: not on the batch around the image, the device, or
the order of draws. Nothing else in this package seeds or draws, and torch's global random state is
never touched. Models of users may draw from it, so all code that calls them runs inside
``random_state_kept`` or ``seeded_randomness``.
"""

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from numbers import Integral
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from lrat.errors import SettingError

NoiseLike: TypeAlias = "Noise | torch.Generator | int | None"
"""What attacks take as noise; see ``as_noise``."""


@runtime_checkable
class Noise(Protocol):
    """Random numbers for a batch: ``shape`` starts with its size B, ``stream`` names the draw."""

    @property
    def per_image(self) -> bool:
        """Whether the numbers of an image are independent of the batch around it.

        Where other libraries draw once for a whole batch, attacks draw for each image if this is
        true, and once if it is not.
        """
        ...

    def uniform(self, shape: Sequence[int], stream: str) -> Tensor:
        """Float32 in [0, 1)."""
        ...

    def normal(self, shape: Sequence[int], stream: str) -> Tensor:
        """Float32 standard normal."""
        ...

    def integers(self, high: int, shape: Sequence[int], stream: str) -> Tensor:
        """Int64 in 0..high-1."""
        ...

    def select(self, rows: Tensor) -> "Noise":
        """The noise of these rows (integer or boolean [B])."""
        ...

    def child(self, name: str | int) -> "Noise":
        """Independent noise for a part of the work: a term, a restart, a target."""
        ...


def _signed(value: int) -> int:
    """The int64 that has the same 64 bits: torch multiplies int64 modulo 2**64."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MULTIPLY_1 = _signed(0xBF58476D1CE4E5B9)
_MULTIPLY_2 = _signed(0x94D049BB133111EB)


@cache
def _name_hash(name: str | int) -> int:
    digest = hashlib.blake2b(f"{type(name).__name__}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=True)


def _shift_right(value: Tensor, bits: int) -> Tensor:
    """Logical right shift: torch's shift of a signed integer copies the sign bit."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _mix(value: Tensor) -> Tensor:
    value = (value ^ _shift_right(value, 30)) * _MULTIPLY_1
    value = (value ^ _shift_right(value, 27)) * _MULTIPLY_2
    return value ^ _shift_right(value, 31)


def keys(seed: int, index: Tensor) -> Tensor:
    """One int64 key per image from the run's seed and the image's stable number; same shape."""
    return _mix(_mix(index.long() + _signed(seed * 0xD1342543DE82EF95)) + _GOLDEN)


@dataclass(frozen=True)
class Keyed:
    """Counter-based noise from one int64 key per image ([B]); see ``keys``.

    Uniform numbers and integers are bit-equal on every device, normals to 2 ulp.
    """

    keys: Tensor

    @property
    def per_image(self) -> bool:
        return True

    def _bits(self, shape: Sequence[int], stream: str) -> Tensor:
        batch, *rest = shape
        if batch != len(self.keys):
            raise SettingError(f"noise holds {len(self.keys)} keys, but {batch} rows are needed")
        count = math.prod(rest)
        counter = torch.arange(count, dtype=torch.int64, device=self.keys.device) * _GOLDEN
        start = _mix(self.keys ^ _name_hash(stream))
        return _mix(start[:, None] + counter).reshape(batch, *rest)

    def uniform(self, shape: Sequence[int], stream: str) -> Tensor:
        return _shift_right(self._bits(shape, stream), 40).float() * 2.0**-24

    def normal(self, shape: Sequence[int], stream: str) -> Tensor:
        # Box-Muller in float64, so that float32 results agree across math libraries.
        bits = self._bits(shape, stream)
        radius = (_shift_right(bits, 32).double() + 1) * 2.0**-32
        angle = (bits & 0xFFFFFFFF).double() * (2.0**-32 * 2 * math.pi)
        return ((-2 * radius.log()).sqrt() * angle.cos()).float()

    def integers(self, high: int, shape: Sequence[int], stream: str) -> Tensor:
        return _shift_right(self._bits(shape, stream), 1) % high

    def select(self, rows: Tensor) -> "Keyed":
        return Keyed(self.keys[rows])

    def child(self, name: str | int) -> "Keyed":
        return Keyed(_mix(self.keys + _name_hash(name)))


@dataclass(frozen=True)
class Sequential:
    """Draws one after the other from a generator, for parity with other libraries.

    Numbers are drawn on the generator's device and moved to ``device``. Streams, rows and children
    share the one sequence, so results depend on batches and on the order of draws.
    """

    generator: torch.Generator
    device: torch.device | str = "cpu"

    @property
    def per_image(self) -> bool:
        return False

    def uniform(self, shape: Sequence[int], stream: str) -> Tensor:
        source = self.generator
        drawn = torch.rand(tuple(shape), generator=source, device=source.device)
        return drawn.to(self.device)

    def normal(self, shape: Sequence[int], stream: str) -> Tensor:
        source = self.generator
        drawn = torch.randn(tuple(shape), generator=source, device=source.device)
        return drawn.to(self.device)

    def integers(self, high: int, shape: Sequence[int], stream: str) -> Tensor:
        source = self.generator
        drawn = torch.randint(high, tuple(shape), generator=source, device=source.device)
        return drawn.to(self.device)

    def select(self, rows: Tensor) -> "Sequential":
        return self

    def child(self, name: str | int) -> "Sequential":
        return self


def as_noise(noise: NoiseLike, count: int, device: torch.device) -> Noise:
    """A ``Noise`` from a ``Noise``, an int seed, a ``torch.Generator`` or None (seed 0).

    A seed numbers the images by their row in the batch. Only with ``Keyed(keys(seed, index))`` do
    verdicts not depend on how a data set is split into batches.
    """
    if noise is None or isinstance(noise, Integral):
        return Keyed(keys(int(noise or 0), torch.arange(count, device=device)))
    if isinstance(noise, torch.Generator):
        return Sequential(noise, device)
    if isinstance(noise, Keyed) and noise.keys.device != device:
        return Keyed(noise.keys.to(device))
    if not isinstance(noise, Noise):
        raise SettingError(f"noise={noise!r}: pass a Noise, an int, a torch.Generator or None")
    return noise


@contextmanager
def random_state_kept() -> Iterator[None]:
    """The global random states of Python, NumPy, torch and, where the process uses CUDA, of all its
    devices are afterwards as they were before."""
    python, legacy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=_cuda_devices()):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(legacy)


@contextmanager
def seeded_randomness(seed: int, *names: str | int) -> Iterator[None]:
    """Inside, these states follow from ``seed`` and ``names``, for draws by the user's code."""
    for name in names:
        seed = (seed * 31 + _name_hash(name)) % 2**63
    with random_state_kept():
        random.seed(seed)
        np.random.seed(seed % 2**32)
        # Not torch.manual_seed: it also reseeds devices whose state is not kept here.
        torch.default_generator.manual_seed(seed)
        for device in _cuda_devices():
            # Not torch.cuda.manual_seed: it takes a context, and with it memory, of each device.
            torch.cuda.default_generators[device].manual_seed(seed)
        yield


def global_states() -> dict[str, int]:
    """A hash of the state of each global generator of the processor, by library."""
    _, key, position, *_ = np.random.get_state()
    return {
        "torch": hash(torch.random.get_rng_state().numpy().tobytes()),
        "NumPy": hash((np.asarray(key).tobytes(), position)),
        "Python": hash(random.getstate()),
    }


def _cuda_devices() -> list[int]:
    in_use: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return list(range(torch.cuda.device_count())) if in_use else []
