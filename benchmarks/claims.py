"""The paper's claims, one test each, from the tables that reproductions wrote.

    python benchmarks/claims.py results/digits results/digits-control [--out FILE.md]

Reads ``table1.json`` and ``table2.json`` of each folder, and of the folder beside it whose name
ends in ``-long-step`` (the same rows with steps of .22 epsilon). A folder PRESET-control holds rows
that were trained later, on another machine. Nothing is trained or attacked. Seeds that are folds:
the corrected t-test (Nadeau & Bengio 2003). Seeds that share their test images: the paired t-test,
joined with the error over images. Tables keep no image's outcome, so that error is the least it can
be: as if only one side were ever right alone, on the same images with every seed.
"""

import argparse
import json
import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from lrat.config.catalogue import FOLD_OVERLAP
from lrat.evaluation.comparison.seeds import MeanDifference, paired_means
from lrat.evaluation.statistics import ALPHA, holm
from lrat.reproduce.paper import TABLE_1, TABLE_2, papers_difference
from lrat.reproduce.presets import BASELINE, LONG_BASELINE, LONG_SUFFIX, Choice, method_of
from lrat.reproduce.table_text import signed
from lrat.text import DASH, to_markdown, written_p

Shares = dict[str, dict[int, tuple[float, int]]]
"""By column and seed: the share of images that a row gets right, and of how many."""

Claim = tuple[str, str, str]
"""A row, the row that it is compared with, and the attack."""

CONTROL = "-control"
AGAINST_SAT = (
    *(("gairat", attack) for attack in ("pgd-20", "cw-20", "autoattack")),
    ("lsat-saa", "autoattack"),
    ("lrat-saa", "autoattack"),
    ("lrat-saa", "pgd-20"),
    ("lrat-saa+cw", "autoattack"),
    ("lrat-cw", "cw-20"),
)
WITHOUT_WEIGHTS = (
    ("lrat-cw", "lsat-cw", "cw-20"),
    ("lrat-cw", "lsat-cw", "autoattack"),
    ("lrat-saa", "lsat-saa", "autoattack"),
    ("lrat-saa+cw", "lsat-saa+cw", "autoattack"),
)
WITHOUT_GD = tuple(
    (row, mixture, "autoattack")
    for row, mixture in (("gd+cw", "lrat-cw"), ("gd+saa", "lrat-saa"), ("saa+cw+gd", "lrat-saa+cw"))
)


WEIGHTS = tuple(
    (f"lrat-{attacks}", f"lsat-{attacks}", attack)
    for attacks in ("saa", "cw", "saa+cw")
    for attack in ("pgd-20", "cw-20", "autoattack")
)


def stored(folder: Path) -> dict[str, dict[str, Any]]:
    """Every row of the folder's tables and of its neighbour with the longer step, by name."""
    rows: dict[str, dict[str, Any]] = {}
    for home, suffix in ((folder, ""), (folder.with_name(f"{folder.name}-long-step"), LONG_SUFFIX)):
        for path in sorted(home.glob("table[12].json")):
            for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
                rows.setdefault(row["name"] + suffix, row)
    return rows


def shares_of(row: Mapping[str, Any]) -> Shares:
    shares: Shares = {}
    for run in row["runs"]:
        for column, right in run["right"].items():
            share = right["images"] / right["of"], right["of"]
            shares.setdefault(column, {})[run["seed"]] = share
    return shares


def claims(rows: Container[str]) -> Iterator[Claim]:
    """(row, reference, attack): beside SAT of the paper's step and, of rows that step as long or
    choose their own steps, beside SAT of the longer one; then beside the row without weights, the
    mixture without GD, and SAT's two steps."""
    for method, attack in AGAINST_SAT:
        yield method, BASELINE, attack
        long = method + LONG_SUFFIX if method + LONG_SUFFIX in rows else method
        if long != method or method.endswith("-saa"):
            yield long, LONG_BASELINE, attack
    yield from WITHOUT_WEIGHTS
    yield from WITHOUT_GD
    yield LONG_BASELINE, BASELINE, "pgd-20"
    yield LONG_BASELINE, BASELINE, "autoattack"


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A claim's difference, and its test: None for a single seed."""

    claim: Claim
    seeds: int
    difference: float
    test: MeanDifference | None

    def line(self, p: float | None) -> list[str]:
        """As the record shows it; ``p`` after Holm's correction."""
        line = [*self.claim, _papers(self.claim), str(self.seeds), signed(self.difference)]
        if self.test is None or p is None:
            return [*line, "none", "–", "–", "–"]
        line[-1] += f" [{signed(self.test.low)}, {signed(self.test.high)}]{' *' * (p < ALPHA)}"
        shows = f"{100 * self.test.detectable:.1f}"
        return [*line, self.test.test, written_p(self.test.p), written_p(p), shows]


