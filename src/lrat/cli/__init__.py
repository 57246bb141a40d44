"""The command line: parses, calls ``lrat.experiments``, prints; nothing else.

One module per command or pair of them; options that several commands take are in ``options``.
torch is imported inside the commands alone, so that ``lrat --help`` answers at once.
"""

from lrat.cli.entry import main

__all__ = ["main"]
