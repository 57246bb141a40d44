"""The run folder: what it is called, whether it may be used, what lies in it.

Also the finished evaluations at the paths that a user names, and which of them are meant.
"""

import hashlib
import re
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lrat.config import catalogue
from lrat.config.catalogue import names_a_file, place_in, slug
from lrat.config.settings import RunConfig, differences, load_config, read_settings
from lrat.errors import CheckpointError, ConfigurationError, RunFolderError, UnknownNameError
from lrat.evaluation.storage.records import ANEW
from lrat.files.names import (
    ACCELERATION,
    CHECKPOINTS,
    COMMAND,
    CONFIG,
    CONTENTS,
    ENVIRONMENT,
    EVALUATIONS,
    FINGERPRINT,
    IDENTITY,
    MODEL,
    SUMMARY,
    WEIGHTS,
)
from lrat.files.read import (
    is_there,
    listed,
    open_stored,
    read_json,
    read_record,
    read_text,
    trouble,
)
from lrat.files.write import discard, is_temporary, write_text
from lrat.runs.lock import LOCK
from lrat.text import storable
from lrat.threat.norms import NORMS

BESIDE_TENSORS = "beside tensors"
"""The key in the metadata of a file of weights for what is no tensor (see ``weights``)."""
OFF = "off"
_DIGEST = "\n# sha256 "

_CHECKPOINT = re.compile(r"(?:selected|last|epoch-\d+(?:-step-\d+)?)(?=-)")
_SEED = re.compile(r"-seed-\d+")
_COUNT = re.compile(r"-\d+$")


def default_folder(config: RunConfig) -> Path:
    """``runs/METHOD-DATA-SEED``."""
    data = Path(place_in(config.data.name) or config.data.name).stem
    return Path("runs") / f"{config.method.name}-{data}-{config.seed}"


def read_config(folder: Path) -> RunConfig:
    """The configuration of the run in ``folder``; RunFolderError if there is none, or another one
    than the run was trained with. What decides no result, as where the data lie, may be edited."""
    path = folder / CONFIG
    if not is_there(path):
        raise RunFolderError(f"{folder} is no run folder: it has no {CONFIG}; train one first")
    config = load_config(read_settings(path))
    cure = "remove it and give the run's `lrat train` command again, which writes it anew"
    trained = read_record(folder / MODEL, cure, may_lack=True)
    if trained.get("configuration", config.digest()) != config.digest():
        raise RunFolderError(
            f"{path} is damaged or was edited: it is not what this run was trained with; bring "
            "back what decides its results"
        )
    return config


def read_weights(path: Path, *, follow: bool = False, checked: bool = True) -> bytes:
    """The content of a file of weights, ``follow`` as in ``reading.open_stored``.

    ``CheckpointError`` where it cannot be read, and if ``checked`` for a run's selected weights of
    another digest than ``model.json`` says.
    """
    try:
        with open_stored(path, follow=follow) as file:
            content = file.read()
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist") from None
    except OSError as error:
        raise CheckpointError(f"{path} {trouble(error)}") from None
    try:
        about = read_json(path.parent / MODEL) if checked and path.name == WEIGHTS else {}
        is_whole = not about or about.get("sha256") == hashlib.sha256(content).hexdigest()
        reason = "" if is_whole else "is damaged: its digest differs"
    except FileNotFoundError:
        return content
    except (OSError, ValueError) as error:
        reason = f"or {MODEL} {trouble(error)}"
    if reason:
        raise CheckpointError(
            f"{path} {reason}; remove both {WEIGHTS} and {MODEL} and give the run's `lrat train` "
            "command again, which writes them anew"
        )
    return content


def keep_command(folder: Path, command: str | None) -> None:
    """Keep the command that the user typed to begin what ``folder`` holds; None for no command,
    so that the one of a beginning that left nothing does not stay."""
    if command is None:
        discard(folder / COMMAND)
    else:
        write_text(folder / COMMAND, _with_digest(storable(command)))


