"""`lrat reproduce sensitivity`: how much the paper's choices matter, on few epochs and seeds."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from lrat.errors import LratError, RunFolderError
from lrat.evaluation.comparison.groups import GroupContrast
from lrat.evaluation.comparison.shared import WORST_CASE
from lrat.evaluation.statistics import ALPHA
from lrat.files.write import write_json, write_text
from lrat.reproduce.cell import Attacks, RunTask, run_task
from lrat.reproduce.evidence import Evidence, read_runs
from lrat.reproduce.folder import SENSITIVITY, run_name
from lrat.reproduce.make_runs import make_runs
from lrat.reproduce.progress import Watcher
from lrat.reproduce.request import Report, Request
from lrat.reproduce.studies import Study, Varied, distinct, studies
from lrat.reproduce.table_text import share_cell, signed
from lrat.reproduce.tables import Table, TableRow, make_table
from lrat.runs.weights import load_weights
from lrat.text import DASH, to_markdown, written_p
from lrat.threat.norms import threat_parts

_logger = logging.getLogger(__name__)

SUITE = "tier"
_Weights = Mapping[str, Mapping[str, float]]


def reproduce_sensitivity(request: Request, watcher: Watcher) -> Report:
    """Make the requested studies (``request.rows``, None: all), ``OUT/sensitivity.md``, ``.json``.

    Whatever is finished below ``OUT/sensitivity`` is read back, and studies of an earlier
    call are shown too. Raises ``LratError``.
    """
    base = request.choice.config("sat", 0)
    every = studies(base, threat_parts(base.threat)[1])
    chosen = [study for study in every if request.rows is None or study.name in request.rows]
    tasks = {row.name: _tasks(request, row) for row in distinct(every)}
    of_chosen = [task for row in distinct(chosen) for task in tasks[row.name]]
    failed = {
        run.name: run.failure
        for run in make_runs(request, of_chosen, watcher)
        if run.failure is not None
    }
    tables = []
    for study in every:
        of_study = [task for row in study.rows for task in tasks[row.name]]
        try:
            table = _table(study, of_study, failed, request.choice.source)
        except RunFolderError as error:
            if study in chosen:
                raise
            if all(task.folder.exists() for task in of_study):
                _logger.warning("%s is left out: %s", study.title, error)
        else:
            tables.append(table)
    if not any(table.rows for table in tables):
        raise LratError(f"no run of the sensitivity can be shown: {'; '.join(failed.values())}")
    json_path, path = request.out / "sensitivity.json", request.out / "sensitivity.md"
    about = _about(request, of_chosen)
    write_json(
        json_path,
        {
            "preset": request.choice.record(),
            "command": request.command,
            "about": about,
            "suite": of_chosen[0].attacks.suite,
            "limit": of_chosen[0].attacks.limit,
            "studies": [table.record() for table in tables],
            "failed": failed,
        },
    )
    write_text(path, markdown(tables, about, request.command))
    return Report(
        tables={table.study.title: table.in_brief() for table in tables if table.rows},
        conclusion="\n".join(table.conclusion for table in tables),
        paths=(path, json_path),
        about=f"{len(tables)} studies, {len(of_chosen)} runs",
        failed=tuple(f"{name}: {why}" for name, why in failed.items()),
    )


def _tasks(request: Request, row: Varied) -> list[RunTask]:
    """The row's runs, of the preset's fewer epochs and seeds; without what a sensitivity does not
    need, records and monitors."""
    choice, preset = request.choice, request.choice.preset
    epochs = _epochs(request)
    training = {
        "record_weights": [],
        "monitor": {"attacks": []},
        **({} if epochs is None else {"epochs": epochs, "keep_epochs": []}),
        **row.settings.get("training", {}),
    }
    changed = {**row.settings, "training": training}
    attacks = Attacks(suite=request.suite or SUITE, limit=request.limit or preset.autoattacked)
    tasks = []
    for seed in request.seeds or range(preset.sensitivity_seeds):
        folder = request.out / SENSITIVITY / run_name(row.name, seed)
        task = run_task(choice, folder, row.method, seed, attacks, changed)
        tasks.append(replace(task, row=row.name, checkpoints=task.checkpoints[:1]))
    return tasks


def _epochs(request: Request) -> int | None:
    """How many, where they are fewer than in the tables."""
    fewer = request.choice.preset.sensitivity_epochs
    return None if request.choice.sets("training.epochs") else fewer


def _about(request: Request, tasks: Sequence[RunTask]) -> str:
    choice, task = request.choice, tasks[0]
    seeds = " ".join(str(each.seed) for each in tasks if each.row == task.row)
    limit = task.attacks.limit
    images = "all" if limit is None or limit >= task.images else str(limit)
    fewer = ", fewer than in the tables: compare rows with each other alone"
    changed = f"; changed for all rows: {', '.join(choice.set)}" * bool(choice.set)
    return (
        f"Preset {choice.preset.name}{changed}; "
        f"{task.config.training.epochs} epochs{'' if _epochs(request) is None else fewer}; "
        f"seeds {seeds}, {task.config.threat}, suite {task.attacks.suite} on {images} test "
        "images of each seed"
    )


def _table(
    study: Study, tasks: Sequence[RunTask], failed: Mapping[str, str], source: str | None
) -> "StudyTable":
    """A study's rows: those that trained, in order, each against the reference. ``RunFolderError``
    where evidence of one of them is lacking."""
    runs, lacking = read_runs(task for task in tasks if task.name not in failed)
    if lacking:
        raise RunFolderError(lacking[0])
    reference = study.reference.name
    base = runs.get(reference, [])
    return StudyTable(
        study=study,
        table=make_table(
            study.name, runs, {}, source=source, reference=reference, tested=(WORST_CASE,)
        ),
        weights={row: _weights(each) for row, each in runs.items()},
        farthest={row: _farthest(each, base) for row, each in runs.items()}
        if study.name == "alpha"
        else {},
        failed={task.name: failed[task.name] for task in tasks if task.name in failed},
    )


def _weights(runs: Sequence[Evidence]) -> _Weights:
    """By term, means over seeds of the last epoch: ``share`` of the loss, with the floor's where it
    falls to the term, and ``effective_sample_size``."""
    terms: dict[str, dict[str, float]] = {}
    for term in runs[0].last.terms:
        for kind in ("share", "effective_sample_size"):
            values = [run.last.terms.get(term, {}).get(kind) for run in runs]
            known = [value for value in values if value is not None]
            if known:
                terms.setdefault(term, {})[kind] = sum(known) / len(known)
    return terms


def _farthest(runs: Sequence[Evidence], base: Sequence[Evidence]) -> float | None:
    """The largest difference of any of the network's weights from the reference's, over seeds."""
    distances = []
    for run, other in ((run, other) for run in runs for other in base if run.seed == other.seed):
        ours = load_weights(run.folder, run.config, run.checkpoint)
        theirs = load_weights(other.folder, other.config, other.checkpoint)
        distances += [
            float((value.double() - theirs[name].double()).abs().max())
            for name, value in ours.items()
            if value.numel()
        ]
    return max(distances, default=None)


@dataclass(frozen=True, kw_only=True)
class StudyTable:
    """A study's rows, each compared by the worst case with the reference.

    By row: ``weights``, what they were in the last epoch by term, and ``farthest``, how far those
    of the network lie from the reference's, empty for a study that does not compare weights.
    ``failed``: runs that could not be trained, and why.
    """

    study: Study
    table: Table
    weights: Mapping[str, _Weights]
    farthest: Mapping[str, float | None]
    failed: Mapping[str, str]

    @property
    def rows(self) -> tuple[TableRow, ...]:
        return self.table.rows

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; shares and differences are fractions."""
        return {
            "study": self.study.name,
            "title": self.study.title,
            "question": self.study.question,
            "reference": self.study.reference.name,
            "columns": list(self.table.columns),
            "rows": [self._row_record(row) for row in self.rows],
            "failed": dict(self.failed),
        }

    def _row_record(self, row: TableRow) -> dict[str, Any]:
        contrast = self._contrast(row)
        return {
            "name": row.name,
            "seeds": list(row.seeds),
            "scores": {column: asdict(share) for column, share in row.scores.items()},
            "contrast": None if contrast is None else asdict(contrast),
            "weights": self.weights[row.name],
            "farthest": self.farthest.get(row.name),
        }

    def _contrast(self, row: TableRow) -> GroupContrast | None:
        return self.table.contrast(row.name, WORST_CASE)

    def lines(self) -> list[list[str]]:
        """A line per row: accuracies, the worst case against the reference, the weights."""
        columns = self.table.columns
        terms = list(dict.fromkeys(term for weights in self.weights.values() for term in weights))
        lines = [["", *columns, "worst case, points", "p", *terms]]
        if self.farthest:
            lines[0].append("largest weight change")
        for row in self.rows:
            line = [row.name, *(share_cell(row.scores[column]) for column in columns)]
            line += self._against(row)
            line += [_weights_cell(self.weights[row.name].get(term)) for term in terms]
            if self.farthest:
                farthest = self.farthest[row.name]
                line.append(DASH if farthest is None else f"{farthest:.2g}")
            lines.append(line)
        return lines

    def in_brief(self) -> list[list[str]]:
        """The worst cases alone, for a narrow terminal."""
        return [
            ["", "worst case", "points", "p"],
            *(
                [row.name, share_cell(row.scores[WORST_CASE]), *self._against(row)]
                for row in self.rows
            ),
        ]

    def _against(self, row: TableRow) -> list[str]:
        if row.name == self.study.reference.name:
            return ["reference", ""]
        contrast = self._contrast(row)
        if contrast is None:
            return [DASH, DASH]
        return [signed(contrast.difference), written_p(contrast.p_images_adjusted)]

    @property
    def conclusion(self) -> str:
        """Which rows differ from the reference, and what these many images could not show."""
        title, contrasts = self.study.title, self.table.contrasts
        if not contrasts:
            return f"{title}: no row can be compared with {self.study.reference.name}."
        differing = [
            f"{each.group} {signed(each.difference)}"
            for each in contrasts
            if each.p_images_adjusted is not None and each.p_images_adjusted < ALPHA
        ]
        return (
            f"{title}: significantly different from {self.study.reference.name} by the worst case "
            f"(points): "
            f"{', '.join(differing) or 'no row'}; {len(contrasts) - len(differing)} of "
            f"{len(contrasts)} rows are not."
        )


