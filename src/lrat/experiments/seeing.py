"""How attacks see a model, kept so that whoever continues sees it the same way."""

from pathlib import Path

from torch import nn

from lrat.acceleration import Choices, View, describe
from lrat.errors import RunFolderError
from lrat.files.read import NOT_AS_WRITTEN, is_there, read_json
from lrat.files.write import write_json
from lrat.runs.folder import ACCELERATION, OFF


def record_choices(folder: Path, view: nn.Module) -> None:
    """Write how attacks see the model, so that whoever continues sees it the same way."""
    if isinstance(view, View):
        about = {"choices": str(view.choices), "in_words": describe(view)}
        write_json(folder / ACCELERATION, about)


def recorded_choices(folder: Path) -> Choices | None:
    """What ``record_choices`` wrote into a run's folder; None where nothing was."""
    return _stored_choices(folder / ACCELERATION, "choices")


def evaluated_choices(folder: Path | None) -> Choices | None:
    """How an evaluation that was begun in ``folder`` sees the model; None for a new one."""
    if folder is None:
        return None
    return _stored_choices(folder / "identity.json", "acceleration")


def _stored_choices(path: Path, key: str) -> Choices | None:
    if not is_there(path):
        return None
    try:
        text = read_json(path)[key]
        return None if text == OFF else Choices.parse(text)
    except (OSError, *NOT_AS_WRITTEN):
        raise RunFolderError(f"{path} is damaged: choose another folder") from None
