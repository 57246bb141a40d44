"""The fenced blocks of the README and the documentation, and what becomes of each in the tests.

A page says what a reader cannot see in HTML comments, which no reader sees:

``<!-- page: has runs/mine mine.npz; knows model images -->`` anywhere on a page: what lies in the
folder that its commands run in (``places.PLACES``), and names that its Python knows already.

Directly before a block:

``<!-- test: replace epochs=20 -> epochs=1 -->`` runs it with another text;
``<!-- test: parsed only: REASON -->`` reads its commands, options included, but runs none;
``<!-- test: not run: REASON -->`` leaves it alone.

``python`` blocks run one after the other with the page's names, ``sh`` blocks line by line (the
commands of ``lrat`` alone, made small by ``commands.SMALL``), ``yaml`` is read. A block with a
``title`` is a file of that name. Whatever else must say why it is not run.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
_FENCE = re.compile(r"^(?P<indent> *)(?P<ticks>```+)(?P<info>.*)$")
_MARK = re.compile(r"^ *<!-- test: (?P<mark>.*) -->$")
_PAGE = re.compile(r"<!-- page: (?P<says>.*?) -->", re.DOTALL)
RUN = ("python", "sh", "yaml")


@dataclass(frozen=True, kw_only=True)
class Block:
    """A fenced block: where it stands, its language, its title, its text and its marks."""

    page: str
    line: int
    language: str
    title: str | None
    text: str
    marks: tuple[str, ...]

    @property
    def place(self) -> str:
        """As an editor opens it."""
        return f"{self.page}:{self.line}"

    @property
    def fate(self) -> str:
        """``run``, ``file``, ``parsed only`` or ``not run``; an AssertionError where none fits."""
        for mark in self.marks:
            for fate in ("not run", "parsed only"):
                if mark.startswith(f"{fate}:"):
                    assert mark.removeprefix(f"{fate}:").strip(), f"{self.place}: give a reason"
                    return fate
            assert mark.startswith("replace "), f"{self.place}: unknown mark {mark!r}"
        if self.title is not None:
            return "file"
        assert self.language in RUN, (
            f"{self.place}: a block in {self.language or 'no language'} is not run: mark it so, "
            "with the reason"
        )
        return "run"

    @property
    def small(self) -> str:
        """The text with its replacements made."""
        text = self.text
        for mark in self.marks:
            if mark.startswith("replace "):
                before, _, after = mark.removeprefix("replace ").partition(" -> ")
                assert before in text, f"{self.place}: {before!r} is not in the block"
                text = text.replace(before, after)
        return text


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page's blocks, what its folder has, and the names that its Python knows."""

    name: str
    blocks: tuple[Block, ...]
    has: tuple[str, ...] = ()
    knows: tuple[str, ...] = field(default=())


def read(path: Path) -> Page:
    """One page's blocks in their order."""
    text = path.read_text(encoding="utf-8")
    name = path.relative_to(ROOT).as_posix()
    said: dict[str, tuple[str, ...]] = {}
    for found in _PAGE.finditer(text):
        for part in found["says"].split(";"):
            verb, *words = part.split()
            assert verb in ("has", "knows"), f"{name}: a page has or knows, not {verb!r}"
            said[verb] = tuple(words)
    return Page(name=name, blocks=tuple(_blocks(name, text.splitlines())), **said)


def _blocks(page: str, lines: list[str]) -> Iterator[Block]:
    marks: list[str] = []
    at = 0
    while at < len(lines):
        line = lines[at]
        if mark := _MARK.match(line):
            marks.append(mark["mark"])
        elif fence := _FENCE.match(line):
            closing = f"{fence['indent']}{fence['ticks']}"
            stop = lines.index(closing, at + 1)
            language, _, rest = fence["info"].strip().partition(" ")
            title = re.search(r'title="([^"]+)"', rest)
            inside = [each.removeprefix(fence["indent"]) for each in lines[at + 1 : stop]]
            yield Block(
                page=page,
                line=at + 1,
                language=language,
                title=None if title is None else title[1],
                text="\n".join(inside) + "\n",
                marks=tuple(marks),
            )
            marks, at = [], stop
        elif line.strip():
            assert not marks, f"{page}:{at + 1}: a mark stands directly before its block"
        at += 1
    assert not marks, f"{page}: the last mark has no block"
