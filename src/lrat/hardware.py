"""Devices: the precision of their float32 operations, the device of a model, its move to another.

``environment`` describes what a run was computed with: versions, device, commit.
"""

import os
import platform
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

import lrat
from lrat.errors import ModelError, SettingError
from lrat.text import in_one_line, shown

_FULL = "ieee"
_FULL_FLAGS = {"cudnn": False, "matmul": "highest"}

_PACKAGES = ("numpy", "torchvision", "scikit-learn", "scipy", "pyarrow", "safetensors")


class _Shared:
    """Changes a setting of the whole process while any thread is inside, then restores it."""

    def __init__(self, change: Callable[[], Callable[[], None]]) -> None:
        self._change = change
        self._lock = threading.Lock()
        self._inside = 0
        self._undo: Callable[[], None] | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            if not self._inside:
                self._undo = self._change()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside and self._undo is not None:
                    self._undo()


def full_float32() -> AbstractContextManager[None]:
    """Inside, float32 operations use neither TF32 nor bfloat16, whatever the user allowed.

    TF32 keeps 10 of a float32's 23 bits, and is cuDNN's default. Afterwards the settings are
    restored, also those made by ``torch.set_float32_matmul_precision``.
    """
    return _FULL_PRECISION()


def _use_full() -> Callable[[], None]:
    settings, flags = float32_settings(), _old_flags()
    # PyTorch refuses to read the old flags, as some programs do, where they contradict the new.
    _set_old_flags({name: _FULL_FLAGS[name] for name in flags})
    for holder in _holders():
        holder.fp32_precision = _FULL

    def undo() -> None:
        _set_old_flags(flags)
        set_float32(settings, inherited=True)

    return undo


def _old_flags() -> dict[str, Any]:
    """The flags of PyTorch before 2.9 by name, without those that PyTorch refuses to read because
    the user set a precision by both interfaces."""
    flags: dict[str, Any] = {}
    with suppress(RuntimeError):
        flags["cudnn"] = torch.backends.cudnn.allow_tf32
    with suppress(RuntimeError):
        flags["matmul"] = torch.get_float32_matmul_precision()
    return flags


def _set_old_flags(values: Mapping[str, Any]) -> None:
    if "cudnn" in values:
        torch.backends.cudnn.allow_tf32 = values["cudnn"]
    if "matmul" in values:
        torch.set_float32_matmul_precision(values["matmul"])


def float32_settings() -> tuple[Any, ...]:
    """The precision of float32 operations in this process, for ``set_float32`` in another one."""
    holders = _holders()
    if holders:
        return tuple(holder.fp32_precision for holder in holders)
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


def set_float32(settings: tuple[Any, ...], *, inherited: bool = False) -> None:
    """Set what ``float32_settings`` returned; ``inherited``: where a setting equals that of all
    backends, it follows it again."""
    holders = _holders()
    if not holders:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = settings
    for holder, value in zip(holders, settings, strict=False):
        if inherited:
            holder.fp32_precision = "none"
        if holder.fp32_precision != value:
            holder.fp32_precision = value


def _holders() -> list[Any]:
    """The objects that hold the precision of float32 operations since PyTorch 2.9; [] before."""
    backends: Any = torch.backends
    holders = [backends.cuda.matmul]
    for library in (backends.cudnn, backends.mkldnn):
        holders += [getattr(library, name, None) for name in ("matmul", "conv", "rnn")]
    return [holder for holder in holders if hasattr(holder, "fp32_precision")]


@contextmanager
def differentiable(model: nn.Module) -> Iterator[None]:
    """Inside, cuDNN is off for a model with recurrent layers, whose backward it refuses in eval
    mode."""
    recurrent = any(isinstance(part, nn.RNNBase) for part in model.modules())
    with _WITHOUT_CUDNN() if recurrent else nullcontext():
        yield


def _disable_cudnn() -> Callable[[], None]:
    cudnn: Any = torch.backends.cudnn
    before = cudnn.enabled
    cudnn.enabled = False
    return lambda: setattr(cudnn, "enabled", before)


_FULL_PRECISION, _WITHOUT_CUDNN = _Shared(_use_full), _Shared(_disable_cudnn)


def device_of(model: nn.Module) -> torch.device | None:
    """The device of the model's first parameter, or of its first buffer; None without either."""
    for tensor in (*model.parameters(), *model.buffers()):
        return tensor.device
    return None


def move(model: nn.Module, device: torch.device) -> nn.Module:
    """The model itself, on ``device``.

    ``.to`` is called only where all of its tensors lie on one other device: some libraries forbid
    it, and a model whose parts lie on several devices was divided on purpose. Raises ``ModelError``
    where ``.to`` fails.
    """
    sources = {tensor.device for tensor in (*model.parameters(), *model.buffers())}
    target = torch.empty(0, device=device).device  # has an index, as devices of tensors have
    if len(sources) != 1 or sources == {target}:
        return model
    try:
        return model.to(target)
    except Exception as error:
        (source,) = sources
        raise ModelError(
            f"the model lies on {source} and cannot be moved to {target}: "
            f"{in_one_line(error)}; pass device={str(source)!r}, or a model on {target}"
        ) from error


def device(name: str) -> torch.device:
    """The device of that name; ``auto`` is CUDA where there is a device of it, else the CPU.

    Raises ``SettingError`` for a device that PyTorch cannot use.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(name)
    except RuntimeError:
        raise SettingError(f"device {shown(name)}: use auto, cpu or cuda") from None
    try:
        torch.zeros(1, device=chosen).item()
    except (RuntimeError, AssertionError, NotImplementedError):
        raise SettingError(
            f"device {name!r}: PyTorch cannot use it here; use cpu or auto"
        ) from None
    return chosen


def processors() -> int:
    """The number of processors that a container or a scheduler lets this process use."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed is not None else os.cpu_count() or 1


def device_for_others(name: str) -> torch.device:
    """As ``device``, for a process that only starts others: it does not use the GPU, since its
    first use would take memory there."""
    with suppress(RuntimeError):
        parsed = torch.device("cuda" if name == "auto" else name)
        if parsed.type == "cuda" and (parsed.index or 0) < torch.cuda.device_count():
            return parsed
    return device(name)


def bfloat16_is_fast(kind: str) -> bool | None:
    """Whether a device of this kind has arithmetic in bfloat16, or only emulates it; None where it
    does not say, or where that must be measured: AVX-512 bfloat16 alone took 1.6 times as long as
    float32."""
    if kind == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if kind == "cpu" and platform.machine().lower() in {"x86_64", "amd64"}:
        if getattr(torch.cpu, "_is_amx_tile_supported", bool)():
            return True
        if not getattr(torch.cpu, "_is_avx512_bf16_supported", bool)():
            return False
    return None


def environment(device: torch.device) -> dict[str, Any]:
    """Plain values for ``environment.json``."""
    return {
        "lrat": lrat.__version__,
        "commit": _commit(),
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "packages": {name: _version(name) for name in _PACKAGES},
        "platform": platform.platform(),
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "device": _device_name(device),
        "float32": list(float32_settings()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": {
            "deterministic": torch.backends.cudnn.deterministic,
            "benchmark": torch.backends.cudnn.benchmark,
        },
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str | None:
    """The commit of the checkout that lrat was imported from, if it is one."""
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=5, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
