"""What weights did in a reproduction: how equal they are, when the floor acts, whom attacks hit.

    python benchmarks/weights.py results/digits results/fashion-mnist [--out FILE.md]
    lrat analyse results/digits/runs/sat-seed-0 --saa --points 0      # for the table of margins

Reads what runs recorded while they trained (`weights/`), and the margins of those that were
analysed. Values are of one epoch, as mean over a row's seeds; with several seeds their range
follows. Nothing is trained or attacked.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.analysis.weights import ALL_CLASSES, SUM, read_recorded, weight_statistics
from lrat.reproduce.folder import FinishedRun, finished_runs
from lrat.runs.folder import read_config
from lrat.text import to_markdown

Statistics = dict[str, npt.NDArray[Any]]
VIEWS = ("clean", "pgd", "cw", "saa")


def statistics(run: Path) -> Statistics:
    """The rows of all classes together of the run's first and last recorded epoch; none for a run
    without weights."""
    epochs = list(read_recorded(run / "weights"))
    ends = [epochs[0], epochs[-1]] if len(epochs) > 1 else epochs
    table = weight_statistics(ends, floor=read_config(run).floor_in)
    if not table:
        return {}
    whole = table["label"] == ALL_CLASSES
    return {name: column[whole] for name, column in table.items()}


def spread(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """``.972`` for one seed, ``.972 (.970 – .974)`` for several."""
    mean = shown(float(np.mean(values)))
    if len(values) == 1 or shown(min(values)) == shown(max(values)):
        return mean
    return f"{mean} ({shown(min(values))} – {shown(max(values))})"


def decimal(value: float) -> str:
    return f"{value:.3f}".replace("0.", ".", 1)


def per_cent(value: float) -> str:
    return f"{100 * value:.1f}"


def weight_rows(runs: Mapping[str, Sequence[FinishedRun]]) -> Iterator[list[str]]:
    """A line per row of the reproduction and term: the epoch is the last one recorded, but for the
    effective size of the first."""
    for row, places in runs.items():
        tables = [found for place in places if (found := statistics(place.folder))]
        if not tables or all((found["deviation"] == 0).all() for found in tables):
            continue  # equal weights have nothing to tell
        terms = list(dict.fromkeys(str(name) for name in tables[0]["term"]))
        if len(terms) == 2:
            terms.remove(SUM)  # one term is its own sum
        for term in terms:
            raw, normalised = (
                [of_term(found, term, kind) for found in tables] for kind in ("raw", "normalised")
            )
            alone = term == SUM or len(terms) == 1
            yield [
                row,
                term,
                str(len(tables)),
                spread([each["mean"][-1] for each in raw], decimal),
                spread([each["deviation"][-1] for each in normalised], decimal),
                spread([each["effective_sample_size"][0] for each in raw], decimal),
                spread([each["effective_sample_size"][-1] for each in raw], decimal),
                spread([each["share_below"][-1] for each in raw], per_cent),
                "" if alone else spread([each["instance_share"][-1] for each in raw], decimal),
                ""
                if alone
                else spread([each["instance_share_deviation"][-1] for each in raw], decimal),
                spread([each["floor_share"][-1] for each in raw], per_cent),
            ]


def of_term(table: Statistics, term: str, kind: str) -> Statistics:
    held = (table["term"] == term) & (table["kind"] == kind)
    return {name: column[held] for name, column in table.items()}


WEIGHT_HEADER = [
    "row",
    "term",
    "seeds",
    "mean, raw",
    "deviation, normalised",
    "effective size, first epoch",
    "effective size, last epoch",
    "below .2, %",
    "share of an image's weight",
    "its deviation",
    "floor acts, %",
]


def margin_rows(runs: Mapping[str, Sequence[FinishedRun]]) -> Iterator[list[str]]:
    """Mean probability margins (Eq. 11) of the analysed runs' training images, for those that are
    right when clean and for the others."""
    for row, places in runs.items():
        found = [
            json.loads(path.read_text(encoding="utf-8"))
            for place in places
            for path in sorted(place.folder.glob("analysis/selected-train-*/summary.json"))
        ]
        for of, name in (("right", "right when clean"), ("wrong", "wrong when clean")):
            parts = [
                summary["margins"]
                for summary in found
                if all(summary["margins"].get(f"t_{view}", {}).get(of) for view in VIEWS)
            ]
            if not parts:
                continue
            counts = [margins["t_clean"][of]["n"] for margins in parts]
            yield [
                row,
                name,
                str(len(parts)),
                spread([float(count) for count in counts], lambda count: f"{count:.0f}"),
                *(
                    spread([margins[f"t_{view}"][of]["mean"] for margins in parts], decimal)
                    for view in VIEWS
                ),
            ]


MARGIN_HEADER = ["row", "images", "seeds", "n", *(f"t under {view}" for view in VIEWS)]


def section(folder: Path) -> list[str]:
    by_row: dict[str, list[FinishedRun]] = {}
    for place in finished_runs(folder):
        by_row.setdefault(place.row, []).append(place)
    told = [f"## {folder.name}", ""]
    for title, header, rows in (
        ("Weights while training", WEIGHT_HEADER, list(weight_rows(by_row))),
        ("Mean probability margins of training images", MARGIN_HEADER, list(margin_rows(by_row))),
    ):
        if rows:
            told += [f"{title}:", "", to_markdown([header, *rows])]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path, help="of `lrat reproduce`")
    parser.add_argument("--out", type=Path, help="write Markdown there too")
    chosen = parser.parse_args()
    command = f"python benchmarks/weights.py {' '.join(map(str, chosen.folders))}"
    told = ["# What the weights did", "", f"`{command}`; values in brackets: range over seeds.", ""]
    for folder in chosen.folders:
        told += section(folder)
    text = "\n".join(told)
    print(text)
    if chosen.out is not None:
        chosen.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
