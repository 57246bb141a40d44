"""Files of runs as they lie there: of earlier versions, half written, damaged."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lrat.files.read import (
    CHECKSUM,
    is_there,
    listed,
    parse_object,
    read_json,
    read_text,
    read_yaml,
    trouble,
)


@dataclass(frozen=True)
class Folder:
    """A folder that is read as far as it goes; ``problems`` gathers, in a sentence each, what
    cannot be shown and what helps."""

    path: Path
    problems: list[str] = field(default_factory=list)

    def __truediv__(self, name: str) -> "Folder":
        """A folder or file inside, whose problems are gathered here too."""
        return Folder(self.path / name, self.problems)

    def tell(self, problem: str) -> None:
        """Add a sentence, once."""
        if problem not in self.problems:
            self.problems.append(problem)

    def text(self, name: str) -> str:
        """A text file; empty where there is none."""
        try:
            return read_text(self.path / name)
        except FileNotFoundError:
            return ""
        except (OSError, ValueError) as error:
            self.leave_out(name, error)
            return ""

    def leave_out(self, name: str, error: OSError | ValueError) -> None:
        """Add the problem that a file cannot be read."""
        self.tell(f"{self.path / name} {trouble(error)}, so it is left out.")

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object; empty where there is none, or none that can be read."""
        return self._read(name, read_json)

    def yaml(self, name: str) -> dict[str, Any]:
        """A mapping; empty where there is none, or none that can be read."""
        return self._read(name, read_yaml)

    def _read(self, name: str, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        try:
            return read(self.path / name)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            self.leave_out(name, error)
            return {}

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The objects of a file with one JSON object a line. A last line that was cut short before
        its checksum is left out without a problem; any other damaged one is a problem."""
        objects = []
        rows = self.text(name).split("\n")
        for number, row in enumerate(rows, start=1):
            try:
                objects.append(parse_object(row))
            except ValueError:
                if row.strip() and (number < len(rows) or CHECKSUM in row):
                    self.tell(f"Line {number} of {self.path / name} is damaged and left out.")
        return objects

    def inside(self, folder: str, name: str) -> list[Path]:
        """The files of this name in the folders that ``folder`` holds; none where it is missing."""
        try:
            folders = listed(self.path / folder)
            return [path for each in folders if is_there(path := each / name)]
        except OSError as error:
            self.leave_out(folder, error)
            return []


def at(values: Mapping[str, Any], *keys: str) -> Any:
    """What lies below these keys, one in the other; None where something is missing."""
    inner: Any = values
    for key in keys:
        inner = inner.get(key) if isinstance(inner, Mapping) else None
    return inner


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
