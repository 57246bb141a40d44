"""Counting passes: images sent through a model and gradients sent back."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from lrat.outputs import logits_of


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
        logits = logits_of(output, rows)
        self.forwards += rows
        if logits.requires_grad:
            logits.register_hook(self._on_gradient(rows))  # type: ignore[no-untyped-call]

    def _on_gradient(self, rows: int) -> Callable[[Tensor], None]:
        def count(gradient: Tensor) -> None:
            self.backwards += rows

        return count
