"""The finished evaluations of a run, each with what its tests and its gallery need.

Tests on the same images need a few columns of the outcomes: which images each attack fooled.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import LratError, RunFolderError
from lrat.evaluation.comparison.shared import WORST_CASE, Standing
from lrat.evaluation.outcomes import NATURAL, Outcomes
from lrat.evaluation.result import EvaluationResult
from lrat.evaluation.statistics import Proportion
from lrat.evaluation.storage.store import digest_of, parts_of
from lrat.files.names import EXTENT, IDENTITY, SUMMARY
from lrat.files.read import NOT_AS_WRITTEN, is_there, read_whole
from lrat.files.write import read_table
from lrat.reporting.report.collect.commands import evaluate_command, typed_command
from lrat.reporting.report.collect.locate import LocatedRun
from lrat.reporting.report.collect.reading import Folder, at
from lrat.reporting.report.records import AttackRecord, EvaluationRecord
from lrat.runs.folder import checkpoint_of

_DIGITS = 12
_WEIGHTS_FIRST = ("selected", "model", "last")

_COLUMNS = ("index", "label", "attack", "fooled")


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdicts:
    """``index`` [N] ascending, ``label`` [N], and for ``natural`` and each attack whether an image
    was right [N] under it. A cascade is one attack; its stages are there under their names."""

    index: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    right: Mapping[str, npt.NDArray[np.bool_]]
    names: tuple[str, ...]
    identity: Mapping[str, Any]

    @cached_property
    def standing(self) -> Standing:
        """For ``evaluation.comparison``: natural, each attack and the worst case, 0 or 1."""
        rows = {name: self.right[name].astype(np.int64) for name in self.names}
        return {**rows, WORST_CASE: np.minimum.reduce(list(rows.values()))}


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluated:
    """A finished evaluation. ``command``: what makes it again where the run lies now; ``typed``:
    what the user typed to begin it, None where that is not known. ``verdicts``: None where its
    outcomes cannot be read. ``current``: whether it is of the weights that the run has now, None
    where that is not known."""

    folder: Path
    record: EvaluationRecord
    identity: Mapping[str, Any]
    command: str
    typed: str | None
    verdicts: Verdicts | None
    current: bool | None

    @property
    def rank(self) -> tuple[Any, ...]:
        """What is compared first sorts first: present weights, most attacks, most images."""
        record = self.record
        known = record.checkpoint in _WEIGHTS_FIRST
        kinds = _WEIGHTS_FIRST.index(record.checkpoint) if known else len(_WEIGHTS_FIRST)
        return (
            self.current is False,
            -len(record.attacks),
            -record.images,
            kinds,
            record.seed,
            self.folder.name,
        )


def read_evaluations(
    run: LocatedRun, home: Folder, threat: str, digest: str | None, *, data: str
) -> list[Evaluated]:
    """All finished ones at ``run``, the one to compare first at the front; what is unfinished or
    damaged becomes a problem of ``home``.

    ``threat``: that of the run, as its configuration writes it; ``digest``: of its selected
    weights; ``data``: the name of its images.
    """
    evaluations = []
    for folder in run.evaluations:
        try:
            read = _read(run, Folder(folder, home.problems), threat, digest, data)
        except (LratError, OSError, *NOT_AS_WRITTEN) as error:
            reason = str(error).rstrip(".") or type(error).__name__
            if not isinstance(error, LratError):
                reason = f"{folder / SUMMARY} or {IDENTITY} is not as it was written ({reason})"
            home.tell(f"The evaluation {folder.name} is left out: {reason}.")
            continue
        if read is not None:
            evaluations.append(read)
    evaluations.sort(key=lambda each: each.rank)
    return _in_separate_groups(evaluations)


def _read(
    run: LocatedRun, folder: Folder, threat: str, digest: str | None, data: str
) -> Evaluated | None:
    identity = folder.json(IDENTITY)
    if not identity:
        if not is_there(folder.path / IDENTITY):
            folder.tell(f"The evaluation {folder.path.name} is left out: it has no {IDENTITY}.")
        return None
    command = evaluate_command(run, folder, identity, threat)
    if not (folder.path / SUMMARY).is_file():
        folder.tell(f"The evaluation {folder.path.name} is not finished; `{command}` goes on.")
        return None
    summary = folder.json(SUMMARY)
    if not summary:
        return None
    # Without rows: who is who, and what was set.
    names = EvaluationResult(outcomes=Outcomes.concatenate([]), identity=identity)
    images = int(summary["images"])
    verdicts = _verdicts(folder, names, summary, images)
    checkpoint = checkpoint_of(folder.path) or "model"
    current = None
    if digest is not None and checkpoint == "selected" and "model" in identity:
        current = identity["model"] == digest
    notes = [str(note) for note in summary.get("notes", ())]
    if current is False:
        notes.append(
            f"These are earlier weights of this run; `{command}` attacks the present ones."
        )
    record = EvaluationRecord(
        folder=str(folder.path),
        group=_group(identity, images, folder, verdicts),
        data=data,
        suite=names.suite,
        threat=names.threat,
        seed=names.seed,
        images=images,
        checkpoint=checkpoint,
        attacks=_attacks(names, summary),
        worst_case=_proportion(summary["worst_case"]),
        notes=notes,
    )
    return Evaluated(
        folder=folder.path,
        record=record,
        identity=identity,
        command=command,
        typed=typed_command(folder),
        verdicts=verdicts,
        current=current,
    )


def _verdicts(
    folder: Folder, names: EvaluationResult, summary: Mapping[str, Any], images: int
) -> Verdicts | None:
    """None, and a sentence, where the outcomes cannot be read or are not the summary's."""
    try:
        verdicts = read_verdicts(folder.path, names, images)
    except LratError as error:
        folder.tell(f"No tests with {folder.path.name}: {str(error).rstrip('.')}.")
        return None
    for name in names.names:
        stored = at(summary, "accuracy", name, "value")
        if round(stored * images) != count_right(verdicts, [name]):
            folder.tell(
                f"No tests with {folder.path.name}: its outcomes under {name} are not those of its "
                "summary; evaluate into a new folder."
            )
            return None
    return verdicts