def read_command(folder: Path) -> str | None:
    """What ``keep_command`` kept, None where it kept nothing; ``OSError`` or ``ValueError`` for a
    file that cannot be read, is damaged, or holds more than one command of lrat to a shell."""
    try:
        text = read_text(folder / COMMAND)
    except FileNotFoundError:
        return None
    command = text.rpartition(_DIGEST)[0]
    if text != _with_digest(command):
        raise ValueError("is damaged: its digest differs")
    try:
        words = shlex.split(command)
    except ValueError:
        words = []
    if words[:1] != ["lrat"] or shlex.join(words) != command:
        raise ValueError("is no command of lrat")
    return command


def _with_digest(command: str) -> str:
    """A script for a shell, to which the digest is a comment."""
    return f"{command}{_DIGEST}{hashlib.sha256(command.encode()).hexdigest()}\n"


def has_begun(folder: Path) -> bool:
    """Whether a run in ``folder`` has saved anything that another configuration could not use."""
    return (folder / WEIGHTS).exists() or bool(listed(folder / CHECKPOINTS, "*.json"))


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
    ours = {LOCK, ENVIRONMENT, CONTENTS, ACCELERATION, FINGERPRINT}
    return is_temporary(path) or path.name in ours


def check_contents(folder: Path, contents: Mapping[str, str]) -> None:
    """Refuse to continue on other images or another model file than the run was begun with."""
    path = folder / CONTENTS
    if not has_begun(folder) or not is_there(path):
        return
    stored = read_record(
        path,
        "whether the images are still the same cannot be checked: bring it back, or remove it to "
        "continue all the same",
    )
    changed = sorted(
        name for name in {*stored, *contents} if stored.get(name) != contents.get(name)
    )
    if changed:
        raise RunFolderError(
            f"{folder} was begun with other contents ({', '.join(changed)} changed since): choose "
            "another --out, or bring back the files"
        )


def threat_slug(threat: str) -> str:
    """``linf:8/255`` -> ``linf-8-255``: for folder names."""
    return threat.replace(":", "-").replace("/", "-")


def evaluated(folder: Path, key: str) -> Any:
    """An entry of the identity of the evaluation begun in ``folder``; None where none was begun.
    ``RunFolderError`` for an identity that cannot be read."""
    return read_record(folder / IDENTITY, ANEW, may_lack=True).get(key)


def named_paths(given: Sequence[Path | str]) -> tuple[list[Path], dict[Path, str]]:
    """The folders that a user names as PATH or NAME=PATH, and the names that were given."""
    folders, names = [], {}
    for text in map(str, given):
        name, _, path = text.partition("=")
        is_named = bool(name and path) and not Path(text).exists()
        folders.append(Path(path if is_named else text))
        if is_named:
            names[folders[-1]] = name
    return folders, names


def one_of_each(paths: Sequence[Path], suite: str | None) -> list[Path]:
    """The evaluation folder that is meant at each of several paths.

    Where a path holds several, the one whose name all paths have, its number of images aside
    (folds differ by one); of several such that of the selected weights. Raises ``RunFolderError``
    with the names where that leaves none or several.
    """
    evaluations = finished(paths, suite)
    common = set.intersection(
        *({_COUNT.sub("", folder.name) for folder in each} for each in evaluations)
    )
    selected = {name for name in common if name.startswith("selected-")}
    meant = next((names for names in (common, selected) if len(names) == 1), None)
    if meant is not None:
        evaluations = [
            [folder for folder in each if _COUNT.sub("", folder.name) in meant]
            for each in evaluations
        ]
    for path, folders in zip(paths, evaluations, strict=True):
        if len(folders) > 1:
            how = "its path" if suite else "--suite or its path"
            shared = [folder for folder in folders if _COUNT.sub("", folder.name) in common]
            which = f"all have {_names(shared)}" if shared else _names(folders)
            raise RunFolderError(f"{path} holds several evaluations: choose one by {how}: {which}")
    return [folders[0] for folders in evaluations]


