"""The run folder: what it is called, whether it may be used, what lies in it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lrat.errors import RunFolderError
from lrat.evaluation.storage import FINGERPRINT
from lrat.experiments.config import RunConfig, differences, load_config, read_settings
from lrat.experiments.lock import LOCK
from lrat.reading import read_json

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
MODEL = "model.json"
WEIGHTS = "model.safetensors"
BESIDE_TENSORS = "beside tensors"
"""The key in the metadata of a file of weights for what is no tensor (see ``weights``)."""
METRICS = "metrics.jsonl"
RECORDED = "weights"
EVALUATIONS = "evaluations"
PANEL = "masking.json"
CURVES, CURVE = "curves", "curve.json"
CHECKPOINTS = "checkpoints"
ACCELERATION = "acceleration.json"
CONTENTS = "contents.json"
OFF = "off"


def default_folder(config: RunConfig) -> Path:
    """``runs/METHOD-DATA-SEED``."""
    data = Path(config.data.name.removeprefix("npz:")).stem
    return Path("runs") / f"{config.method.name}-{data}-{config.seed}"


def read_config(folder: Path) -> RunConfig:
    """The configuration of the run in ``folder``; RunFolderError if there is none."""
    path = folder / CONFIG
    if not path.is_file():
        raise RunFolderError(f"{folder} is no run folder: it has no {CONFIG}; train one first")
    return load_config(read_settings(path))


def has_begun(folder: Path) -> bool:
    """Whether a run in ``folder`` has saved anything that another configuration could not use."""
    return (folder / WEIGHTS).exists() or any((folder / CHECKPOINTS).glob("*.json"))


def claim(folder: Path, config: RunConfig) -> None:
    """Refuse a folder that holds something else; nothing is written yet.

    A run that failed before its first checkpoint leaves nothing to protect: its folder can be used
    with other settings.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file: choose another --out")
    if not folder.exists() or all(_is_left_over(path) for path in folder.iterdir()):
        return
    if not (folder / CONFIG).is_file():
        raise RunFolderError(f"{folder} holds files of something else: choose another --out")
    if not has_begun(folder):
        return
    differing = differences(config.result_settings(), read_config(folder).result_settings())
    if differing:
        raise RunFolderError(
            f"{folder} holds a run of another configuration ({'; '.join(differing)}): "
            "choose another --out, or give the same settings to continue it"
        )


def _is_left_over(path: Path) -> bool:
    """Whether a run writes this file before its configuration, so that one that ended early (a
    full disk, a kill) may leave it alone."""
    is_temporary = path.name.startswith(".") and path.suffix == ".tmp"
    return is_temporary or path.name in {LOCK, ENVIRONMENT, CONTENTS, ACCELERATION, FINGERPRINT}


def check_contents(folder: Path, found: Mapping[str, str]) -> None:
    """Refuse to continue on other images or another model file than the run was begun with."""
    path = folder / CONTENTS
    if not has_begun(folder) or not path.is_file():
        return
    try:
        stored = read_json(path)
    except (OSError, ValueError):
        raise RunFolderError(
            f"{path} is damaged, so whether the images are still the same cannot be checked: bring "
            "it back, or remove it to continue all the same"
        ) from None
    changed = sorted(name for name in {*stored, *found} if stored.get(name) != found.get(name))
    if changed:
        raise RunFolderError(
            f"{folder} was begun with other contents ({', '.join(changed)} changed since): choose "
            "another --out, or bring back the files"
        )


def threat_slug(threat: str) -> str:
    """``linf:8/255`` -> ``linf-8-255``: for folder names."""
    return threat.replace(":", "-").replace("/", "-")


def evaluated(folder: Path, key: str) -> Any:
    """An entry of the identity of the evaluation begun in ``folder``; None where there is none."""
    try:
        return read_json(folder / "identity.json").get(key)
    except (OSError, ValueError):
        return None
