"""The names of a run's files are written once."""

import ast
from pathlib import Path

import lrat
from lrat.files import names

HOME = Path(lrat.__file__).parent


def test_no_other_module_spells_a_file_s_name() -> None:
    files = {value for value in vars(names).values() if isinstance(value, str) and "." in value}
    files &= {name for name in files if " " not in name and not name.startswith("lrat")}
    assert {"identity.json", "summary.json", "metrics.jsonl", "config.yaml"} <= files
    again = [
        f"{path.relative_to(HOME)}: {node.value}"
        for path in HOME.rglob("*.py")
        if path != HOME / "files" / "names.py"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and node.value in files
    ]
    assert again == []
