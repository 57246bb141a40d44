"""In which settings the runs of a report differ."""

from collections.abc import Mapping, Sequence
from typing import Any

from lrat.files.read import parse_yaml
from lrat.reporting.report.records import RunRecord

_UNSET = "–"
_LONGEST = 60


def differing_settings(runs: Sequence[RunRecord]) -> list[tuple[str, list[str]]]:
    """Every setting whose values differ, as ``training.lr``, with each run's value as text.

    A configuration that is no YAML mapping counts as empty; runs without one are left out by the
    caller. One run differs from none.
    """
    settings = [_flat(run.config) for run in runs]
    names = dict.fromkeys(name for each in settings for name in each)
    table = [(name, [each.get(name, _UNSET) for each in settings]) for name in names]
    return [(name, values) for name, values in table if len(set(values)) > 1]


def _flat(text: str) -> dict[str, str]:
    try:
        loaded = parse_yaml(text)
    except ValueError:
        return {}
    flat: dict[str, str] = {}
    if isinstance(loaded, Mapping):
        _add(loaded, "", flat)
    return flat


def _add(values: Mapping[Any, Any], prefix: str, flat: dict[str, str]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping):
            _add(value, f"{prefix}{key}.", flat)
            continue
        written = _UNSET if value is None else str(value)
        flat[f"{prefix}{key}"] = (
            written if len(written) <= _LONGEST else f"{written[: _LONGEST - 1]}…"
        )
