"""Reading of untrusted files: no link is followed out of a run folder, only plain files of bounded
size are read, and parsers raise one kind of error."""

import errno
import hashlib
import json
import math
import os
import stat
from collections.abc import Callable, Mapping
from functools import cache
from io import BufferedReader
from pathlib import Path
from typing import Any, TypeVar

from lrat.errors import LratError, RunFolderError
from lrat.files import names
from lrat.text import cut, reason

_Table = TypeVar("_Table")
CHECKSUM = "checksum"
"""The last key of every JSON object that lrat reads back: SHA-256 of the other keys."""
MOST_TEXT = 64 * 2**20
MOST_YAML = 2**20
_MOST_NODES = 10_000
_DEEPEST = 100
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # opening a FIFO without a writer would wait for ever
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_LISTS = frozenset({names.EVALUATIONS, names.CURVES, names.ANALYSES})
"""Folders of a run that hold a folder for each evaluation, curve or analysis."""
_FOLDERS = _LISTS | {
    names.CHECKPOINTS,
    names.RECORDED,
    names.PARTS,
    names.IMAGES,
    names.GALLERY,
    names.FIGURES,
}
NOT_AS_WRITTEN = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""The exceptions of code that reads values of other types than it wrote."""
_MARKS = (names.CONFIG, names.METRICS, names.IDENTITY)


def open_stored(path: Path, *, follow: bool = False) -> BufferedReader:
    """A plain file for reading. With ``follow`` (a file that the user named) links are allowed,
    without it only links within the run folder.

    Raises ``OSError``, also for a path that is no plain file.
    """
    if not follow:
        check_inside(path)
    descriptor = os.open(os.path.realpath(path), _FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "this is no plain file", str(path))
    return os.fdopen(descriptor, "rb")


def check_inside(path: Path) -> None:
    """``OSError`` for a path that leads out of its run folder by a link; the folder itself may be a
    link, and links within it are allowed. ``path`` need not exist."""
    whole = path.absolute()
    home = _home(whole.parent)
    below = [whole, *whole.parents][: len(whole.parts) - len(home.parts)]
    if not any(each.is_symlink() for each in below):
        return
    if not Path(os.path.realpath(whole)).is_relative_to(os.path.realpath(home)):
        raise OSError(errno.ELOOP, "this is a link that leads out of the run folder", str(path))


def _home(folder: Path) -> Path:
    """The folder of the run or evaluation that contains ``folder``, by the names of a run's
    folders; ``folder`` itself where there is none."""
    chain = [folder]
    while chain[-1].name in _FOLDERS or chain[-1].parent.name in _LISTS:
        chain.append(chain[-1].parent)
    marked = (
        each for each in reversed(chain) if any(os.path.lexists(each / mark) for mark in _MARKS)
    )
    return next(marked, folder)


def is_there(path: Path) -> bool:
    """Whether the path exists, also as a folder, a pipe or a broken link. Raises ``OSError`` where
    that cannot be decided."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def listed(folder: Path, names: str = "*") -> list[Path]:
    """The paths in ``folder`` with names of this pattern, sorted; [] for a missing folder. Raises
    ``OSError`` for a folder that cannot be read, for which ``Path.glob`` returns nothing."""
    try:
        return sorted(path for path in folder.iterdir() if path.match(names))
    except (FileNotFoundError, NotADirectoryError):
        return []


def read_text(path: Path, *, follow: bool = False, most: int = MOST_TEXT) -> str:
    """UTF-8 text of at most ``most`` bytes. Raises ``OSError`` or ``ValueError``; see
    ``open_stored``."""
    with open_stored(path, follow=follow) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"is larger than {most / 2**20:.0f} MiB")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"cannot be read as text: {reason(error)}") from None


def trouble(error: OSError | ValueError) -> str:
    """The message of an error of this module, to follow the name of its file."""
    return f"cannot be read: {reason(error)}" if isinstance(error, OSError) else str(error)


def parse_json(text: str) -> Any:
    """A JSON value. Raises ``ValueError`` for invalid JSON, too deep nesting, repeated keys, text
    that no file can hold, and numbers that are not finite or beyond 64 bits."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=_without_repetition,
            parse_float=_finite,
            parse_int=_of_64_bits,
            parse_constant=_finite,
        )
        _check_values(value)
        return value
    except RecursionError:
        raise ValueError("is damaged (it nests too deeply)") from None
    except ValueError as error:
        raise ValueError(f"is damaged ({reason(error)})") from None


def _check_values(value: Any) -> None:
    level = [value]
    for _ in range(_DEEPEST):
        inside: list[Any] = []
        for each in level:
            if isinstance(each, dict):
                inside += [*each.keys(), *each.values()]
            elif isinstance(each, list):
                inside += each
            elif isinstance(each, str):
                each.encode()  # raises for half a surrogate pair
        level = inside
    if level:
        raise RecursionError


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        raise ValueError("it holds a key twice")
    return value


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("it holds a number that is not finite")
    return number


def _of_64_bits(text: str) -> int:
    number = int(text) if len(text) <= 20 else 2**64
    if not -(2**63) <= number < 2**64:
        raise ValueError("it holds a number beyond 64 bits")
    return number


def safetensors_header(content: bytes) -> tuple[int, dict[str, Any]]:
    """The offset of the tensors in a safetensors file, and its header. Raises ``ValueError`` for
    other files."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = parse_json(content[8:start].decode())
    if start > len(content) or not isinstance(header, dict):
        raise ValueError("its header is damaged")
    return start, header


