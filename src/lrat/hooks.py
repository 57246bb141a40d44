"""Hooks around a model: one counts passes, one looks for gradients that are NaN."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

from lrat.outputs import tensors_in


class PassCounter:
    """Counts the rows that a module maps, and the rows whose gradient comes back through it.

    Exact for whatever calls the module, without a host synchronisation: a forward hook counts, and
    a hook on the output counts again when a gradient reaches it. A context manager; the hooks are
    gone afterwards.
    """

    def __init__(self, module: nn.Module) -> None:
        self.forwards = 0
        self.backwards = 0
        self._module = module
        self._handle: Any = None

    def __enter__(self) -> "PassCounter":
        self._handle = self._module.register_forward_hook(self._count, with_kwargs=True)
        return self

    def __exit__(self, *error: object) -> None:
        self._handle.remove()

    def read(self) -> tuple[int, int]:
        """Forwards and backwards so far."""
        return self.forwards, self.backwards

    def since(self, before: tuple[int, int]) -> tuple[int, int]:
        """Forwards and backwards after an earlier ``read``."""
        return self.forwards - before[0], self.backwards - before[1]

    def _count(
        self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: object
    ) -> None:
        rows = len(given[0] if given else next(iter(named.values())))
        self.forwards += rows
        # All of them: which are the logits is for the caller to say, or for an objective to know.
        differentiable = [value for value in tensors_in(output) if value.requires_grad]
        if len(differentiable) == 1:
            differentiable[0].register_hook(self._on_gradient(rows))  # type: ignore[no-untyped-call]
        elif differentiable:
            register_multi_grad_hook(differentiable, self._on_gradient(rows), mode="any")

    def _on_gradient(self, rows: int) -> Callable[[Tensor], None]:
        def count(gradient: Tensor) -> None:
            self.backwards += rows

        return count


class GradientWatch:
    """Whether any gradient that came back through a module to its images was NaN.

    A square root, a norm or a division at 0 makes such gradients while all logits are finite. The
    sign of NaN is 0, so that an L_inf attack silently does nothing. A context manager; nothing
    waits for the device before ``found`` is read.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._seen: Tensor | None = None
        self._handle: Any = None

    def __enter__(self) -> "GradientWatch":
        self._handle = self._module.register_forward_pre_hook(self._watch)
        return self

    def __exit__(self, *error: object) -> None:
        self._handle.remove()

    @property
    def found(self) -> bool:
        return self._seen is not None and bool(self._seen)

    def _watch(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        images = arguments[0] if arguments else None
        if isinstance(images, Tensor) and images.requires_grad:
            images.register_hook(self._look)  # type: ignore[no-untyped-call]

    def _look(self, gradient: Tensor | None) -> None:
        if gradient is None:  # it did not reach the images
            return
        broken = gradient.isnan().any()
        self._seen = broken if self._seen is None else self._seen | broken
