"""The demonstration: Table 1's rows on bundled digits, and what they show."""

import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrat.evaluation import Comparison, EvaluationResult, compare
from lrat.evaluation.comparison.words import p_in_words
from lrat.experiments.demo_rows import FORWARDS, Plan, make_rows
from lrat.experiments.reproduce.rows import BASELINE, LONG_BASELINE, LONG_STEP
from lrat.files.write import write_text
from lrat.reporting.report import write_run_report
from lrat.reporting.report.records import WORST
from lrat.reporting.tables import RunRow, results_table
from lrat.reproduce.grid import Watcher
from lrat.reproduce.paper import TABLE_1
from lrat.text import to_markdown

ROWS = (BASELINE, LONG_BASELINE, *(name for name in TABLE_1 if name != BASELINE))
PAPER_TITLE = "The paper: CIFAR-10, ResNet-18, Linf 8/255, 10,000 images"
_LEGEND = (
    "Wilson 95 % intervals in brackets; forwards: network forwards of training per image and "
    f"epoch; {LONG_BASELINE}: SAT with steps of {LONG_STEP:g} epsilon, as the same group's code "
    "has, where the other rows have the paper's epsilon / 10."
)


@dataclass(frozen=True, kw_only=True)
class DemoReport:
    """Our table, the paper's, and what may be concluded; ``path`` holds them in Markdown, and
    ``page`` everything about the runs (``experiments.report``)."""

    title: str
    table: Sequence[Sequence[str]]
    paper: Sequence[Sequence[str]]
    made: str
    conclusion: str
    path: Path
    page: Path
    seconds: float

    def markdown(self) -> str:
        return "\n".join(
            [
                f"# {self.title}",
                "",
                f"{self.made}. {_LEGEND}",
                "",
                to_markdown(self.table),
                f"## {PAPER_TITLE}",
                "",
                to_markdown(self.paper),
                self.conclusion,
            ]
        )


def run_demo(out: Path, plan: Plan, *, workers: int, watcher: Watcher) -> DemoReport:
    """Train and attack all rows of Table 1, and SAT with the long step, into ``out``, and write
    ``table.md`` and ``report.html`` there.

    Rows that an earlier call finished are read back; an interrupted one is continued.
    """
    started = time.perf_counter()
    workers = min(workers, len(FORWARDS))
    watcher.say(
        f"{len(FORWARDS)} rows, {plan}, on {workers} worker "
        f"process{'' if workers == 1 else 'es'} of one thread; runs in {out}"
    )
    rows = {row.name: row for row in make_rows(out, plan, workers, watcher)}
    evaluations = {name: plan.evaluate(rows[name].folder) for name in ROWS}
    results = {name: found[-1] for name, found in evaluations.items()}
    first = results[LONG_BASELINE]
    counts = [len(found.index) for found in evaluations[LONG_BASELINE]]
    title = f"Table 1 on digits: accuracy in per cent, {first.threat}, n {counts[0]}"
    if len(counts) > 1:
        title += f" (autoattack and worst case: n {counts[-1]})"
    comparisons = {
        name: compare(result, first) for name, result in results.items() if name != LONG_BASELINE
    }
    report = DemoReport(
        title=title,
        table=results_table(
            [RunRow(name=name, summary=_joined(found)) for name, found in evaluations.items()],
            {"forwards": {name: f"{row.forwards:.0f}" for name, row in rows.items()}},
        ),
        paper=_paper_table(),
        made=str(plan),
        conclusion=conclusion(comparisons, images=len(first.index)),
        path=out / "table.md",
        page=out / "report.html",
        seconds=time.perf_counter() - started,
    )
    write_text(report.path, report.markdown())
    write_run_report(
        [rows[name].folder for name in ROWS],
        report.page,
        title="The methods of the paper's Table 1 on digits",
        command=shlex.join(["lrat", "report", str(out), "--out", str(report.page)]),
    )
    return report


def _joined(results: Sequence[EvaluationResult]) -> dict[str, Any]:
    """One summary: each attack from the evaluation that met it first, the worst case from the
    last, which holds all attacks."""
    summaries = [result.summary() for result in results]
    shares: dict[str, Any] = {}
    for result, summary in zip(results, summaries, strict=True):
        for name in result.names:
            shares.setdefault(name, summary["accuracy"][name])
    return {**summaries[-1], "accuracy": shares}


def _paper_table() -> list[list[str]]:
    lines = [
        [name, *(f"{value:.2f}" for value in (row.natural, row.pgd, row.cw, row.autoattack))]
        for name, row in TABLE_1.items()
    ]
    return [["", "natural", "PGD", "CW", "AA"], *lines]


def conclusion(comparisons: Mapping[str, Comparison], *, images: int) -> str:
    """One honest paragraph on what the table shows."""
    told, untold = [], []
    for name, comparison in comparisons.items():
        worst = comparison.contrasts[WORST]
        if worst.distinguishable:
            verb = "better" if worst.difference.value > 0 else "worse"
            points = 100 * abs(worst.difference.value)
            told.append(f"{name} is {verb} by {points:.1f} points ({p_in_words(worst.p)})")
        else:
            untold.append(name)
    return (
        f"What this shows: one seed and {images} test images of another data set and another "
        f"network than the paper's, so compare the order of rows, not their values. By the worst "
        f"case over the suite, against {LONG_BASELINE} and on the same images (exact McNemar test, "
        f"5 % level, not corrected for {len(comparisons)} comparisons): "
        f"{_listed(told) or 'no row can be told apart from it'}"
        f"{'' if not (told and untold) else '; not told apart: ' + ', '.join(untold)}. "
        "A row that gains under PGD and loses under the other attacks, as GAIRAT does in the "
        "paper, shows masking rather than robustness; a claim about small differences needs "
        "several seeds.\n"
    )


def _listed(parts: Sequence[str]) -> str:
    return "; ".join(parts)
