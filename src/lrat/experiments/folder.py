"""The run folder: what it is called, whether it may be used, what lies in it."""

from pathlib import Path

from lrat.errors import RunFolderError
from lrat.experiments.config import RunConfig, differences, load_config, read_yaml

CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
MODEL = "model.json"
WEIGHTS = "model.safetensors"
EVALUATIONS = "evaluations"
CHECKPOINTS = "checkpoints"


def default_folder(config: RunConfig) -> Path:
    """``runs/METHOD-DATA-SEED``."""
    data = Path(config.data.name.removeprefix("npz:")).stem
    return Path("runs") / f"{config.method.name}-{data}-{config.seed}"


def read_config(folder: Path) -> RunConfig:
    """The configuration of the run in ``folder``; RunFolderError if there is none."""
    path = folder / CONFIG
    if not path.is_file():
        raise RunFolderError(f"{folder} is no run folder: it has no {CONFIG}; train one first")
    return load_config(read_yaml(path))


def has_begun(folder: Path) -> bool:
    """Whether a run in ``folder`` has saved anything that another configuration could not use."""
    return (folder / WEIGHTS).exists() or any((folder / CHECKPOINTS).glob("*"))


def claim(folder: Path, config: RunConfig) -> None:
    """Refuse a folder that holds something else; nothing is written yet.

    A run that failed before its first checkpoint leaves nothing to protect: its folder can be used
    with other settings.
    """
    if folder.exists() and not folder.is_dir():
        raise RunFolderError(f"{folder} is a file: choose another --out")
    if not folder.exists() or not any(folder.iterdir()):
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


def threat_slug(threat: str) -> str:
    """``linf:8/255`` -> ``linf-8-255``: for folder names."""
    return threat.replace(":", "-").replace("/", "-")
