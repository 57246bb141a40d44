"""Gradients that are no numbers: attacks stand still on them and the model looks robust."""

from typing import Any

from torch import Tensor, nn


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
