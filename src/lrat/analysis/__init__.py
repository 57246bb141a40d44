"""Analyses of a model's images: vulnerability views and their overlap, the weights of a method,
t-SNE of the outputs."""

from lrat.lazily import exported

__getattr__, __dir__ = exported(__name__, __file__)
__all__ = __dir__()  # noqa: PLE0605 - the names of the stub
