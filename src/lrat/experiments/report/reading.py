"""Files of runs as they are found: of earlier versions, half written, damaged."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True)
class Folder:
    """A folder that is read as far as it goes; ``problems`` gathers, in a sentence each, what
    cannot be shown and what helps."""

    path: Path
    problems: list[str] = field(default_factory=list)

    def __truediv__(self, name: str) -> "Folder":
        """A folder or file inside, whose problems are told here too."""
        return Folder(self.path / name, self.problems)

    def tell(self, problem: str) -> None:
        """Add a sentence, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def text(self, name: str) -> str:
        """A text file; empty where there is none."""
        path = self.path / name
        if not path.is_file():
            return ""
        try:
            return path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            self.tell(f"{path} cannot be read ({_reason(error)}), so it is left out.")
            return ""

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object; empty where there is none, or none that can be read."""
        text = self.text(name)
        if not text:
            return {}
        try:
            value = json.loads(text)
        except ValueError as error:
            self.tell(f"{self.path / name} is damaged ({_reason(error)}), so it is left out.")
            return {}
        if not isinstance(value, dict):
            self.tell(f"{self.path / name} is no JSON object, so it is left out.")
            return {}
        return value

    def yaml(self, name: str) -> dict[str, Any]:
        """A mapping; empty where there is none, or none that can be read."""
        try:
            value = yaml.safe_load(self.text(name) or "{}")
        except yaml.YAMLError as error:
            self.tell(f"{self.path / name} is no YAML ({_reason(error)}), so it is left out.")
            return {}
        if not isinstance(value, dict):
            self.tell(f"{self.path / name} holds no settings, so it is left out.")
            return {}
        return value

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The objects of a file with one JSON object a line. A last line that a kill cut short is
        left out without a word; a damaged one in between is told."""
        found = []
        rows = self.text(name).splitlines()
        for number, row in enumerate(rows, start=1):
            try:
                value = json.loads(row)
            except ValueError:
                value = None
            if isinstance(value, dict):
                found.append(value)
            elif number < len(rows) and row.strip():
                self.tell(f"Line {number} of {self.path / name} is damaged and left out.")
        return found


def at(values: Mapping[str, Any], *keys: str) -> Any:
    """What lies below these keys, one in the other; None where something is missing."""
    found: Any = values
    for key in keys:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def number(value: Any) -> float | None:
    """A finite number as it is, None for everything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and abs(value) < float("inf") else None


def numbers(values: Any) -> dict[str, float]:
    """The finite numbers of a mapping by name."""
    if not isinstance(values, Mapping):
        return {}
    known = {str(name): number(value) for name, value in values.items()}
    return {name: value for name, value in known.items() if value is not None}


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