def _weights_cell(term: Mapping[str, float] | None) -> str:
    """``0.51, 99 %``: share and effective sample size."""
    if not term:
        return DASH
    size = term.get("effective_sample_size")
    return f"{term.get('share', 0.0):.2f}" + ("" if size is None else f", {100 * size:.0f} %")


def markdown(tables: Sequence[StudyTable], about: str, command: str) -> str:
    """All studies in one text."""
    blocks = [
        "# Sensitivity",
        "",
        f"{about}. Accuracy in per cent with its 95 % interval over seeds and images. Worst case, "
        "points: against the study's reference, on the same images and seeds; p: exact sign-flip "
        "test over the images of all seeds, after Holm's correction for the study, so it speaks of "
        "these very models. Terms: share of the loss in the last epoch (1 is the mean image's "
        "whole; the floor's share counts to the term that it falls to), and the effective sample "
        "size of the coefficients, in per cent of a batch.",
        "",
    ]
    for table in tables:
        title, failed = table.study.title, table.failed
        blocks += [
            f"## {title[0].upper() + title[1:]}",
            "",
            f"{table.study.question}. Reference: `{table.study.reference.name}`.",
            "",
        ]
        if table.rows:
            blocks += [to_markdown(table.lines()), table.conclusion, ""]
        blocks += [f"`{name}` could not be trained: {why}." for name, why in failed.items()]
        blocks += [""] * bool(failed)
    return "\n".join([*blocks, f"Made by `{command}`.", ""])
