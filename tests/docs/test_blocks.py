"""Every block of the README and the documentation runs, or says why it does not."""

import io
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from docs.blocks import PAGES, ROOT, Block, Page, read
from docs.commands import commands, parse, run
from docs.places import furnish, known

NAMES = [path.relative_to(ROOT).as_posix() for path in PAGES]


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the run that pages start from is kept."""
    return tmp_path_factory.mktemp("documented")


@pytest.mark.parametrize("name", NAMES)
def test_every_block_runs(
    name: str, tmp_path: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = read(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    for thing in page.has:
        furnish(tmp_path, thing, runs)
    spoken = {each: known(each) for each in page.knows}
    for block in page.blocks:
        if block.fate == "file":
            (tmp_path / str(block.title)).write_text(block.small, encoding="utf-8")
    try:
        for block in page.blocks:
            perform(block, spoken)
    finally:
        forget(tmp_path)


def forget(folder: Path) -> None:
    """Modules of a page's folder, which the next page may have under the same name."""
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(folder)):
            del sys.modules[name]


def perform(block: Block, spoken: dict[str, Any]) -> None:
    """Run the block or parse it; files were written before, and others are left alone."""
    if block.fate == "parsed only":
        for words in commands(block.small):
            parse(words)
    elif block.fate == "run" and block.language == "sh":
        for words in commands(block.small):
            run(words)
    elif block.fate == "run" and block.language == "yaml":
        assert isinstance(yaml.safe_load(block.small), dict), block.place
    elif block.fate == "run":
        code = compile("\n" * block.line + block.small, str(ROOT / block.page), "exec")
        with torch.random.fork_rng(devices=[]), redirect_stdout(io.StringIO()):
            exec(code, spoken)  # noqa: S102 - the documentation's own code


@pytest.mark.parametrize("name", NAMES)
def test_every_block_is_run_or_says_why_not(name: str) -> None:
    page = read(ROOT / name)
    for block in page.blocks:
        assert block.fate in ("run", "file", "parsed only", "not run")
    fences = [line for line in (ROOT / name).read_text().splitlines() if "```" in line]
    assert 2 * len(page.blocks) == len(fences)


def test_most_blocks_that_can_run_do() -> None:
    fates = [block.fate for name in NAMES for block in read(ROOT / name).blocks]
    assert fates.count("run") + fates.count("file") > 2 * fates.count("parsed only")


PAGE = """<!-- page: has runs/a; knows model -->
```python title="net.py"
x = 1
```
<!-- test: replace 20 -> 1 -->
```sh
lrat train sat --epochs 20  # a comment
lrat list \\
  methods
```

1. A list.

    <!-- test: not run: it is output -->

    ```text
    97.00
    ```
"""


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Page:
    monkeypatch.setattr("docs.blocks.ROOT", tmp_path)
    (tmp_path / "page.md").write_text(PAGE)
    return read(tmp_path / "page.md")


def test_pages_are_read(example: Page) -> None:
    assert example.has == ("runs/a",)
    assert example.knows == ("model",)
    file, shell, output = example.blocks
    assert (file.fate, file.title, file.text) == ("file", "net.py", "x = 1\n")
    assert [block.fate for block in (shell, output)] == ["run", "not run"]
    assert list(commands(shell.small)) == [
        ["lrat", "train", "sat", "--epochs", "1"],
        ["lrat", "list", "methods"],
    ]
    assert output.text == "97.00\n"


@pytest.mark.parametrize(
    ("marks", "language", "complaint"),
    [
        ((), "text", "is not run: mark it so"),
        ((), "", "no language"),
        (("not run:",), "text", "give a reason"),
        (("maybe",), "sh", "unknown mark"),
    ],
)
def test_a_block_without_a_fate_is_refused(
    marks: tuple[str, ...], language: str, complaint: str
) -> None:
    block = Block(page="p.md", line=1, language=language, title=None, text="", marks=marks)
    with pytest.raises(AssertionError, match=complaint):
        _ = block.fate


@pytest.mark.parametrize(
    "line", ["lrat trian sat", "lrat train sat --epoch 3", "lrat why runs/a", "ls"]
)
def test_commands_that_are_only_parsed_are_checked(line: str) -> None:
    (words,) = commands(line)
    with pytest.raises(
        Exception, match=r"no `lrat trian`|No such option|Missing parameter|no command"
    ):
        parse(words)
