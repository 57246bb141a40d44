"""Twelve checks of gradient masking: whether a model is robust, or the attacks fail."""

from lrat.lazily import exported

__getattr__, __dir__ = exported(__name__, __file__)
__all__ = __dir__()  # noqa: PLE0605 - the names of the stub
