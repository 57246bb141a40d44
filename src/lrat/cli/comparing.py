"""``lrat compare``."""

from pathlib import Path
from typing import Annotated

import typer


def compare(
    first: Annotated[Path, typer.Argument(help="A run or evaluation folder.")],
    second: Annotated[Path, typer.Argument(help="Another one, evaluated on the same images.")],
    suite: Annotated[
        str | None, typer.Option(help="Which evaluation, where there are several.")
    ] = None,
) -> None:
    """Paired tests of two runs on the same images (exact McNemar)."""
    from lrat.experiments.evaluating import compare_runs

    comparison = compare_runs(first, second, suite=suite)
    print(f"a: {first}\nb: {second}\n\n{comparison}")
