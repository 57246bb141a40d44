"""Packages whose names are imported when first used.

Reading a stored evaluation needs no torch, whose import alone takes longer than the reading. The
exports of a package are written once, in the stub ``__init__.pyi`` beside it, which type checkers
read.
"""

import ast
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any


def exported(package: str, init: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """``__getattr__`` and ``__dir__`` for the ``package`` of this ``__init__.py`` (PEP 562).

    ``__getattr__`` raises ``AttributeError`` for a name that the stub does not import.
    """
    stub = Path(init).with_suffix(".pyi").read_text(encoding="utf-8")
    addresses = {
        alias.asname or alias.name: (str(node.module), alias.name)
        for node in ast.parse(stub).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }

    def get(name: str) -> Any:
        if name in addresses:
            module, attribute = addresses[name]
            return getattr(import_module(module), attribute)
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted(addresses)
