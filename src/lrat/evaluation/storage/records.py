"""The JSON records of an evaluation: its identity and its summary."""

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
    """Write the summary of the outcomes beside it, where it is missing, damaged or different.

    Raises ``RunFolderError`` where the stored one has other accuracies, since either may be right.
    """
    stored = stored_summary(path)
    if stored is not None:
        check_summary(path, stored, summary)
    write_if_new(path, summary)


def stored_summary(path: Path) -> dict[str, Any] | None:
    """The summary, None where it is missing; None, and a warning, where it is damaged."""
    try:
        return (
            read_summary(path, "it is written again from the outcomes") if is_there(path) else None
        )
    except RunFolderError as error:
        _logger.warning("%s", error)
        return None


def read_summary(path: Path, cure: str) -> dict[str, Any]:
    """The summary; ``RunFolderError`` with ``cure`` where it is missing or damaged, or holds no
    accuracies."""
    stored = read_record(path, cure)
    try:
        _counts(stored)
    except NOT_AS_WRITTEN:
        raise RunFolderError(f"{path} holds no accuracies: {cure}") from None
    return stored


def check_summary(path: Path, stored: Mapping[str, Any], computed: Mapping[str, Any]) -> None:
    """Refuse a ``stored`` summary with other accuracies than the one ``computed`` from the
    outcomes, where both have the same number of images."""
    old, new = _counts(stored), _counts(computed)
    for name in old.keys() & new.keys():
        if old[name] != new[name] and old[name][1] == new[name][1]:
            raise RunFolderError(
                f"{path} says {old[name][0]} of {old[name][1]} robust under "
                f"{name}, and the outcomes beside it {new[name][0]}: one of them is damaged; "
                f"bring both back, or delete {path.name} to go by the outcomes"
            )


def _counts(summary: Mapping[str, Any]) -> dict[str, tuple[int, int]]:
    """The number of robust images and of all images, by attack."""
    shares = {**summary["accuracy"], "worst case": summary["worst_case"]}
    return {
        name: (round(share["value"] * share["n"]), int(share["n"]))
        for name, share in shares.items()
    }


def notes_of(stored: Mapping[str, Any]) -> tuple[str, ...]:
    """The ``notes`` of a summary or of ``notes.json``; () for a value that is no list."""
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
    """("Linf", 0.0313...) from an identity's ``Linf(epsilon=8/255)``; None for other threats."""
    text = stored_threat(threat)
    try:
        norm, epsilon = threat_parts(text or "")
    except SettingError:
        return None
    return norm.name, epsilon
