"""Files that somebody else may have written: no link is followed out of a run folder, only plain
files of bounded size are read, and parsers fail in one way."""

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
"""The last key of every JSON object that is written to be read back: SHA-256 of the others."""
MOST_TEXT = 64 * 2**20
MOST_YAML = 2**20
_MOST_NODES = 10_000
_DEEPEST = 100
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # to open a FIFO that nobody writes to would wait for ever
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
"""What code raises that is handed values of other kinds than it wrote."""
_MARKS = (names.CONFIG, names.METRICS, names.IDENTITY)


def open_stored(path: Path, *, follow: bool = False) -> BufferedReader:
    """A plain file for reading. With ``follow`` (a file that the user named) a link may lead
    anywhere, without it nowhere out of the run folder that holds it.

    Raises ``OSError``, also for what is no plain file.
    """
    if not follow:
        check_inside(path)
    descriptor = os.open(os.path.realpath(path), _FLAGS)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "this is no plain file", str(path))
    return os.fdopen(descriptor, "rb")


def check_inside(path: Path) -> None:
    """Raise ``OSError`` for a path that a link leads out of its run folder; that folder itself may
    be a link, and links within it are allowed. ``path`` need not exist."""
    whole = path.absolute()
    home = _home(whole.parent)
    below = [whole, *whole.parents][: len(whole.parts) - len(home.parts)]
    if not any(each.is_symlink() for each in below):
        return
    if not Path(os.path.realpath(whole)).is_relative_to(os.path.realpath(home)):
        raise OSError(errno.ELOOP, "this is a link that leads out of the run folder", str(path))


def _home(folder: Path) -> Path:
    """The run or evaluation that ``folder`` is a part of, by the names that runs give their
    folders; ``folder`` itself where there is none."""
    chain = [folder]
    while chain[-1].name in _FOLDERS or chain[-1].parent.name in _LISTS:
        chain.append(chain[-1].parent)
    marked = (
        each for each in reversed(chain) if any(os.path.lexists(each / mark) for mark in _MARKS)
    )
    return next(marked, folder)


def is_there(path: Path) -> bool:
    """Whether anything has this name, also a folder, a pipe or a link to nowhere in place of the
    file. Raises ``OSError`` where that cannot be seen."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def listed(folder: Path, names: str = "*") -> list[Path]:
    """What lies in ``folder`` under names of this pattern, sorted; nothing where it is missing.
    Raises ``OSError`` for a folder that cannot be read, which ``Path.glob`` takes as empty."""
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
    """What the errors of this module say of a file, to be put behind its name."""
    return f"cannot be read: {reason(error)}" if isinstance(error, OSError) else str(error)


def parse_json(text: str) -> Any:
    """A JSON value. Raises ``ValueError`` for every text that holds none, nests too deeply, holds a
    key twice, text that no file can hold, or a number that is not finite or beyond 64 bits."""
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
                each.encode()  # half a surrogate pair has no UTF-8
        level = inside
    if level:
        raise RecursionError


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("it holds a key twice")
    return found


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
    """Where the tensors of a safetensors file begin, and what it says of each by name. Raises
    ``ValueError`` for what is none."""
    start = 8 + int.from_bytes(content[:8], "little")
    header = parse_json(content[8:start].decode())
    if start > len(content) or not isinstance(header, dict):
        raise ValueError("its header is damaged")
    return start, header


def safetensors_metadata(content: bytes) -> dict[str, str]:
    """The texts beside the tensors of a safetensors file; raises as ``safetensors_header``."""
    return safetensors_header(content)[1].get("__metadata__") or {}


def parse_object(text: str) -> dict[str, Any]:
    """A JSON object without its checksum. Raises ``ValueError`` as ``parse_json``, and where the
    checksum is of something else; files of earlier versions have none."""
    value = parse_json(text)
    if not isinstance(value, dict):
        raise ValueError("is no JSON object")
    name = CHECKSUM if CHECKSUM in value else next(reversed(value), "")
    stored = value.get(name)
    rest = {key: each for key, each in value.items() if key != name}
    # Under another name it is right where the name itself is damaged.
    if (name == CHECKSUM) != (stored == checksum(rest)):
        raise ValueError("is damaged or was edited (its checksum differs)")
    return rest if name == CHECKSUM else value


def checksum(value: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object, whatever the white space in its file."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a run folder as ``parse_object`` takes it; also raises ``OSError``."""
    return parse_object(read_text(path))


