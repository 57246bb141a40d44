"""The commands that make a run and its evaluations again: what the user typed where it was kept,
else the shortest command that does the same."""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lrat.config.catalogue import SUITES
from lrat.config.settings import RunConfig
from lrat.evaluation.storage.gallery import ABOUT
from lrat.files.names import COMMAND, CONFIG, EXTENT, GALLERY, PANEL
from lrat.reporting.report.collect.places import Place
from lrat.reporting.report.collect.reading import Folder, at
from lrat.runs.folder import OFF, checkpoint_of
from lrat.threat.norms import stored_threat

_MOST_SETTINGS = 8
"""With more of them, the run's own configuration file is the shorter command."""
_OPTIONS = {
    "method.name": "",
    "data.name": "--data",
    "data.root": "--data-root",
    "model.name": "--model",
    "threat": "--threat",
    "training.epochs": "--epochs",
    "seed": "--seed",
}
_ALWAYS = ("method.name", "data.name", "model.name", "threat", "training.epochs", "seed")
_WHOLE = ("training.drops", "attack.saa_keep")
"""Mappings that are settings themselves."""
_MADE_BY_THE_RUN = frozenset({"device", "threads"})


def typed_command(folder: Folder) -> str | None:
    """What the user typed to begin a run or an evaluation; None where nothing of the kind lies in
    ``folder``, as for what Python code or an earlier version began."""
    text = folder.text(COMMAND).removesuffix("\n")
    try:
        words = shlex.split(text)
    except ValueError:
        words = []
    if words[:1] == ["lrat"] and shlex.join(words) == text:  # nothing a shell would take apart
        return text
    if text:
        folder.tell(f"{folder.path / COMMAND} is no command of lrat, so it is left out.")
    return None


def train_command(config: Mapping[str, Any], folder: Path) -> str:
    """``lrat train sat --data digits ... --out FOLDER``: what differs from the defaults is set; of
    many settings, or such as this version does not know, the configuration file's command."""
    defaults = dict(_leaves(RunConfig().model_dump(mode="json")))
    settings = dict(_leaves(config))
    differing = {
        name: value
        for name, value in settings.items()
        if name not in _OPTIONS
        and name not in _MADE_BY_THE_RUN
        and (name not in defaults or _plain(value) != _plain(defaults[name]))
    }
    unknown = [name for name in differing if name not in defaults]
    incomplete = any(settings.get(name) is None for name in _ALWAYS)
    if unknown or incomplete or len(differing) > _MOST_SETTINGS:
        return shlex.join(["lrat", "train", "--config", str(folder / CONFIG), "--out", str(folder)])
    words = ["lrat", "train", str(settings["method.name"])]
    for name, option in _OPTIONS.items():
        if option and settings.get(name) is not None:
            words += [option, str(settings[name])]
    for name, value in differing.items():
        words += ["--set", f"{name}={_written(value)}"]
    return shlex.join([*words, "--out", str(folder)])


def evaluate_command(
    place: Place, folder: Folder, identity: Mapping[str, Any], threat: str, *extra: str
) -> str:
    """``lrat evaluate FOLDER --suite paper --limit 1000``, as ``folder``'s identity and name say.

    ``threat``: that of the run. What only the user knows (a suite's file, somebody's model) stands
    in capitals.
    """
    words = ["lrat", "evaluate"]
    words += [str(place.folder)] if place.trained else _somebodys(place)
    checkpoint = checkpoint_of(folder.path)
    if place.trained and checkpoint not in {"", "selected"}:
        words += ["--checkpoint", checkpoint]
    suite = str(identity.get("suite"))
    words += ["--suite", suite if suite in SUITES else f"{suite.upper()}.yaml"]
    attacked = stored_threat(str(identity.get("threat")))
    if attacked is not None and attacked != threat:
        words += ["--threat", attacked]
    images = at(folder.json(EXTENT), "images")
    whole = at((folder / GALLERY).json(ABOUT), "test_images")
    if images is None:
        counted = re.match(r"\d+", folder.path.name.partition(_slug(attacked))[2].lstrip("-"))
        images = None if counted is None else int(counted[0])
    if images is not None and images != whole:
        words += ["--limit", str(images)]
    if identity.get("seed"):
        words += ["--seed", str(identity["seed"])]
    sequential = re.match(r"sequential, (\d+) at once", str(identity.get("noise", "")))
    if sequential:
        words += ["--noise", "sequential", "--batch-size", sequential[1]]
    words += ["--images"] if identity.get("images") == "kept" else []
    words += ["--acceleration", OFF] if identity.get("acceleration") == OFF else []
    words += ["--masking"] if _panel_was_asked_for(folder, identity) else []
    return shlex.join([*words, *extra])


def _slug(threat: str | None) -> str:
    return "\0" if threat is None else threat.replace(":", "-").replace("/", "-")


def _somebodys(place: Place) -> list[str]:
    return [
        *("--model-file", "FILE.py:FUNCTION", "--weights", "WEIGHTS.safetensors"),
        *("--data", "npz:TEST.npz", "--out", str(place.folder)),
    ]


def _panel_was_asked_for(folder: Folder, identity: Mapping[str, Any]) -> bool:
    """Suites with a cascade have it by themselves."""
    return (folder.path / PANEL).is_file() and not identity.get("cascades")


def _leaves(value: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, part in value.items():
        name = f"{prefix}{key}"
        if isinstance(part, Mapping) and name not in _WHOLE:
            yield from _leaves(part, f"{name}.")
        else:
            yield name, part


def _plain(value: Any) -> Any:
    """Values that mean the same, alike: JSON has no numbers for keys and no tuples."""
    if isinstance(value, Mapping):
        return {float(key): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value


def _written(value: Any) -> str:
    """On one line as YAML reads it back."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...").strip()
