"""``lrat list``."""

from typing import Annotated

import typer


def list_(
    what: Annotated[
        str,
        typer.Argument(help="methods, attacks, weightings, losses, suites, data or models."),
    ],
    method: Annotated[
        str | None,
        typer.Argument(help="A method: print it in YAML, as `lrat train --config` takes it."),
    ] = None,
) -> None:
    """What there is, a line each; a method in full."""
    from lrat.config.catalogue import ALIASES, CATALOGUES
    from lrat.errors import SettingError, UnknownNameError

    if what not in CATALOGUES:
        raise UnknownNameError("list", what, CATALOGUES)
    if method is not None:
        from lrat.config.method import method_as_yaml

        if what != "methods":
            raise SettingError(f"list {what} {method!r}: methods alone are printed in full")
        print(method_as_yaml(method), end="")
        return
    entries = dict(CATALOGUES[what])
    if what == "methods":
        entries |= {alias: f"the same as {name}" for alias, name in ALIASES.items()}
    width = max(map(len, entries))
    for name, description in entries.items():
        print(f"{name.ljust(width)}  {description}")