def of_other_seeds(path: Path, suite: str | None) -> list[Path]:
    """The evaluations at ``path`` that differ in their attack seed alone.

    Raises ``RunFolderError`` where there are several such sets, ``ConfigurationError`` for none.
    """
    (folders,) = finished([path], suite)
    alike: dict[str, list[Path]] = {}
    for folder in folders:
        alike.setdefault(_SEED.sub("", folder.name), []).append(folder)
    several = {name: same for name, same in alike.items() if len(same) > 1}
    if not several:
        what = "is one evaluation" if len(folders) == 1 else "has each evaluation with one seed"
        raise ConfigurationError(
            f"{path} {what}: name two runs or more, or evaluate this one with another attack seed "
            "too (`lrat evaluate RUN --seed 1`)"
        )
    if len(several) > 1:
        how = "move the others away" if suite else "choose one by --suite"
        raise RunFolderError(
            f"{path} holds several evaluations with several attack seeds: {how}: "
            f"{', '.join(sorted(several))}"
        )
    (same,) = several.values()
    return same


def finished(paths: Sequence[Path], suite: str | None) -> list[list[Path]]:
    """The finished evaluations at each path: the folder itself, or those in a run's folder.

    ``suite``: only these; a suite's name, that of a user's file (with or without its ending),
    the ``name`` inside it, or that of the evaluation's folder. Raises ``UnknownNameError`` for one
    that is neither known nor there.
    """
    every = [finished_at(path) for path in paths]
    if suite is None:
        chosen = every
    else:
        chosen = [[folder for folder in folders if is_of(folder, suite)] for folders in every]
        if not any(chosen) and not names_a_file(suite) and suite not in catalogue.SUITES:
            there = {str(evaluated(folder, "suite")) for folders in every for folder in folders}
            raise UnknownNameError("suite", suite, {*catalogue.SUITES, *there})
    for path, folders in zip(paths, chosen, strict=True):
        if not folders:
            what, how = (f"{suite} ", f" --suite {suite}") if suite else ("", "")
            raise RunFolderError(
                f"{path} holds no finished {what}evaluation: run `lrat evaluate {path}{how}`"
            )
    return chosen


def run_of(evaluation: Path) -> Path | None:
    """The run that an evaluation folder lies in, be its configuration lost; None for a user's
    model."""
    parent = evaluation.resolve().parent
    home = parent.parent
    is_run = parent.name == EVALUATIONS and any(is_there(home / each) for each in (CONFIG, MODEL))
    return home if is_run else None


def checkpoint_of(folder: Path) -> str:
    """Which of a run's weights an evaluation folder's name says: ``selected``, ``epoch-3``."""
    match = _CHECKPOINT.match(folder.name)
    return match[0] if match else ""


def finished_at(path: Path) -> list[Path]:
    """The finished evaluations at one path; ``RunFolderError`` for one that cannot be read."""
    if is_there(path / IDENTITY):
        return [path]
    if not path.is_dir():
        raise RunFolderError(f"{path} is no folder: name a run or one of its evaluations")
    try:
        folders = listed(path / EVALUATIONS) or listed(path)
        return [each for each in folders if is_there(each / SUMMARY)]
    except OSError as error:
        raise RunFolderError(
            f"{error.filename or path} {trouble(error)}: make it readable, or name the evaluation"
        ) from None


def is_of(folder: Path, suite: str) -> bool:
    """Whether an evaluation folder is of this suite, as ``finished`` takes it."""
    if suite == folder.name or any(f"-{slug(suite)}-{norm}-" in folder.name for norm in NORMS):
        return True
    # Ours are named after themselves: a file's suite that calls itself "quick" is another.
    return suite not in catalogue.SUITES and evaluated(folder, "suite") == suite


def _names(folders: Sequence[Path]) -> str:
    return ", ".join(path.name for path in folders)