def safetensors_metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file; raises as ``safetensors_header``."""
    return safetensors_header(content)[1].get("__metadata__") or {}


def parse_object(text: str) -> dict[str, Any]:
    """A JSON object without its checksum. Raises ``ValueError`` as ``parse_json``, and for a wrong
    checksum; files of earlier versions have none."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError("is no JSON object")
    name = CHECKSUM if CHECKSUM in value else next(reversed(value), "")
    stored = value.get(name)
    rest = {key: each for key, each in value.items() if key != name}
    # A right checksum under another name means that the name is damaged.
    if (name == CHECKSUM) != (stored == checksum(rest)):
        raise ValueError("is damaged or was edited (its checksum differs)")
    return rest if name == CHECKSUM else value


def checksum(value: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, independent of the white space in its file."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a run folder, as ``parse_object``; also raises ``OSError``."""
    return parse_object(read_text(path))


def read_record(path: Path, cure: str, *, may_lack: bool = False) -> dict[str, Any]:
    """``read_json``, or ``RunFolderError`` with ``cure``; {} for no file if it ``may_lack``."""
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        if may_lack and isinstance(error, FileNotFoundError):
            return {}
        raise RunFolderError(f"{path} {trouble(error)}; {cure}") from None


def read_whole(path: Path, read: Callable[[Path], _Table], cure: str) -> _Table:
    """The table that ``read`` reads; ``RunFolderError`` with ``cure`` for a damaged file."""
    try:
        return read(path)
    except LratError as error:
        raise RunFolderError(f"{path}: {error}; {cure}") from None
    except Exception as error:
        # zipfile, numpy and pyarrow raise a dozen kinds of errors for damaged files.
        raise RunFolderError(f"{path} is damaged ({reason(error)}): {cure}") from None


def parse_yaml(text: str) -> Any:
    """Plain data from YAML. Raises ``ValueError`` for objects, repeated keys, and more values than
    a configuration can have, counted as often as aliases repeat them."""
    import yaml  # the core works without it

    try:
        _check_nodes(yaml.parse(text, Loader=_loader()), yaml)
        # Safe, since the loader creates plain data alone.
        return yaml.load(text, Loader=_loader())  # noqa: S506
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"is no plain YAML: {reason(error)}") from None
    except Exception:
        # The constructors of YAML's tags raise a dozen kinds of errors.
        raise ValueError("is no plain YAML: a value in it is not what its tag says") from None


@cache
def _loader() -> Any:
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        """Refuses repeated keys, of which YAML would use the last."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            known = set()
            for key, _ in node.value:
                scalar = (key.tag, key.value) if key.id == "scalar" else None
                if scalar in known:
                    raise ValueError(f"{cut(key.value)!r} is there twice, rename one")
                known |= {scalar} - {None}
            return super().construct_mapping(node, deep)

    return Loader


def _check_nodes(events: Any, yaml: Any) -> None:
    """Refuse too many nodes, counted with their repetitions by aliases, before they are built."""
    sizes: dict[str, int] = {}
    open_nodes: list[tuple[str | None, int]] = [(None, 0)]
    for event in events:
        size, anchor = 0, getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append((anchor, 1))
            if len(open_nodes) > _DEEPEST:
                raise ValueError("it nests too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_nodes.pop()
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise ValueError(f"the alias *{cut(str(anchor))} stands for nothing before it")
            size, anchor = sizes[anchor], None
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
        if anchor is not None and size:
            sizes[anchor] = size
        open_nodes[-1] = (open_nodes[-1][0], open_nodes[-1][1] + size)
        if open_nodes[-1][1] > _MOST_NODES:
            raise ValueError(f"it has more than {_MOST_NODES} values")


def read_yaml(path: Path, *, follow: bool = False) -> dict[str, Any]:
    """A mapping from a YAML file. Raises ``OSError`` or ``ValueError``; see ``parse_yaml``."""
    value = parse_yaml(read_text(path, follow=follow, most=MOST_YAML))
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of settings")
    return value
