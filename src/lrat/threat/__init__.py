"""Threat models: balls around a clean image, always intersected with the box [0, 1].

Epsilon is in [0, 1] pixel units (8/255, never 8). A new norm is one file here, its export, and a
row in ``norms``, which needs no torch.
"""

from lrat.lazily import exported

__getattr__, __dir__ = exported(__name__, __file__)
__all__ = __dir__()  # noqa: PLE0605 - the names of the stub
