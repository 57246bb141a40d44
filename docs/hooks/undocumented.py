"""A public name without a docstring fails the build of the site.

The API pages name modules (``::: lrat.attacks``) and objects (``::: lrat.experiments.api.fit``).
Public is what is in a module's ``__all__``, else what it defines without an underscore, and of a
class its methods and properties. A member is described by a docstring of its own, by its class's
docstring where that names it (``as this``), or by the Protocol or abstract class it belongs to.
"""

import logging
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import griffe

_log = logging.getLogger("mkdocs.hooks.undocumented")
_NAMED = re.compile(r"^::: ([\w.]+)", re.MULTILINE)
_PYTORCHS = {"forward", "state_dict", "load_state_dict", "to"}
SOURCE = Path(__file__).parents[2] / "src"


def on_pre_build(config: Any, **_: Any) -> None:
    """Warns of every such name, which ``mkdocs build --strict`` takes for an error."""
    for name in undocumented(named(Path(config["docs_dir"], "api"))):
        _log.warning("%s is public and has no docstring: say what it is", name)


def named(folder: Path) -> list[str]:
    """What the pages of a folder name to be described."""
    pages = [page.read_text(encoding="utf-8") for page in sorted(folder.glob("*.md"))]
    return [name for page in pages for name in _NAMED.findall(page)]


def undocumented(names: list[str], source: Path = SOURCE, package: str = "lrat") -> list[str]:
    """The names among and below these, of a package in ``source``, that nothing describes."""
    root = griffe.load(package, search_paths=[str(source)], allow_inspection=False)
    contracts = [each for each in _classes(root) if _is_contract(each)]
    found: dict[str, None] = {}
    for name in names:
        inside = name.removeprefix(package).removeprefix(".")
        thing = root[inside] if inside else root
        found.update(dict.fromkeys(_bare(_real(thing), contracts)))
    return list(found)


def public(module: Any) -> Iterator[Any]:
    """What a module offers: its ``__all__``, else what it defines itself."""
    if module.exports is not None:
        names = [str(name) for name in module.exports if not str(name).startswith("_")]
        yield from (_real(module[name]) for name in names if name in module.members)
        return
    for name, member in module.members.items():
        if not name.startswith("_") and not member.is_alias and not member.is_module:
            yield member


def _real(thing: Any) -> Any:
    return thing.final_target if thing.is_alias else thing


def _bare(thing: Any, contracts: list[Any]) -> Iterator[str]:
    if not thing.has_docstring and not _is_type_variable(thing):
        yield str(thing.path)
    if thing.is_module:
        for member in public(thing):
            if not member.is_module:
                yield from _bare(member, contracts)
    if thing.is_class:
        told = _told_elsewhere(thing, contracts)
        for name, member in _members(thing).items():
            if name not in told and not member.has_docstring:
                yield str(member.path)


def _told_elsewhere(owner: Any, contracts: list[Any]) -> set[str]:
    """Names of a class's members that its docstring or a contract that it fulfils describes."""
    text = owner.docstring.value if owner.has_docstring else ""
    told = _PYTORCHS | set(re.findall(r"``(\w+)", text))
    has = {*owner.all_members}
    for contract in contracts:
        if has >= _members(contract).keys():
            words = contract.docstring.value if contract.has_docstring else ""
            told |= set(re.findall(r"``(\w+)", words))
            told |= {name for name, each in _members(contract).items() if each.has_docstring}
    return told


def _members(owner: Any) -> dict[str, Any]:
    """A class's own public methods and properties."""
    return {
        name: member
        for name, member in owner.members.items()
        if not name.startswith("_")
        and not member.is_alias
        and (member.is_function or "property" in member.labels)
    }


def _is_contract(owner: Any) -> bool:
    bases = {str(base).rpartition(".")[2] for base in owner.bases}
    return bool(bases & {"Protocol", "ABC"}) and bool(_members(owner))


def _is_type_variable(thing: Any) -> bool:
    return bool(thing.is_attribute and str(thing.value).startswith("TypeVar("))


@cache
def _classes(module: Any) -> tuple[Any, ...]:
    found = []
    for member in module.members.values():
        if not member.is_alias and member.is_class:
            found.append(member)
        elif not member.is_alias and member.is_module:
            found.extend(_classes(member))
    return tuple(found)
