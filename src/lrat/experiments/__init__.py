"""What one can do with runs and models, a file for each command; names are imported when used."""

from lrat.lazily import exported

__getattr__, __dir__ = exported(__name__, __file__)
__all__ = __dir__()  # noqa: PLE0605 - the names of the stub
