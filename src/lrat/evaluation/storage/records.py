"""What an evaluation says of itself: its model, attacks and images, and what was found."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrat.errors import RunFolderError, SettingError
from lrat.files.read import NOT_AS_WRITTEN, is_there, read_record
from lrat.files.write import write_if_new
from lrat.threat.norms import stored_threat, threat_parts

_logger = logging.getLogger(__name__)
ANEW = "bring it back, or move its folder away and give the same command again"


def write_summary(path: Path, summary: Mapping[str, Any]) -> None:
    """Write the summary of the outcomes beside it, where it is missing, damaged or another.

    Raises ``RunFolderError`` where the one that is there has other accuracies: nobody knows which
    of the two is right.
    """
    stored = stored_summary(path)
    if stored is not None:
        check_summary(path, stored, summary)
    write_if_new(path, summary)


def stored_summary(path: Path) -> dict[str, Any] | None:
    """None, and a warning, for a damaged one."""
    try:
        return read_summary(path, "it is made anew from the outcomes") if is_there(path) else None
    except RunFolderError as error:
        _logger.warning("%s", error)
        return None


def read_summary(path: Path, cure: str) -> dict[str, Any]:
    """``RunFolderError`` with ``cure`` for one that is missing, damaged, or holds no accuracies."""
    stored = read_record(path, cure)
    try:
        _counts(stored)
    except NOT_AS_WRITTEN:
        raise RunFolderError(f"{path} holds no accuracies: {cure}") from None
    return stored


def check_summary(path: Path, stored: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Refuse a ``stored`` summary whose accuracies are not those ``found`` in the outcomes, where
    both are of as many images."""
    there, here = _counts(stored), _counts(found)
    for name in there.keys() & here.keys():
        if there[name] != here[name] and there[name][1] == here[name][1]:
            raise RunFolderError(
                f"{path} says {there[name][0]} of {there[name][1]} robust under "
                f"{name}, and the outcomes beside it {here[name][0]}: one of them is damaged; "
                f"bring both back, or delete {path.name} to go by the outcomes"
            )


def _counts(summary: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """How many images are robust, and of how many, by attack."""
    shares = {**summary["accuracy"], "worst case": summary["worst_case"]}
    return {
        name: (round(share["value"] * share["n"]), int(share["n"]))
        for name, share in shares.items()
    }


def notes_of(stored: Mapping[str, Any]) -> tuple[str, ...]:
    """The ``notes`` of a summary or of ``notes.json``, whatever else stands there."""
    notes = stored.get("notes", ())
    return tuple(map(str, notes)) if isinstance(notes, list) else ()


def read_identity(path: Path) -> dict[str, Any]:
    """``RunFolderError`` where it is missing, damaged, or none of an evaluation."""
    if not is_there(path):
        raise RunFolderError(f"{path} is missing: is this the folder of an evaluation?")
    identity = read_record(path, ANEW)
    if not _is_identity(identity):
        raise RunFolderError(f"{path} is no identity of an evaluation: {ANEW}")
    return identity


def _is_identity(values: dict[str, Any]) -> bool:
    attacks, cascades = values.get("attacks"), values.get("cascades", {})
    return (
        isinstance(attacks, dict)
        and all(isinstance(settings, str) for settings in attacks.values())
        and isinstance(cascades, dict)
        and all(
            isinstance(stages, list) and stages and set(map(str, stages)) <= attacks.keys()
            for stages in cascades.values()
        )
        and all(isinstance(values.get(name), str) for name in ("suite", "threat"))
        and type(values.get("seed")) is int
        and type(values.get("tolerance", 0)) in {int, float}
        and 0 <= values.get("tolerance", 0) <= 1
    )


def ball_of(threat: str) -> tuple[str, float] | None:
    """``Linf(epsilon=8/255)``, as identities say it, as ("Linf", 0.0313...); None for others."""
    text = stored_threat(threat)
    try:
        norm, epsilon = threat_parts(text or "")
    except SettingError:
        return None
    return norm.name, epsilon