def read_record(path: Path, cure: str, *, may_lack: bool = False) -> dict[str, Any]:
    """``read_json``, or ``RunFolderError`` with ``cure``; empty for no file if it ``may_lack``."""
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        if may_lack and isinstance(error, FileNotFoundError):
            return {}
        raise RunFolderError(f"{path} {trouble(error)}; {cure}") from None


def read_whole(path: Path, read: Callable[[Path], _Table], cure: str) -> _Table:
    """What ``read`` finds in a table's file; ``RunFolderError`` with ``cure`` for a damaged one."""
    try:
        return read(path)
    except LratError as error:
        raise RunFolderError(f"{path}: {error}; {cure}") from None
    except Exception as error:
        # zipfile, numpy and pyarrow raise a dozen kinds for the same cause.
        raise RunFolderError(f"{path} is damaged ({reason(error)}): {cure}") from None


def parse_yaml(text: str) -> Any:
    """Plain data from YAML: never objects, no key twice in a mapping, and no more values than a
    configuration can have, also where aliases repeat them. Raises ``ValueError`` for all else."""
    import yaml  # the core works without it

    try:
        _check_nodes(yaml.parse(text, Loader=_loader()), yaml)
        # Not unsafe: the loader makes plain data alone.
        return yaml.load(text, Loader=_loader())  # noqa: S506
    except (ValueError, yaml.YAMLError) as error:
        raise ValueError(f"is no plain YAML: {reason(error)}") from None
    except Exception:
        # The constructors of YAML's tags raise a dozen kinds.
        raise ValueError("is no plain YAML: a value in it is not what its tag says") from None


@cache
def _loader() -> Any:
    import yaml

    base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(base):  # type: ignore[misc]
        """Of two values under one key the first would be lost."""

        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            known = set()
            for key, _ in node.value:
                written = (key.tag, key.value) if key.id == "scalar" else None
                if written in known:
                    raise ValueError(f"{cut(key.value)!r} is there twice, rename one")
                known |= {written} - {None}
            return super().construct_mapping(node, deep)

    return Loader


def _check_nodes(events: Any, yaml: Any) -> None:
    """Count nodes, an alias as often as it is repeated, before anything is made of them."""
    sizes: dict[str, int] = {}
    begun: list[tuple[str | None, int]] = [(None, 0)]
    for event in events:
        size, anchor = 0, getattr(event, "anchor", None)
        if isinstance(event, yaml.CollectionStartEvent):
            begun.append((anchor, 1))
            if len(begun) > _DEEPEST:
                raise ValueError("it nests too deeply")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = begun.pop()
        elif isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise ValueError(f"the alias *{cut(str(anchor))} stands for nothing before it")
            size, anchor = sizes[anchor], None
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
        if anchor is not None and size:
            sizes[anchor] = size
        begun[-1] = (begun[-1][0], begun[-1][1] + size)
        if begun[-1][1] > _MOST_NODES:
            raise ValueError(f"it has more than {_MOST_NODES} values")


def read_yaml(path: Path, *, follow: bool = False) -> dict[str, Any]:
    """A mapping from a YAML file. Raises ``OSError`` or ``ValueError``; see ``parse_yaml``."""
    value = parse_yaml(read_text(path, follow=follow, most=MOST_YAML))
    if not isinstance(value, dict):
        raise ValueError("must be a mapping of settings")
    return value
