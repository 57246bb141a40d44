"""Where time and memory go: seconds by phase, FLOP per pass, the device's matrix peak, saved
activations.

Everything is measured from outside, by hooks, so that nothing that runs in earnest carries
profiling code.
"""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lrat.outputs import forward_logits, logits_of
from lrat.randomness import random_state_kept
from lrat.types import Images

FORWARD, BACKWARD = "forward", "backward"
_MATRIX_SIZES = (256, 512, 1024, 2048, 4096, 8192)
_LONG_ENOUGH = 0.05
_REPEATS = range(5)


class PhaseClock:
    """Seconds by phase: at any time exactly one phase runs, so the parts add up to the whole.

    On CUDA each change of phase waits for the device, which is why this is for profiling alone.
    """

    def __init__(self, device: torch.device, phase: str) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.phase = phase
        self._device = device
        self._since = self._now()

    @property
    def total(self) -> float:
        """Seconds of all phases so far, up to the last change."""
        return sum(self.seconds.values())

    def switch(self, phase: str) -> str:
        """Begin ``phase``; returns the one that ends."""
        now, ended = self._now(), self.phase
        self.seconds[ended] += now - self._since
        self.phase, self._since = phase, now
        return ended

    @contextmanager
    def during(self, phase: str) -> Iterator[None]:
        """``phase`` inside, the former phase again afterwards."""
        former = self.switch(phase)
        try:
            yield
        finally:
            self.switch(former)

    def reset(self) -> None:
        """Forget what was measured; the phase goes on."""
        self.seconds.clear()
        self._since = self._now()

    def _now(self) -> float:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()


def part(phase: str, direction: str) -> str:
    """The name under which passes within ``phase`` are kept: ``attack forward``."""
    return f"{phase} {direction}"


class PassClock:
    """Splits passes through some modules off the phase in which they happen, and counts their rows.

    A forward within phase ``attack`` is ``attack forward``. The way back from a module's output to
    its images is ``attack backward``, where the images need a gradient: it begins when the output's
    gradient is known and ends when the images' is. ``rows`` counts images forward and gradients
    back under the same names, gradients also where only weights need one. A context manager; the
    hooks are gone afterwards.
    """

    def __init__(self, clock: PhaseClock, *modules: nn.Module) -> None:
        self.rows: Counter[str] = Counter()
        self._clock = clock
        self._modules = {id(module): module for module in modules}.values()
        self._former: list[str] = []
        self._interrupted: str | None = None
        self._hooks = ExitStack()

    def __enter__(self) -> "PassClock":
        for module in self._modules:
            for handle in (
                # First in and last out, so that other hooks count as part of the phase around.
                module.register_forward_pre_hook(self._begin),
                module.register_forward_hook(self._end, prepend=True),
            ):
                self._hooks.callback(handle.remove)
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove the hooks."""
        self._hooks.close()

    def _begin(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._former.append(self._clock.switch(part(self._clock.phase, FORWARD)))

    def _end(self, module: nn.Module, arguments: tuple[Any, ...], output: object) -> None:
        phase = self._former.pop()
        self._clock.switch(phase)
        logits = logits_of(output)
        self.rows[part(phase, FORWARD)] += len(logits)
        if not logits.requires_grad:
            return
        images = arguments[0] if arguments else None
        to_images = isinstance(images, Tensor) and images.requires_grad
        logits.register_hook(self._leaving(len(logits), to_images))  # type: ignore[no-untyped-call]
        if isinstance(images, Tensor) and to_images:
            images.register_hook(self._arriving)  # type: ignore[no-untyped-call]

    def _leaving(self, rows: int, to_images: bool) -> Callable[[Tensor], None]:
        def begin(gradient: Tensor) -> None:
            backward = part(self._interrupted or self._clock.phase, BACKWARD)
            self.rows[backward] += rows
            if to_images and self._interrupted is None:
                self._interrupted = self._clock.switch(backward)

        return begin

    def _arriving(self, gradient: Tensor) -> None:
        if self._interrupted is not None:
            self._clock.switch(self._interrupted)
            self._interrupted = None


@dataclass(frozen=True, kw_only=True)
class PassFlop:
    """FLOP per image (2 per multiply-add, convolutions and matrix products) of a pass."""

    forward: float
    backward: float


def image_pass_flop(model: nn.Module, images: Images) -> PassFlop | None:
    """Forward and gradient with respect to the images alone: what a step of an attack takes.

    None where PyTorch's counter cannot follow the model.
    """
    leaf = images.detach().clone().requires_grad_()
    return _pass_flop(model, leaf, [leaf])


def weight_pass_flop(model: nn.Module, images: Images) -> PassFlop | None:
    """Forward and gradient with respect to the parameters: what an update takes. None as above.

    In the model's own mode: a BatchNorm in train mode takes these images into its statistics.
    """
    weights = [value for value in model.parameters() if value.requires_grad]
    return _pass_flop(model, images.detach(), weights)


def _pass_flop(model: nn.Module, images: Tensor, inputs: Sequence[Tensor]) -> PassFlop | None:
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    try:
        with torch.enable_grad(), random_state_kept(), counter:
            logits = forward_logits(model, images)
            forward = counter.get_total_flops()
            torch.autograd.grad(logits.sum(), inputs, allow_unused=True)
    except Exception:
        return None
    both = counter.get_total_flops()
    return PassFlop(forward=forward / len(images), backward=(both - forward) / len(images))


def saved_activations(model: nn.Module, image: Images) -> int:
    """Bytes that autograd keeps per image between forward and backward of an attack's pass.

    ``image`` [1 C H W]. The growth from 2 to 4 copies of it, counting each storage once: parameters
    and other tensors that do not grow with the batch drop out.
    """
    few, many = (_saved_bytes(model, image.repeat(count, 1, 1, 1)) for count in (2, 4))
    return (many - few) // 2


def _saved_bytes(model: nn.Module, images: Tensor) -> int:
    storages: dict[int, int] = {}

    def pack(saved: Tensor) -> Tensor:
        storage = saved.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return saved

    leaf = images.detach().requires_grad_()
    with torch.enable_grad(), random_state_kept():
        # Autograd holds what it saves as long as the output lives, so no address is used twice.
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda kept: kept):
            output = forward_logits(model, leaf)
        del output
    return sum(storages.values())


@torch.no_grad()
def matrix_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the fastest square matrix product: the device's practical peak, with the present
    number of threads.

    Best of several repeats of sizes from 256 on, up to the one that takes 0.05 s. float32 on CUDA
    is measured with TF32, which convolutions use there by default.
    """
    best = 0.0
    generator = torch.Generator(device)
    with _tensor_float(device):
        for size in _MATRIX_SIZES:
            # Random numbers: a GPU multiplies constants at less power, so faster.
            matrix = torch.rand((size, size), device=device, generator=generator).to(dtype)
            seconds = min(_seconds(partial(torch.mm, matrix, matrix), device) for _ in _REPEATS)
            best = max(best, 2 * size**3 / seconds)
            if seconds > _LONG_ENOUGH:
                break
    return best


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    clock = PhaseClock(device, "work")
    work()
    clock.switch("done")
    return clock.total


@contextmanager
def _tensor_float(device: torch.device) -> Iterator[None]:
    if device.type != "cuda":
        yield
        return
    former = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(former)
