"""The runs at the paths that a user names, and the digests by which evaluations know them."""

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lrat.errors import CheckpointError, ConfigurationError, RunFolderError
from lrat.files.names import (
    CHECKPOINTS,
    CONFIG,
    CONTENTS,
    EVALUATIONS,
    IDENTITY,
    METRICS,
    MODEL,
    PARTS,
    WEIGHTS,
)
from lrat.files.read import NOT_AS_WRITTEN, is_there, listed, read_json, safetensors_header, trouble
from lrat.reporting.report.collect.reading import Folder, at
from lrat.runs.folder import BESIDE_TENSORS, read_weights

_RUNS = "runs"
"""Where a reproduction keeps its runs."""

_KINDS = {
    "F64": "torch.float64",
    "F32": "torch.float32",
    "F16": "torch.float16",
    "BF16": "torch.bfloat16",
    "I64": "torch.int64",
    "I32": "torch.int32",
    "I16": "torch.int16",
    "I8": "torch.int8",
    "U8": "torch.uint8",
    "BOOL": "torch.bool",
}


@dataclass(frozen=True, kw_only=True)
class LocatedRun:
    """A run under a unique name. ``evaluations``: folders of its evaluations, finished or not.
    ``trained``: whether lrat trained it; else it is a user's model that was evaluated."""

    name: str
    folder: Path
    evaluations: tuple[Path, ...]
    trained: bool


def find_runs(
    paths: Sequence[Path], given: Mapping[Path, str] | None = None
) -> tuple[list[LocatedRun], list[str]]:
    """Every run at ``paths`` once, and a sentence for each path that holds none; ``given``: the
    names of some paths, for a run or the evaluations of one model there.

    A path may be a run, one of its evaluations, evaluations of a user's model, or a folder with
    runs in it (or in its ``runs``). Raises ``ConfigurationError`` for no paths, for one name of two
    runs and for two names of one, and ``RunFolderError`` where there is no run at all.
    """
    if not paths:
        raise ConfigurationError("name the runs to report: `lrat report RUN... --out report.html`")
    evaluations: dict[Path, list[Path] | None] = {}
    shown: dict[Path, Path] = {}
    chosen_names: dict[Path, str] = {}
    problems = []
    for path in paths:
        unread: list[str] = []
        try:
            inside = list(_runs_at(path, unread))
            if not inside and not unread:
                unread.append(_nothing_at(path))
        except OSError as error:
            inside = []
            unread.append(f"{error.filename or path} {trouble(error)}, so it is left out.")
        problems += unread
        for folder, evaluation in inside:
            real = folder.resolve()
            shown.setdefault(real, folder)
            if (
                given
                and path in given
                and chosen_names.setdefault(real, given[path]) != given[path]
            ):
                raise ConfigurationError(
                    f"{folder} is called {chosen_names[real]} and {given[path]}: give it one name; "
                    "evaluations of two models need a folder each (`lrat evaluate --out`)"
                )
            chosen = evaluations.setdefault(real, [] if evaluation else None)
            if evaluation is None:
                evaluations[real] = None  # the whole run
            elif chosen is not None and evaluation not in chosen:
                chosen.append(evaluation)
    if not evaluations:
        raise RunFolderError(" ".join(problems).rstrip("."))
    names = _names(list(evaluations)) | chosen_names
    if twice := [name for name, count in Counter(names.values()).items() if count > 1]:
        alike = ", ".join(str(shown[real]) for real, name in names.items() if name == twice[0])
        raise ConfigurationError(f"{twice[0]} is the name of {alike}: give each its name")
    runs = [
        LocatedRun(
            name=names[real],
            folder=shown[real],
            evaluations=tuple(_evaluations(shown[real], problems) if chosen is None else chosen),
            trained=_is_run(real),
        )
        for real, chosen in evaluations.items()
    ]
    problems += [
        f"{run.name} ({run.folder}) holds evaluations of several models: name one evaluation."
        for run in runs
        if not run.trained and len(set(map(_model_of, run.evaluations))) > 1
    ]
    return runs, list(dict.fromkeys(problems))


def _model_of(evaluation: Path) -> Any:
    """The digest of the weights that were evaluated; None where it cannot be read."""
    try:
        return read_json(evaluation / IDENTITY).get("model")
    except (OSError, ValueError):
        return None