def _attacks(names: EvaluationResult, summary: Mapping[str, Any]) -> list[AttackRecord]:
    """``natural`` first; a cascade with what its stages left."""
    records = []
    for name in names.names:
        stages = names.stages.get(name, ())
        passes = at(summary, "passes", name) or {}
        records.append(
            AttackRecord(
                name=name,
                share=_proportion(summary["accuracy"][name]),
                settings="" if name == NATURAL else names.settings[name],
                forwards=float(passes.get("forwards", 0)),
                backwards=float(passes.get("backwards", 0)),
                stages={
                    stage.removeprefix(f"{name}."): _proportion(summary["accuracy"][stage])
                    for stage in stages
                    if stage in summary["accuracy"]
                },
            )
        )
    return records


def _proportion(values: Mapping[str, Any]) -> Proportion:
    return Proportion(
        value=float(values["value"]),
        low=float(values["low"]),
        high=float(values["high"]),
        n=int(values["n"]),
    )


def _group(
    identity: Mapping[str, Any], images: int, folder: Folder, verdicts: Verdicts | None
) -> str:
    """Equal for evaluations of the same images under the same threat by the same attacks."""
    which = at(folder.json(EXTENT), "digest")
    if which is None and verdicts is not None:
        which = digest_of(verdicts.index)
    keys = ("data", "suite", "threat", "attacks", "cascades", "noise")
    same = [images, which, *(identity.get(key) for key in keys)]
    if "data" not in identity or which is None:
        same.append(str(folder.path))  # comparable with nothing
    return hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def _in_separate_groups(evaluations: Sequence[Evaluated]) -> list[Evaluated]:
    """A run is in a group once: its further evaluations of other weights or attack seeds have
    separate groups."""
    seen: set[str] = set()
    apart = []
    for each in evaluations:
        group, record = each.record.group, each.record
        if group in seen:
            group = f"{group}-{record.checkpoint}-{record.seed}"
            while group in seen:
                group += "-again"
        seen.add(group)
        apart.append(_in_group(each, group))
    return apart


def _in_group(each: Evaluated, group: str) -> Evaluated:
    return replace(each, record=replace(each.record, group=group))


def read_verdicts(folder: Path, result: EvaluationResult, images: int) -> Verdicts:
    """Those of a finished evaluation of ``images`` images, whose ``result`` knows the names.

    Raises ``RunFolderError`` for a damaged part and where a part is missing.
    """
    tables = [read_whole(path, _columns, _CURE) for path in parts_of(folder)]
    columns = {
        name: np.concatenate([table[name] for table in tables]) if tables else np.array([])
        for name in ("index", "label", "fooled")
    }
    each = [np.full(len(table["index"]), str(table["attack"][0])) for table in tables]
    attacks = np.concatenate(each) if each else np.array([], np.str_)
    by_name: dict[str, npt.NDArray[np.int64]] = {}
    index = np.unique(columns["index"]).astype(np.int64)
    for name in (NATURAL, *result.identity["attacks"]):
        rows = np.flatnonzero(attacks == name)
        held, first = np.unique(columns["index"][rows], return_index=True)
        by_name[name] = rows[first]
        if len(held) != images or len(index) != images:
            raise RunFolderError(
                f"{folder} was finished with {images} images and holds {len(held)} of {name}: "
                "parts are missing; run the same evaluation again, which makes them anew"
            )
    right = {name: ~columns["fooled"][rows].astype(bool) for name, rows in by_name.items()}
    for cascade, stages in result.stages.items():
        right[cascade] = right[stages[-1]]  # its rows repeat the earlier stages' successes
    return Verdicts(
        index=index,
        label=columns["label"][by_name[NATURAL]].astype(np.int64),
        right=right,
        names=result.names,
        identity=result.identity,
    )


_CURE = "delete it and evaluate again, the rest is reused"


def _columns(path: Path) -> dict[str, npt.NDArray[Any]]:
    table = read_table(path, _COLUMNS)
    if len(set(table["attack"][:1]) | set(table["attack"][-1:])) > 1:
        raise RunFolderError("rows of several attacks in one part")
    return table


def count_right(verdicts: Verdicts, names: Sequence[str]) -> int:
    """Images that are right under all of these."""
    return int(np.logical_and.reduce([verdicts.right[name] for name in names]).sum())
