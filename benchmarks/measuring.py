"""Timing in turns, and counting of what was done: passes and gradients of weights."""

import contextlib
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lrat.hooks import PassCounter


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One contestant. ``work`` is timed and handles ``images`` images per call.

    ``watched``: the modules whose calls are passes. ``repeats``: ``work`` does the thing that it is
    named after so many times, so that a short thing is timed as long as what it is compared with.
    """

    name: str
    work: Callable[[], object]
    watched: tuple[nn.Module, ...]
    images: int
    repeats: int = 1


@dataclass(kw_only=True)
class Measured:
    """What an entry took; passes and gradients of weights per image, counted in one call."""

    entry: Entry
    seconds: list[float] = field(default_factory=list)
    forwards: float = 0.0
    backwards: float = 0.0
    weight_gradients: float = 0.0
    result: object = None
    error: str | None = None

    @property
    def best(self) -> float:
        """Seconds of the best round; not a number if there is none."""
        return min(self.seconds, default=float("nan")) / self.entry.repeats

    @property
    def spread(self) -> float:
        """The median round over the best one: how disturbed the machine was."""
        if not self.seconds:
            return float("nan")
        return statistics.median(self.seconds) / min(self.seconds)

    @property
    def cost(self) -> float:
        """Forwards, gradients to the input and gradients of weights, each as one unit."""
        return self.forwards + self.backwards + self.weight_gradients


class WeightGradients(TorchDispatchMode):
    """Counts rows for which the gradient of a convolution's weight is formed."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ == "convolution_backward" and args[-1][1]:
            self.rows += len(args[0])
        return func(*args, **(kwargs or {}))


def count(entry: Entry) -> Measured:
    """One call that is not timed: the warm-up, in which passes are counted by hooks."""
    found = Measured(entry=entry)
    with contextlib.ExitStack() as stack:
        counters = [stack.enter_context(PassCounter(module)) for module in entry.watched]
        weights = stack.enter_context(WeightGradients())
        try:
            found.result = entry.work()
        except Exception as error:
            found.error = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
    convolutions = sum(isinstance(module, nn.Conv2d) for module in entry.watched[0].modules())
    images = entry.images * entry.repeats
    found.forwards = sum(counter.forwards for counter in counters) / images
    found.backwards = sum(counter.backwards for counter in counters) / images
    found.weight_gradients = weights.rows / max(convolutions, 1) / images
    return found


def in_turns(entries: Sequence[Entry], rounds: int) -> list[Measured]:
    """Every entry once per round, each round in another order, since machines drift.

    An entry that raises keeps its error and is left out of the rounds.
    """
    measured = [count(entry) for entry in entries]
    running = [found for found in measured if found.error is None]
    for number in range(rounds):
        shift = number % max(len(running), 1)
        for found in running[shift:] + running[:shift]:
            started = clock()
            found.entry.work()
            found.seconds.append(clock() - started)
    return measured


def clock() -> float:
    """Seconds: of the processor where one thread works on it, else of the wall.

    Other work on a shared machine lengthens the wall's seconds, not the processor's.
    """
    alone = torch.get_num_threads() == 1 and not torch.cuda.is_available()
    return time.process_time() if alone else time.perf_counter()


def check_images(result: object, images: Tensor, epsilon: float) -> Tensor:
    """The attack's images, looked at: in the ball and in [0, 1], of the right shape."""
    if not isinstance(result, Tensor) or result.shape != images.shape:
        raise TypeError(f"an attack returned {type(result).__name__}, not images")
    result = result.detach()
    assert float((result - images).abs().max()) <= epsilon + 1e-6, "outside the ball"
    assert torch.equal(result, result.clamp(0, 1)), "outside [0, 1]"
    return result


def say(text: str) -> None:
    """Progress, beside the table on stdout."""
    print(text, file=sys.stderr, flush=True)


def run_lrat(*words: str, processes: int = 1) -> None:
    """``lrat WORDS`` in an interpreter of its own, one thread per process."""
    devices = ("--devices", str(processes)) if processes > 1 else ()
    ended = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "lrat", *words, *devices],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        sys.exit(ended.stderr)


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    described = Path("/proc/cpuinfo")
    if described.exists():
        for line in described.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def features() -> list[str]:
    """The processor's instruction sets that matter here; in the last two it computes bfloat16."""
    described = Path("/proc/cpuinfo")
    flags = set(described.read_text().split()) if described.exists() else set()
    return [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if name in flags]


def environment(*names: str) -> str:
    """Versions of the named distributions that are installed."""
    from importlib.metadata import PackageNotFoundError, version

    found = []
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{name} {version(name)}")
    return ", ".join([f"Python {platform.python_version()}", f"torch {torch.__version__}", *found])
