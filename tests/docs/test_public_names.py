"""A public name that nothing describes fails the build of the site."""

import importlib.util
from pathlib import Path
from types import ModuleType
from unittest import mock

import pytest

from docs.blocks import ROOT

PACKAGE = {
    "__init__.py": '"""A package."""\n',
    "parts.py": '''"""Parts."""

from typing import Protocol, TypeVar

Made = TypeVar("Made")
SAID = 1
"""Said."""
UNSAID = 2


class Walks(Protocol):
    """Walks; ``speed`` is how fast."""

    @property
    def speed(self) -> int: ...

    def walk(self) -> None:
        """One step."""


class Dog:
    """A dog."""

    @property
    def speed(self) -> int: ...
    def walk(self) -> None: ...
    def bark(self) -> None: ...
    def _private(self) -> None: ...


def told() -> None:
    """Told."""


def untold() -> None: ...
''',
    "chosen.py": '''"""Chosen."""

from made.parts import told, untold

__all__ = ["told"]
''',
}


@pytest.fixture(scope="module")
def hook() -> ModuleType:
    """The hook that ``mkdocs.yml`` names."""
    spec = importlib.util.spec_from_file_location(
        "undocumented", ROOT / "docs" / "hooks" / "undocumented.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "made").mkdir()
    for name, text in PACKAGE.items():
        (tmp_path / "made" / name).write_text(text)
    return tmp_path


def test_names_without_words_are_found(hook: ModuleType, source: Path) -> None:
    assert hook.undocumented(["made.parts"], source, "made") == [
        "made.parts.UNSAID",
        "made.parts.Dog.bark",
        "made.parts.untold",
    ]
    assert hook.undocumented(["made.chosen"], source, "made") == []
    assert hook.undocumented(["made.parts.untold"], source, "made") == ["made.parts.untold"]


def test_the_build_is_warned(hook: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    with mock.patch.object(hook, "undocumented", return_value=["lrat.nothing"]):
        hook.on_pre_build({"docs_dir": ROOT / "docs"})
    assert "lrat.nothing is public and has no docstring" in caplog.text


def test_the_api_pages_name_every_public_module(hook: ModuleType) -> None:
    named = set(hook.named(ROOT / "docs" / "api"))
    import lrat

    modules = {f"lrat.{name}" for name in lrat._MODULES} - {"lrat.experiments"}
    assert modules <= named
    functions = set(lrat._ADDRESSES.values())
    described = {name for name in functions if any(name.startswith(each) for each in named)}
    assert described == functions
