"""The finished evaluations at the places that a user names, and which of them are meant."""

import re
from collections.abc import Sequence
from pathlib import Path

from lrat.config import catalogue
from lrat.errors import ConfigurationError, RunFolderError, UnknownNameError
from lrat.experiments.suite_names import names_a_file, slug
from lrat.files.read import listed, trouble
from lrat.runs.folder import EVALUATIONS, evaluated

_CHECKPOINT = re.compile(r"(?:selected|last|epoch-\d+(?:-step-\d+)?)(?=-)")
_SEED = re.compile(r"-seed-\d+")


def one_of_each(places: Sequence[Path], suite: str | None) -> list[Path]:
    """The evaluation folder that is meant at each of several places.

    Where a place holds several, the one whose name all places have. Raises ``RunFolderError`` with
    the names where that leaves none or several.
    """
    found = finished(places, suite)
    common = set.intersection(*({path.name for path in folders} for folders in found))
    if len(common) == 1:
        (name,) = common
        found = [[path for path in folders if path.name == name] for folders in found]
    for place, folders in zip(places, found, strict=True):
        if len(folders) > 1:
            how = "its path" if suite else "--suite or its path"
            which = f"all places have {', '.join(sorted(common))}" if common else _names(folders)
            raise RunFolderError(f"{place} holds several evaluations: choose one by {how}: {which}")
    return [folders[0] for folders in found]


def of_other_seeds(place: Path, suite: str | None) -> list[Path]:
    """The evaluations at ``place`` that differ in their attack seed alone.

    Raises ``RunFolderError`` where there are several such sets, ``ConfigurationError`` for none.
    """
    (folders,) = finished([place], suite)
    alike: dict[str, list[Path]] = {}
    for folder in folders:
        alike.setdefault(_SEED.sub("", folder.name), []).append(folder)
    several = {name: same for name, same in alike.items() if len(same) > 1}
    if not several:
        what = "is one evaluation" if len(folders) == 1 else "has each evaluation with one seed"
        raise ConfigurationError(
            f"{place} {what}: name two runs or more, or evaluate this one with another attack seed "
            "too (`lrat evaluate RUN --seed 1`)"
        )
    if len(several) > 1:
        how = "move the others away" if suite else "choose one by --suite"
        raise RunFolderError(
            f"{place} holds several evaluations with several attack seeds: {how}: "
            f"{', '.join(sorted(several))}"
        )
    (same,) = several.values()
    return same


def finished(places: Sequence[Path], suite: str | None) -> list[list[Path]]:
    """The finished evaluations at each place: the folder itself, or those in a run's folder.

    ``suite``: only these; a suite's name, that of a file of one's own (with or without its ending),
    the ``name`` inside it, or that of the evaluation's folder. Raises ``UnknownNameError`` for one
    that is neither known nor found.
    """
    every = [finished_at(place) for place in places]
    if suite is None:
        chosen = every
    else:
        chosen = [[path for path in folders if is_of(path, suite)] for folders in every]
        if not any(chosen) and not names_a_file(suite) and suite not in catalogue.SUITES:
            there = {str(evaluated(path, "suite")) for folders in every for path in folders}
            raise UnknownNameError("suite", suite, {*catalogue.SUITES, *there})
    for place, folders in zip(places, chosen, strict=True):
        if not folders:
            what, how = (f"{suite} ", f" --suite {suite}") if suite else ("", "")
            raise RunFolderError(
                f"{place} holds no finished {what}evaluation: run `lrat evaluate {place}{how}`"
            )
    return chosen


def checkpoint_of(folder: Path) -> str:
    """Which of a run's weights an evaluation folder's name says: ``selected``, ``epoch-3``."""
    match = _CHECKPOINT.match(folder.name)
    return match[0] if match else ""


def finished_at(place: Path) -> list[Path]:
    """The finished evaluations at one place; ``RunFolderError`` for one that cannot be read."""
    if (place / "identity.json").is_file():
        return [place]
    if not place.is_dir():
        raise RunFolderError(f"{place} is no folder: name a run or one of its evaluations")
    try:
        inside = [each for each in listed(place / EVALUATIONS) if (each / "summary.json").exists()]
    except OSError as error:
        raise RunFolderError(
            f"{error.filename or place} {trouble(error)}: make it readable, or name the evaluation"
        ) from None
    return sorted([*inside, *(path.parent for path in place.glob("*/summary.json"))])


def is_of(folder: Path, suite: str) -> bool:
    """Whether an evaluation folder is of this suite, as ``finished`` takes it."""
    if suite == folder.name or re.search(rf"-{re.escape(slug(suite))}-(?:linf|l2)-", folder.name):
        return True
    # Ours are named after themselves: a file's suite that calls itself "quick" is another.
    return suite not in catalogue.SUITES and evaluated(folder, "suite") == suite


def _names(folders: Sequence[Path]) -> str:
    return ", ".join(path.name for path in folders)
