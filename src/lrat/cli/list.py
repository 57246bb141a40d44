"""``lrat list``."""

from typing import Annotated

import typer


def list_(
    what: Annotated[str, typer.Argument(help="methods, attacks, suites, data or models.")],
) -> None:
    """What there is, a line each."""
    from lrat.config.catalogue import ALIASES, CATALOGUES
    from lrat.errors import UnknownNameError

    if what not in CATALOGUES:
        raise UnknownNameError("list", what, CATALOGUES)
    entries = dict(CATALOGUES[what])
    if what == "methods":
        entries |= {alias: f"the same as {name}" for alias, name in ALIASES.items()}
    width = max(map(len, entries))
    for name, description in entries.items():
        print(f"{name.ljust(width)}  {description}")