def answers(rows: Mapping[str, Shares], folds: bool, claims: Iterable[Claim]) -> list[Answer]:
    """Of those claims whose rows are there."""
    there = [claim for claim in claims if claim[0] in rows and claim[1] in rows]
    found = []
    for row, reference, attack in there:
        ours, theirs = rows[row][attack], rows[reference][attack]
        seeds = sorted(ours.keys() & theirs.keys())
        a, b = [ours[seed][0] for seed in seeds], [theirs[seed][0] for seed in seeds]
        difference = fmean(a) - fmean(b)
        least = math.sqrt(max(abs(difference) - difference**2, 0.0) / ours[seeds[0]][1])
        test = paired_means(
            a,
            b,
            comparisons=len(there),
            overlap=FOLD_OVERLAP if folds else 0.0,
            image_error=0.0 if folds else least,
        )
        claim = row, reference, attack
        found.append(Answer(claim=claim, seeds=len(seeds), difference=difference, test=test))
    return found


def _papers(claim: Claim) -> str:
    known = {**TABLE_1, **TABLE_2}
    ours, theirs = (known.get(method_of(row)) for row in claim[:2])
    difference = papers_difference(ours, theirs, claim[2])
    return DASH if difference is None else signed(difference / 100)


def tested(found: Sequence[Answer]) -> str:
    """A family of tests as a table: Holm's correction is for all of its tests."""
    adjusted = iter(holm([each.test.p for each in found if each.test is not None]))
    header = ["row", "minus", "attack", "paper", "seeds", "difference", "test", "p", "p Holm"]
    lines = [each.line(None if each.test is None else next(adjusted)) for each in found]
    return to_markdown([[*header, "shows from"], *lines])


def section(folder: Path) -> list[str]:
    """Both families of a data set, and what its masking panels said."""
    found, choice = stored(folder), Choice.of(folder.name.removesuffix(CONTROL))
    folds = choice.source is not None
    rows = {name: shares_of(row) for name, row in found.items()}
    weights = answers(rows, folds, WEIGHTS)
    return [
        f"## {folder.name}: claims",
        "",
        f"{choice.preset.about}.",
        "",
        tested(answers(rows, folds, claims(rows))),
        *((f"## {folder.name}: weights", "", tested(weights)) if weights else ()),
        masking(found),
        "",
    ]


def masking(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """How many runs the masking panel did not pass, GAIRAT's and the others'."""
    words = []
    for who, ours in (("GAIRAT", True), ("every other row", False)):
        panels = [row["masking"] for name, row in rows.items() if ours == name.startswith("gairat")]
        suspicious, failed = (
            sum(panel["statuses"].get(status, 0) for panel in panels)
            for status in ("suspicious", "failed")
        )
        runs = sum(panel["panels"] for panel in panels)
        words.append(f"{who} {suspicious} suspicious and {failed} failed of {runs} runs")
    return f"Masking panel: {'; '.join(words)}."


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args(arguments)
    about = (
        "Seeds that are folds: corrected t-test (Nadeau & Bengio 2003). Seeds on the same test "
        "images: paired t-test joined with the least error that the images can add. One seed: no "
        "test here, see the folder's own tables. In points, with 95 % intervals; `*`: p below .05 "
        "after Holm's correction for all tests of the table; shows from: the difference that such "
        "a table would show in four of five cases. Paper: CIFAR-10, one run each."
    )
    blocks = ["# The paper's claims, tested", "", about, ""]
    for folder in chosen.folders:
        blocks += section(folder)
    made = (
        f"python benchmarks/claims.py {' '.join(f'results/{each.name}' for each in chosen.folders)}"
    )
    text = "\n".join([*blocks, f"Made by `{made}`.", ""])
    if chosen.out is None:
        print(text)
    else:
        chosen.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
