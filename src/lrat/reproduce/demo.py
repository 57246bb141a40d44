"""The demonstration: Table 1's rows on bundled digits, and what they show.

The rows are trained and attacked in worker processes; the table is made from the summaries that
their evaluations store.
"""

import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from lrat.config.catalogue import check_suite
from lrat.config.settings import load_config
from lrat.evaluation import Comparison, EvaluationResult, compare
from lrat.evaluation.comparison.shared import WORST_CASE
from lrat.experiments.evaluate import evaluate_run
from lrat.experiments.evaluation_request import EvaluationRequest
from lrat.experiments.train import train_run
from lrat.files.write import write_text
from lrat.reporting.report import write_run_report
from lrat.reproduce.grid import Quiet, Watcher, finished_files, in_order, make_cells
from lrat.reproduce.paper import DEMO_PRESET, TABLE_1
from lrat.reproduce.presets import BASELINE, LONG_BASELINE, LONG_STEP, row_layer
from lrat.text import p_in_words, to_markdown

ROWS = (BASELINE, LONG_BASELINE, *(name for name in TABLE_1 if name != BASELINE))
PAPER_TITLE = "The paper: CIFAR-10, ResNet-18, Linf 8/255, 10,000 images"
_LEGEND = (
    "Wilson 95 % intervals in brackets; forwards: network forwards of training per image and "
    f"epoch; {LONG_BASELINE}: SAT with steps of {LONG_STEP:g} epsilon, as the same group's code "
    "has, where the other rows have the paper's epsilon / 10."
)

AUTOATTACKED = 200
"""So many images meet AutoAttack, which costs two hundred times what PGD-20 does."""


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


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the demonstration does with each row; ``epochs`` None is the preset's."""

    suite: str = "paper"
    epochs: int | None = None
    acceleration: Literal["auto", "off"] = "auto"

    def __post_init__(self) -> None:
        check_suite(self.suite)

    @property
    def preset(self) -> dict[str, Any]:
        """The rows' common settings."""
        chosen = {} if self.epochs is None else {"epochs": self.epochs}
        training = {**DEMO_PRESET["training"], **chosen}
        return {**DEMO_PRESET, "training": training, "acceleration": self.acceleration}

    def evaluate(self, run: Path) -> list[EvaluationResult]:
        """A row's evaluations; with AutoAttack the short attacks on all images come first."""
        request = EvaluationRequest(suite=self.suite, acceleration=self.acceleration)
        requests = [request]
        if self.suite == "paper":
            requests = [replace(request, suite="quick"), replace(request, limit=AUTOATTACKED)]
        return [evaluate_run(run, each)[1] for each in requests]

    def __str__(self) -> str:
        """``30 epochs each, seed 0, suite paper``."""
        length = self.preset["training"]["epochs"]
        made = f"{length} epoch{'' if length == 1 else 's'} each, seed {DEMO_PRESET['seed']}"
        plain = ", without acceleration" if self.acceleration == "off" else ""
        return f"{made}, suite {self.suite}{plain}"


def run_demo(out: Path, plan: Plan, *, workers: int, watcher: Watcher) -> DemoReport:
    """Train and attack all rows of Table 1, and SAT with the long step, into ``out``, and write
    ``table.md`` and ``report.html`` there.

    Rows that an earlier call finished are read back; an interrupted one is continued.
    """
    started = time.perf_counter()
    workers = min(workers, len(ROWS))
    watcher.say(
        f"{len(ROWS)} rows, {plan}, on {workers} worker "
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
        worst = comparison.contrasts[WORST_CASE]
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
        f"{'; '.join(told) or 'no row can be told apart from it'}"
        f"{'' if not (told and untold) else '; not told apart: ' + ', '.join(untold)}. "
        "A row that gains under PGD and loses under the other attacks, as GAIRAT does in the "
        "paper, shows masking rather than robustness; a claim about small differences needs "
        "several seeds.\n"
    )


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row that is done."""

    name: str
    folder: Path
    seconds: float
    was_finished: bool
    forwards: float
    """Passes per training image and epoch, of the network forwards."""


def make_rows(out: Path, plan: Plan, workers: int, watcher: Watcher) -> Iterator[Row]:
    """The rows as they are done."""
    make = partial(_make_row, plan=plan, preset=plan.preset, out=out)
    return make_cells(make, in_order([ROWS], workers), workers=workers, watcher=watcher, out=out)


def _make_row(name: str, *, plan: Plan, preset: Mapping[str, Any], out: Path) -> Row:
    started = time.perf_counter()
    folder = out / name
    finished = finished_files(folder)
    config = load_config(preset, row_layer(name, preset["threat"]))
    run = train_run(config, folder, progress=Quiet())
    plan.evaluate(folder)
    records = run.result.records
    passes = sum(
        (record.passes.get("attack_forwards") or 0) + (record.passes.get("update_forwards") or 0)
        for record in records
    )
    return Row(
        name=name,
        folder=folder,
        seconds=time.perf_counter() - started,
        was_finished=finished_files(folder) == finished,
        forwards=passes / len(records),
    )


@dataclass(frozen=True, kw_only=True)
class RunRow:
    """One run's line: its name and its evaluation's ``summary.json``."""

    name: str
    summary: Mapping[str, Any]

    def cell(self, attack: str) -> str:
        """``45.2 [40.1, 50.4]`` in per cent, or a dash where the attack was not run."""
        share = self.share(attack)
        if share is None:
            return "–"
        value, low, high = (100 * share[key] for key in ("value", "low", "high"))
        return f"{value:.1f} [{low:.1f}, {high:.1f}]"

    def share(self, attack: str) -> Mapping[str, Any] | None:
        """Value, low, high (fractions) and n under one attack."""
        if attack == WORST_CASE:
            worst: Mapping[str, Any] = self.summary["worst_case"]
            return worst
        shares: Mapping[str, Mapping[str, Any]] = self.summary["accuracy"]
        return shares.get(attack)

    @property
    def attacks(self) -> list[str]:
        return list(self.summary["accuracy"])


def results_table(
    rows: Sequence[RunRow], extra: Mapping[str, Mapping[str, str]] | None = None
) -> list[list[str]]:
    """Header and one line per run: accuracy with its interval under each attack, the worst case.

    ``extra``: further columns, each a mapping from a run's name to its cell.
    """
    attacks: list[str] = []
    for row in rows:
        attacks += [name for name in row.attacks if name not in attacks]
    columns = [*attacks, WORST_CASE]
    extra = extra or {}
    header = ["", *columns, *extra]
    lines = [
        [
            row.name,
            *(row.cell(attack) for attack in columns),
            *(cells.get(row.name, "–") for cells in extra.values()),
        ]
        for row in rows
    ]
    return [header, *lines]
