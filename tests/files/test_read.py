"""Stored files are read within their folder, within bounds, and parsers fail in one way."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from lrat.errors import RunFolderError
from lrat.files.read import (
    MOST_YAML,
    check_inside,
    open_stored,
    parse_json,
    parse_yaml,
    read_json,
    read_text,
    read_yaml,
    trouble,
)
from lrat.files.write import append_line, discard, read_table, write_json, write_table
from odd_texts import READ_YAML, REFUSED_JSON, REFUSED_YAML

POSIX = pytest.mark.skipif(os.name == "nt", reason="needs links, pipes and devices of POSIX")


@pytest.mark.parametrize("text", REFUSED_YAML.values(), ids=REFUSED_YAML)
def test_what_is_no_plain_yaml_is_one_kind_of_error_in_one_line(text: str) -> None:
    with pytest.raises(ValueError, match="is no plain YAML: ") as error:
        parse_yaml(text)
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", READ_YAML.values(), ids=READ_YAML)
def test_plain_data_is_read(text: str) -> None:
    parse_yaml(text)


def test_aliases_and_merged_mappings_within_bounds_are_read() -> None:
    text = "a: &a {steps: 5, loss: ce}\nb: {<<: *a, steps: 7}\nc: [*a, *a]"
    assert parse_yaml(text)["b"] == {"steps": 7, "loss": "ce"}
    assert parse_yaml(text)["c"] == [{"steps": 5, "loss": "ce"}] * 2


@pytest.mark.parametrize("text", REFUSED_JSON.values(), ids=REFUSED_JSON)
def test_what_is_no_json_is_one_kind_of_error_in_one_line(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is damaged") as error:
        parse_json(text)
    assert len(str(error.value)) < 400
    assert "\n" not in str(error.value)
    (tmp_path / "x.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="is damaged"):
        read_json(tmp_path / "x.json")


def test_a_file_of_another_kind_or_size_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("[1]")
    with pytest.raises(ValueError, match="is no JSON object"):
        read_json(path)
    with pytest.raises(ValueError, match="must be a mapping"):
        read_yaml(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="as text"):
        read_json(path)
    with path.open("wb") as file:
        file.truncate(MOST_YAML + 1)  # sparse: its size costs nothing
    with pytest.raises(ValueError, match="larger"):
        read_yaml(path)
    assert trouble(FileNotFoundError(2, "No such file")) == "cannot be read: No such file"


@POSIX
@pytest.mark.parametrize("follow", [False, True])
def test_pipes_devices_and_folders_are_no_files(follow: bool, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero", "."):
        with pytest.raises(OSError, match=r"no plain file|leads out"):
            read_text(tmp_path / name, follow=follow)


def _run(folder: Path) -> Path:
    (folder / "evaluations" / "e" / "outcomes").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    (folder / "config.yaml").write_text("seed: 1")
    (folder / "evaluations" / "e" / "identity.json").write_text('{"a": 1}')
    return folder


@POSIX
@pytest.mark.parametrize(
    "linked",
    ["config.yaml", "evaluations", "evaluations/e", "evaluations/e/outcomes", "checkpoints"],
)
def test_no_link_is_followed_out_of_a_run(linked: str, tmp_path: Path) -> None:
    run = _run(tmp_path / "run")
    outside = tmp_path / "outside"
    (run / linked).rename(outside)
    (run / linked).symlink_to(outside)
    path = run / linked
    inner = path if path.is_file() else path / "file.json"
    if inner != path:
        (outside / "file.json").write_text('{"a": 1}')
    before = sorted(outside.rglob("*")), (outside if outside.is_file() else inner).read_text()

    with pytest.raises(OSError, match="leads out of the run folder") as error:
        open_stored(inner)
    assert error.value.errno == errno.ELOOP
    assert read_text(inner, follow=True)
    if inner != path:
        with pytest.raises(RunFolderError, match="leads out of the run folder"):
            write_json(inner, {"a": 2})
        with pytest.raises(RunFolderError, match="leads out of the run folder"):
            write_json(path / "new" / "file.json", {"a": 2})
        discard(inner)
    with pytest.raises(RunFolderError, match="leads out of the run folder"):
        append_line(inner, "x")
    assert before == (
        sorted(outside.rglob("*")),
        (outside if outside.is_file() else inner).read_text(),
    )


@POSIX
def test_a_linked_table_is_not_read_and_a_linked_file_is_replaced_by_writing(
    tmp_path: Path,
) -> None:
    run = _run(tmp_path / "run")
    table = write_table(tmp_path / "table", {"x": np.arange(3)})
    (run / "checkpoints" / table.name).symlink_to(table)
    with pytest.raises(OSError, match="leads out"):
        read_table(run / "checkpoints" / table.name)
    (tmp_path / "secret.json").write_text("{}")
    (run / "model.json").symlink_to(tmp_path / "secret.json")
    write_json(run / "model.json", {"a": 1})
    assert not (run / "model.json").is_symlink()
    assert (tmp_path / "secret.json").read_text() == "{}"


@POSIX
def test_a_run_may_be_a_link_and_hold_links_within_itself(tmp_path: Path) -> None:
    run = _run(tmp_path / "stored" / "run")
    (run / "latest.json").symlink_to("evaluations/e/identity.json")
    (tmp_path / "runs").mkdir()
    link = tmp_path / "runs" / "mine"
    link.symlink_to(run)
    evaluation = tmp_path / "evaluation"
    evaluation.symlink_to(run / "evaluations" / "e")
    assert read_json(link / "latest.json") == {"a": 1}
    assert read_json(evaluation / "identity.json") == {"a": 1}
    write_json(link / "evaluations" / "e" / "summary.json", {"b": 2})
    assert read_json(evaluation / "summary.json") == {"b": 2}
    # Folders of users that are called as those of runs are.
    home = tmp_path / "evaluations"
    home.mkdir()
    (home / "weights").symlink_to(run)
    check_inside(home / "weights" / "config.yaml")
