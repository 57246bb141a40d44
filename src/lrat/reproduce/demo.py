"""The demonstration: Table 1's rows on bundled digits, and what they show."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from lrat.config.catalogue import check_suite
from lrat.errors import LratError
from lrat.evaluation.comparison.groups import GroupContrast
from lrat.evaluation.comparison.shared import WORST_CASE
from lrat.evaluation.statistics import ALPHA
from lrat.files.write import write_text
from lrat.reporting.report import write_run_report
from lrat.reproduce.cell import Attacks, RunTask, run_task
from lrat.reproduce.evidence import read_runs
from lrat.reproduce.make_runs import failures, make_cells
from lrat.reproduce.paper import TABLE_1
from lrat.reproduce.presets import BASELINE, DEMO, LONG_BASELINE, LONG_STEP, Choice
from lrat.reproduce.progress import Watcher
from lrat.reproduce.request import Report
from lrat.reproduce.table_text import share_cell
from lrat.reproduce.tables import Table, make_table
from lrat.text import DASH, as_command, p_in_words, to_markdown

ROWS = (BASELINE, LONG_BASELINE, *(name for name in TABLE_1 if name != BASELINE))
_PAPER_TITLE = "The paper: CIFAR-10, ResNet-18, Linf 8/255, 10,000 images"
_LEGEND = (
    "Wilson 95 % intervals in brackets; forwards: network forwards of training per image and "
    f"epoch; {LONG_BASELINE}: SAT with steps of {LONG_STEP:g} epsilon, as the same group's code "
    "has, where the other rows have the paper's epsilon / 10."
)


def run_demo(
    out: Path,
    *,
    suite: str = "paper",
    epochs: int | None = None,
    acceleration: Literal["auto", "off"] = "auto",
    workers: int,
    watcher: Watcher,
) -> Report:
    """Train and attack all rows of Table 1, and SAT with the long step, into ``out``, and write
    ``table.md`` and ``report.html`` there; ``epochs`` None is the preset's number.

    Rows that an earlier call finished are read back; an interrupted one is continued. Raises
    ``LratError`` in one line.
    """
    started = time.perf_counter()
    check_suite(suite)
    length = () if epochs is None else (f"training.epochs={epochs}",)
    choice = Choice(preset=DEMO, set=(*length, f"acceleration={acceleration}"))
    # AutoAttack costs two hundred times what PGD-20 does.
    limit = DEMO.autoattacked if suite == "paper" else None
    attacks = Attacks(suite=suite, limit=limit, panels=False)
    tasks = [run_task(choice, out / row, row, 0, attacks) for row in ROWS]
    about, workers = _about(tasks[0]), min(workers, len(ROWS))
    watcher.say(
        f"{len(ROWS)} rows, {about}, on {workers} worker "
        f"process{'' if workers == 1 else 'es'} of one thread; runs in {out}"
    )
    ended = make_cells(tasks, workers=workers, watcher=watcher, out=out, what="rows")
    if failed := failures(ended):
        raise LratError("; ".join(failed))
    runs, lacking = read_runs(tasks)
    if lacking:
        raise LratError("; ".join(lacking))
    table = make_table("demo", runs, {}, source=None, reference=LONG_BASELINE, tested=(WORST_CASE,))
    counts = [len(result.index) for result in table.rows[0].evidence[0].results]
    title = f"Table 1 on digits: accuracy in per cent, {table.threat}, n {counts[0]}"
    if len(counts) > 1:
        title += f" (autoattack and worst case: n {counts[-1]})"
    tables = {title: _lines(table), _PAPER_TITLE: _paper_lines()}
    words = conclusion(table.contrasts, images=counts[-1])
    path, page = out / "table.md", out / "report.html"
    ours, papers = map(to_markdown, tables.values())
    parts = [
        f"# {title}",
        f"{about}. {_LEGEND}",
        f"{ours}\n## {_PAPER_TITLE}",
        f"{papers}\n{words}",
    ]
    write_text(path, "\n\n".join(parts))
    write_run_report(
        [task.folder for task in tasks],
        page,
        title="The methods of the paper's Table 1 on digits",
        command=as_command("lrat", "report", out, out=page),
    )
    seconds = time.perf_counter() - started
    return Report(tables=tables, conclusion=words, paths=(path, page), seconds=seconds)


def _about(task: RunTask) -> str:
    """``30 epochs each, seed 0, suite paper``."""
    epochs = task.config.training.epochs
    plain = ", without acceleration" if task.config.acceleration == "off" else ""
    several = "" if epochs == 1 else "s"
    return f"{epochs} epoch{several} each, seed {task.seed}, suite {task.attacks.suite}{plain}"


def _lines(table: Table) -> list[list[str]]:
    lines = [["", *table.columns, "forwards"]]
    for row in table.rows:
        scores = (share_cell(row.scores[column]) for column in table.columns)
        forwards = row.cost.forwards
        lines.append([row.name, *scores, DASH if forwards is None else f"{forwards:.0f}"])
    return lines


def _paper_lines() -> list[list[str]]:
    lines = [
        [name, *(f"{value:.2f}" for value in (row.natural, row.pgd, row.cw, row.autoattack))]
        for name, row in TABLE_1.items()
    ]
    return [["", "natural", "PGD", "CW", "AA"], *lines]


def conclusion(contrasts: Sequence[GroupContrast], *, images: int) -> str:
    """One honest paragraph on what the table shows, from each row against SAT of the long step."""
    differing, others = [], []
    for each in contrasts:
        if each.p_images is not None and each.p_images < ALPHA:
            verb = "better" if each.difference > 0 else "worse"
            points = 100 * abs(each.difference)
            p = p_in_words(each.p_images)
            differing.append(f"{each.group} is {verb} by {points:.1f} points ({p})")
        else:
            others.append(each.group)
    return (
        f"What this shows: one seed and {images} test images of another data set and another "
        f"network than the paper's, so compare the order of rows, not their values. By the worst "
        f"case over the suite, against {LONG_BASELINE} and on the same images (exact McNemar test, "
        f"5 % level, not corrected for {len(contrasts)} comparisons): "
        f"{'; '.join(differing) or 'no row differs significantly from it'}"
        f"{'' if not (differing and others) else '; not significant: ' + ', '.join(others)}. "
        "A row that gains under PGD and loses under the other attacks, as GAIRAT does in the "
        "paper, shows masking rather than robustness; a claim about small differences needs "
        "several seeds.\n"
    )
