"""``lrat merge``."""

from pathlib import Path
from typing import Annotated

import typer


def merge(
    folders: Annotated[
        list[Path], typer.Argument(help="Evaluation folders, as `lrat evaluate --part` left them.")
    ],
    out: Annotated[Path, typer.Option(help="The joined folder; may be one of them.")],
) -> None:
    """Join the parts of one evaluation that several machines made."""
    from lrat.evaluation.merge import merge as join

    joined = join(folders, out)
    print(joined)
    print(f"evidence in {out}")
