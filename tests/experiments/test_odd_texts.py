"""Every door for YAML and JSON gives one line of bounded length for every odd text."""

from pathlib import Path

import pytest

from lrat.config.settings import load_config, parse_assignments, read_settings
from lrat.errors import LratError
from lrat.reporting.report.collect.reading import Folder
from lrat.reproduce.folder import read_preset
from lrat.runs.suites import suite_from_file
from lrat.threat import Linf
from odd_texts import READ_YAML, REFUSED_JSON, REFUSED_YAML

YAML = REFUSED_YAML | {f"read: {name}": text for name, text in READ_YAML.items()}


@pytest.mark.parametrize("text", YAML.values(), ids=YAML)
def test_odd_yaml_is_one_line_at_every_door(text: str, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    lines = {"training": {"lr": "x"}}
    doors = (
        lambda: load_config(parse_assignments([f"training.lr={text}"]), lines),
        lambda: load_config(parse_assignments([f"training={text}", "training.lr=x"])),
        lambda: load_config(read_settings(path), lines),
        lambda: suite_from_file(path, Linf(epsilon=0.1)),
    )
    for door in doors:
        with pytest.raises(LratError) as error:
            door()
        assert len(str(error.value)) < 3000
    told = Folder(tmp_path)
    assert isinstance(told.yaml("config.yaml"), dict)
    assert all(len(problem) < 1000 for problem in told.problems)


@pytest.mark.parametrize("text", REFUSED_JSON.values(), ids=REFUSED_JSON)
def test_odd_json_is_one_line_at_every_door(text: str, tmp_path: Path) -> None:
    (tmp_path / "preset.json").write_text(text, encoding="utf-8")
    with pytest.raises(LratError, match="is damaged"):
        read_preset(tmp_path)
    told = Folder(tmp_path)
    assert told.json("preset.json") == {}
    assert len(told.problems) == 1
