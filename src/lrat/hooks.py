"""Hooks around a model: one counts passes, one looks for gradients that are NaN."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.autograd.graph import register_multi_grad_hook

from lrat.outputs import shown_calls, tensors_in

_Kind = TypeVar("_Kind", bound="_Hooked")


class _Hooked(ABC):
    """A context manager: inside, hooks on ``module``; they are gone afterwards."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self._hooks = ExitStack()

    @abstractmethod
    def _register(self, module: nn.Module, hooks: ExitStack) -> None:
        """Enter the hooks into the stack."""

    def __enter__(self: _Kind) -> _Kind:
        self._register(self._module, self._hooks)
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.close()


class PassCounter(_Hooked):
    """Counts the rows that a module maps, and the rows whose gradient comes back through it.

    The counts are exact whatever calls the module, and cost no host synchronisation: a forward hook
    counts, and a hook on the output counts again when a gradient reaches it. Of a class whose own
    ``__call__`` runs no hooks, the calls by ``outputs.raw_logits`` alone are counted. As a context
    manager it removes its hooks at the end.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.forwards = 0
        self.backwards = 0
        self._runs_hooks = False

    def _register(self, module: nn.Module, hooks: ExitStack) -> None:
        hooks.enter_context(module.register_forward_hook(self._count_hooked, with_kwargs=True))
        if type(module).__call__ is not nn.Module.__call__:
            hooks.enter_context(shown_calls(module, self._count_shown))

    def read(self) -> tuple[int, int]:
        """Forwards and backwards so far."""
        return self.forwards, self.backwards

    def since(self, before: tuple[int, int]) -> tuple[int, int]:
        """Forwards and backwards after an earlier ``read``."""
        return self.forwards - before[0], self.backwards - before[1]

    def _count_hooked(
        self, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: object
    ) -> None:
        self._runs_hooks = True
        self._count(given[0] if given else next(iter(named.values())), output)

    def _count_shown(self, images: Tensor, output: object) -> None:
        if not self._runs_hooks:
            self._count(images, output)

    def _count(self, images: Tensor, output: object) -> None:
        rows = len(images)
        self.forwards += rows
        # All of them, since the module does not say which of its outputs are the logits.
        differentiable = [value for value in tensors_in(output) if value.requires_grad]
        if len(differentiable) == 1:
            differentiable[0].register_hook(self._on_gradient(rows))  # type: ignore[no-untyped-call]
        elif differentiable:
            register_multi_grad_hook(differentiable, self._on_gradient(rows), mode="any")

    def _on_gradient(self, rows: int) -> Callable[[Tensor], None]:
        def count(gradient: Tensor) -> None:
            self.backwards += rows

        return count


class GradientWatch(_Hooked):
    """Whether any gradient that came back through a module to its images was NaN.

    A square root, a norm or a division at 0 makes such gradients while all logits are finite. The
    sign of NaN is 0, so that an L_inf attack silently does nothing. A context manager; nothing
    waits for the device before ``has_nan`` is read.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self._is_nan: Tensor | None = None

    def _register(self, module: nn.Module, hooks: ExitStack) -> None:
        hooks.enter_context(module.register_forward_pre_hook(self._watch))

    @property
    def has_nan(self) -> bool:
        return self._is_nan is not None and bool(self._is_nan)

    def _watch(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        images = arguments[0] if arguments else None
        if isinstance(images, Tensor) and images.requires_grad:
            images.register_hook(self._look)  # type: ignore[no-untyped-call]

    def _look(self, gradient: Tensor | None) -> None:
        if gradient is None:  # no gradient reached the images
            return
        is_nan = gradient.isnan().any()
        self._is_nan = is_nan if self._is_nan is None else self._is_nan | is_nan