def _runs_at(path: Path, unread: list[str]) -> Iterator[tuple[Path, Path | None]]:
    """Folders of runs, each with the one evaluation of it that is meant, or None for all; a
    sentence in ``unread`` for what cannot be looked into."""
    if not path.is_dir():
        return
    if _is_evaluation(path):
        home = path.resolve().parent.parent
        yield (home if _is_run(home) else path.parent), path
    elif _is_run(path) or _evaluations(path, unread):
        yield path, None
    else:
        for folder in sorted([*_folders(path, unread), *_folders(path / _RUNS, unread)]):
            if _is_run(folder) or _evaluations(folder, unread):
                yield folder, None


def _is_run(folder: Path) -> bool:
    try:
        return (folder / CONFIG).is_file() or (folder / METRICS).is_file()
    except OSError:
        return False  # what it holds cannot be listed either, which becomes a problem there


def _is_evaluation(folder: Path) -> bool:
    """Whether this is the folder of an evaluation, or was; those of curves and analyses hold an
    identity too."""
    try:
        return "suite" in read_json(folder / IDENTITY)
    except (OSError, ValueError) as error:
        # What is damaged or missing becomes a problem where the evaluation is read.
        is_begun = not isinstance(error, FileNotFoundError)
        return (is_begun and folder.parent.name == EVALUATIONS) or (folder / PARTS).is_dir()


def _evaluations(folder: Path, unread: list[str]) -> list[Path]:
    """Those of a run lie in its ``evaluations``, those of a user's model in the folder itself."""
    inside = folder / EVALUATIONS if _is_run(folder) else folder
    return [each for each in _folders(inside, unread) if _is_evaluation(each)]


def _folders(path: Path, unread: list[str]) -> list[Path]:
    try:
        return [each for each in listed(path, "[!.]*") if each.is_dir()]
    except OSError as error:
        unread.append(f"{path} {trouble(error)}, so what it holds is left out.")
        return []


def _nothing_at(path: Path) -> str:
    if not path.exists():
        return f"{path} does not exist: name a run folder, as `lrat train --out` made it."
    if not path.is_dir():
        return f"{path} is a file: name a run folder, as `lrat train --out` made it."
    return (
        f"{path} is no run folder and holds none: name a folder that `lrat train --out` or "
        "`lrat evaluate --out` made, or one with such folders in it."
    )


def _names(folders: Sequence[Path]) -> dict[Path, str]:
    """The folders' names, each with as much of its path as no other one has."""
    names = {folder: folder.name for folder in folders}
    for depth in range(2, max((len(folder.parts) for folder in folders), default=0) + 1):
        times = Counter(names.values())
        for folder, name in names.items():
            if times[name] > 1:
                names[folder] = "/".join(folder.parts[-depth:])
    return names


def digests(home: Folder) -> dict[str, str]:
    """By name: ``weights`` (the selected ones, as evaluations know them), ``configuration``, and
    the contents that the run was begun with (``train images`` and so on)."""
    known = {}
    weights = _of_weights(home)
    if weights is not None:
        known["weights"] = weights
    try:
        checkpoints = listed(home.path / CHECKPOINTS, "*.json")
    except OSError as error:
        home.tell(f"{home.path / CHECKPOINTS} {trouble(error)}.")
        checkpoints = []
    for path in checkpoints[-1:]:
        identity = at(Folder(path.parent, home.problems).json(path.name), "identity")
        if isinstance(identity, str):
            known["configuration"] = identity
    for name, value in home.json(CONTENTS).items():
        known[name if " " in name else f"{name} images"] = str(value)
    return known


def _of_weights(home: Folder) -> str | None:
    try:
        is_known = bool(home.json(MODEL))  # else its damage is a problem
        return weights_digest(read_weights(home.path / WEIGHTS, checked=is_known))
    except CheckpointError as error:
        if is_there(home.path / WEIGHTS):
            home.tell(f"{error}.")
    except NOT_AS_WRITTEN:
        home.tell(f"{home.path / WEIGHTS} is damaged: train the run again, or bring it back.")
    return None


def weights_digest(content: bytes) -> str | None:
    """``weights.weights_digest`` of a safetensors file, without torch: over names, types, shapes
    and bytes; None for one that holds more than tensors. Raises one of ``NOT_AS_WRITTEN`` for a
    file that is none."""
    start, tensors = safetensors_header(content)
    if BESIDE_TENSORS in (tensors.pop("__metadata__", None) or {}):
        return None
    sha, bytes_of = hashlib.sha256(), memoryview(content)
    for name in sorted(tensors):
        about = tensors[name]
        first, end = about["data_offsets"]
        if start + end > len(content):
            raise ValueError(f"{name} ends beyond the file")
        sha.update(f"{name} {_KINDS[about['dtype']]} {tuple(about['shape'])}".encode())
        sha.update(bytes_of[start + first : start + end])
    return sha.hexdigest()
