"""The commands that make a run and its evaluations again: what the user typed where it was kept,
else the shortest command that does the same."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from lrat.config.catalogue import SUITES
from lrat.config.settings import RunConfig
from lrat.evaluation.storage.gallery import ABOUT
from lrat.files.names import COMMAND, CONFIG, EXTENT, GALLERY, PANEL
from lrat.reporting.report.collect.locate import LocatedRun
from lrat.reporting.report.collect.reading import Folder, at
from lrat.runs.folder import OFF, checkpoint_of, read_command
from lrat.text import as_command
from lrat.threat.norms import stored_threat

_MOST_SETTINGS = 8
"""With more of them, the run's configuration file makes the shorter command."""
_OPTIONS = {
    "data.name": "data",
    "data.root": "data_root",
    "model.name": "model",
    "threat": "threat",
    "training.epochs": "epochs",
    "seed": "seed",
}
_ALWAYS = ("method.name", "data.name", "model.name", "threat", "training.epochs", "seed")
_WHOLE = ("training.drops", "attack.saa_keep")
"""Mappings that are settings themselves."""
_MADE_BY_THE_RUN = frozenset({"device", "threads"})


def typed_command(folder: Folder) -> str | None:
    """What the user typed to begin a run or an evaluation; None where nothing of the kind lies in
    ``folder``, as for what Python code or an earlier version began."""
    try:
        return read_command(folder.path)
    except (OSError, ValueError) as error:
        folder.leave_out(COMMAND, error)
        return None


def train_command(config: Mapping[str, Any], folder: Path) -> str:
    """``lrat train sat --data digits ... --out FOLDER``: what differs from the defaults is set; of
    many settings, or such as this version does not know, the configuration file's command."""
    defaults = dict(_leaves(RunConfig().model_dump(mode="json")))
    settings = dict(_leaves(config))
    differing = {
        name: value
        for name, value in settings.items()
        if name not in {"method.name", *_OPTIONS, *_MADE_BY_THE_RUN}
        and (name not in defaults or _plain(value) != _plain(defaults[name]))
    }
    unknown = [name for name in differing if name not in defaults]
    incomplete = any(settings.get(name) is None for name in _ALWAYS)
    if unknown or incomplete or len(differing) > _MOST_SETTINGS:
        return as_command("lrat", "train", config=folder / CONFIG, out=folder)
    known = {name: settings.get(name) for name in _OPTIONS}
    options = {_OPTIONS[name]: str(each) for name, each in known.items() if each is not None}
    assigned = [f"{name}={_written(value)}" for name, value in differing.items()]
    return as_command("lrat", "train", settings["method.name"], **options, set=assigned, out=folder)


def evaluate_command(
    run: LocatedRun, folder: Folder, identity: Mapping[str, Any], threat: str
) -> str:
    """``lrat evaluate FOLDER --suite paper --limit 1000``, as ``folder``'s identity and name say.

    ``threat``: that of the run. What only the user knows (a suite's file, a model's file) is
    written in capitals.
    """
    model: dict[str, Any] = {
        "model": "FILE.py:FUNCTION",
        "weights": "WEIGHTS.safetensors",
        "data": "npz:TEST.npz",
        "out": run.folder,
    }
    if run.trained:
        checkpoint = checkpoint_of(folder.path)
        model = {"checkpoint": checkpoint if checkpoint not in {"", "selected"} else None}
    suite = str(identity.get("suite"))
    attacked = stored_threat(str(identity.get("threat")))
    images = at(folder.json(EXTENT), "images")
    whole = at((folder / GALLERY).json(ABOUT), "test_images")
    if images is None:
        counted = re.match(r"\d+", folder.path.name.partition(_slug(attacked))[2].lstrip("-"))
        images = None if counted is None else int(counted[0])
    sequential = re.match(r"sequential, (\d+) at once", str(identity.get("noise", "")))
    return as_command(
        *("lrat", "evaluate", *([run.folder] if run.trained else [])),
        **model,
        suite=suite if suite in SUITES else f"{suite.upper()}.yaml",
        threat=attacked if attacked != threat else None,
        limit=images if images != whole else None,
        seed=identity.get("seed") or None,
        noise="sequential" if sequential else None,
        batch_size=sequential[1] if sequential else None,
        images=identity.get("images") == "kept",
        acceleration=OFF if identity.get("acceleration") == OFF else None,
        # Suites with a cascade have a panel by themselves.
        masking=(folder.path / PANEL).is_file() and not identity.get("cascades"),
    )


def _slug(threat: str | None) -> str:
    return "\0" if threat is None else threat.replace(":", "-").replace("/", "-")


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
