"""Packages whose names are imported when first used.

Reading what an evaluation stored needs no torch, whose import alone takes longer than that. What a
package exports is written once, in the stub ``__init__.pyi`` beside it, which type checkers read.
"""

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def exported(package: str, init: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for the ``package`` of this ``__init__.py`` (PEP 562).

    Raises, when called with a name that the stub does not import, ``AttributeError``.
    """
    stub = Path(init).with_suffix(".pyi").read_text(encoding="utf-8")
    places = {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in ast.parse(stub).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def get(name: str) -> Any:
        if name in places:
            module, own = places[name]
            return getattr(import_module(module), own)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted(places)
