"""What a reproduction may be asked for: presets, rows, seeds, folders."""

from pathlib import Path

import pytest

from lrat.config import build
from lrat.config.catalogue import METHODS
from lrat.errors import ConfigurationError, RunFolderError, UnknownNameError
from lrat.reproduce.folder import check, claim, finished_runs, read_preset, run_folder
from lrat.reproduce.make import table_rows
from lrat.reproduce.make_runs import ordered_rows
from lrat.reproduce.paper import TABLE_1, TABLE_2
from lrat.reproduce.presets import PRESETS, Choice, check_row, drop_epoch, reference_of
from lrat.reproduce.request import Request, check_target, rows_in, seeds_in
from lrat.reproduce.studies import NAMES, distinct, studies

DIGITS = Choice.of("digits")


@pytest.mark.parametrize(
    ("text", "seeds"),
    [("3", (0, 1, 2)), ("1", (0,)), ("0,2", (0, 2)), ("2,", (2,)), (" 4 , 1 ", (4, 1))],
)
def test_seeds_are_a_number_or_a_list(text: str, seeds: tuple[int, ...]) -> None:
    assert seeds_in(text) == seeds


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("0", "at least 1"),
        ("-1", "at least 1"),
        ("99999999999999999999", "at most"),
        ("0,-1", "-1 is negative"),
        ("1,2,1", "1 is there twice"),
        ("two", "write how many"),
        ("", "write how many"),
        ("1.5", "write how many"),
    ],
)
def test_other_seeds_are_refused_in_one_line(text: str, cause: str) -> None:
    with pytest.raises(ConfigurationError, match=cause) as caught:
        seeds_in(text)
    assert "\n" not in str(caught.value)


def test_rows_are_methods_and_what_the_preset_adds() -> None:
    assert rows_in("sat, saa+cw", "table1") == ("sat", "lrat-saa+cw")
    assert rows_in("sat-0.22eps,saa+cw-0.22eps", "table1") == (
        "sat-0.22eps",
        "lrat-saa+cw-0.22eps",
    )
    with pytest.raises(UnknownNameError, match=r"unknown row 'lrat-sa': did you mean 'lrat-saa'"):
        rows_in("sat,lrat-sa", "table1")
    with pytest.raises(UnknownNameError, match="unknown row"):
        rows_in("sat-0.007", "table1")
    with pytest.raises(ConfigurationError, match="lrat-saa\\+cw is there twice"):
        rows_in("saa+cw,lrat-saa+cw", "table1")
    with pytest.raises(ConfigurationError, match="at least one"):
        rows_in(" , ", "table1")


def test_rows_of_a_sensitivity_are_its_studies() -> None:
    assert rows_in("alpha,weak", "sensitivity") == ("alpha", "weak")
    with pytest.raises(UnknownNameError, match="unknown study 'sta': did you mean 'sat'"):
        rows_in("sta", "sensitivity")


def test_targets() -> None:
    for name in ("table1", "table2", "figure1", "figure1c", "figure5f", "figure6", "sensitivity"):
        assert check_target(name) == name
    for name in ("table3", "figure7", "figure2a", "Table1", ""):
        with pytest.raises(UnknownNameError, match="unknown target"):
            check_target(name)


@pytest.mark.parametrize("name", PRESETS)
def test_every_row_of_every_preset_has_an_objective(name: str) -> None:
    choice = Choice.of(name)
    for row in (*METHODS, *(f"{method}-0.22eps" for method in METHODS)):
        config = choice.config(row, 3)
        build.objective(config)
        build.optimisation(config)
        assert config.seed == 3
        assert config.training.record_weights
        assert config.training.monitor.attacks == ("pgd-20", "cw-20")
        assert drop_epoch(config) in config.training.keep_epochs
    preset = choice.preset
    for row in (*preset.seeds_of, *preset.first, *preset.rows):
        assert check_row(row) == row


def test_the_presets_are_the_papers_protocol_and_its_smaller_likes() -> None:
    digits, fashion, small, whole = (
        Choice.of(name).config("sat", 0).training
        for name in ("digits", "fashion-mnist", "cifar10-small", "cifar10")
    )
    assert [t.epochs for t in (digits, fashion, small, whole)] == [30, 5, 12, 66]
    assert (whole.schedule_epochs, whole.batch_size, whole.lr) == (100, 128, 0.1)
    assert whole.weight_decay == 2e-4
    assert whole.keep_epochs == tuple(range(59, 67))
    assert whole.record_weights == (*range(6, 61, 6), 66)
    assert [t.keep_epochs for t in (digits, fashion, small)] == [(18,), (3,), (8,)]
    assert fashion.record_weights == (1, 2, 3, 4, 5)
    assert dict(digits.drops) == {0.6: 0.1, 0.9: 0.1}
    assert PRESETS["digits"].autoattacked is PRESETS["cifar10"].autoattacked is None
    assert [PRESETS[n].autoattacked for n in ("fashion-mnist", "cifar10-small")] == [1000, 500]


def test_the_papers_epoch_60_is_reported_where_the_preset_is_the_papers() -> None:
    choice = Choice.of("cifar10")
    assert choice.checkpoint(choice.config("sat", 0)) == "epoch-60"
    short = Choice.of("cifar10", ["training.epochs=2"])
    config = short.config("sat", 0)
    assert short.checkpoint(config) == "epoch-2"
    assert config.training.keep_epochs == (2,)
    assert DIGITS.checkpoint(DIGITS.config("sat", 0)) == "selected"


def test_early_stopping_follows_the_schedule() -> None:
    early = Choice.of("digits", ["training.epochs=10", "training.drops={0.3: 0.1}"])
    assert drop_epoch(early.config("sat", 0)) == 3
    none = Choice.of("digits", ["training.epochs=10", "training.schedule.name=cosine"])
    assert drop_epoch(none.config("sat", 0)) == 6
    assert [
        drop_epoch(Choice.of("digits", [f"training.epochs={n}"]).config("sat", 0)) for n in (1, 2)
    ] == [1, 2]


@pytest.mark.parametrize(
    ("preset", "step"),
    [("digits", 0.044), ("fashion-mnist", 0.022), ("cifar10-small", 0.22 * 8 / 255)],
)
def test_sat_takes_a_longer_step_of_the_presets_epsilon(preset: str, step: float) -> None:
    choice = Choice.of(preset)
    assert choice.config("sat", 0).attack.step_size is None
    config = choice.config("sat-0.22eps", 0)
    assert config.method.name == "sat"
    assert config.attack.step_size == pytest.approx(step, rel=1e-9)
    half = Choice.of(preset, ["threat=linf:0.1", "attack.step_size=0.5"])
    assert half.config("lrat-cw-0.22eps", 0).attack.step_size == 0.022, "the row's own wins"


@pytest.mark.parametrize("preset", PRESETS)
def test_table_1_has_the_longer_step_and_the_equal_weights_in_every_preset(preset: str) -> None:
    request = Request(target="table1", choice=Choice.of(preset), out=Path("x"))
    rows = ordered_rows(request, table_rows(request))
    assert {*TABLE_1, "sat-0.22eps", "lsat-saa+cw"} <= set(rows)
    if preset == "cifar10":
        assert rows[:5] == ["sat", "sat-0.22eps", "lrat-saa+cw", "gairat", "lrat-saa"]


def test_each_row_is_judged_against_its_own_reference() -> None:
    rows = ("sat", "sat-0.22eps", "lrat-cw", "lrat-saa+cw", "gd+cw", "gd+saa", "saa+cw+gd")
    found = {row: reference_of(row, rows) for row in rows}
    assert found == {
        "sat": "sat-0.22eps",
        "sat-0.22eps": None,
        "lrat-cw": "sat-0.22eps",
        "lrat-saa+cw": "sat-0.22eps",
        "gd+cw": "lrat-cw",
        "gd+saa": None,
        "saa+cw+gd": "lrat-saa+cw",
    }
    assert reference_of("lrat-cw", ("sat", "lrat-cw")) == "sat"
    assert reference_of("sat", ("sat", "lrat-cw")) is None
    assert reference_of("gd+cw-0.22eps", ("lrat-cw", "lrat-cw-0.22eps")) == "lrat-cw-0.22eps"


def test_both_epochs_are_attacked_where_they_differ() -> None:
    assert DIGITS.checkpoints(DIGITS.config("sat", 0)) == ("selected", "epoch-18")
    paper = Choice.of("cifar10")
    assert paper.checkpoints(paper.config("sat", 0)) == ("epoch-60", "selected")
    short = Choice.of("digits", ["training.epochs=2"])
    assert short.checkpoints(short.config("sat", 0)) == ("selected",)


def test_settings_for_all_rows_change_what_follows_from_them() -> None:
    choice = Choice.of("digits", ["training.epochs=4", "model.width=4"])
    config = choice.config("lrat-saa", 1)
    assert (config.training.epochs, config.model.width) == (4, 4)
    assert config.training.record_weights == (1, 2, 3, 4)
    assert config.training.keep_epochs == (3,)
    assert choice.record()["digest"] != DIGITS.record()["digest"]
    chosen = Choice.of("digits", ["training.record_weights=[2]"]).config("sat", 0)
    assert chosen.training.record_weights == (2,)


@pytest.mark.parametrize("setting", ["seed=3", "method.name=sat", "data.root=x"])
def test_what_rows_decide_is_not_for_all(setting: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot hold for all rows"):
        Choice.of("digits", [setting])


def test_fewer_seeds_where_the_preset_says_so() -> None:
    fashion = Choice.of("fashion-mnist")
    assert fashion.seeds_of("sat") == (0, 1, 2)
    assert fashion.seeds_of("lrat-cw") == (0,)
    assert DIGITS.seeds_of("lrat-cw") == (0, 1, 2, 3, 4)


def test_a_folder_belongs_to_one_preset(tmp_path: Path) -> None:
    claim(tmp_path, DIGITS)
    check(tmp_path, Choice.of("digits", [], "elsewhere"))
    assert read_preset(tmp_path)["preset"] == "digits"
    with pytest.raises(RunFolderError, match="holds the preset 'digits', not 'cifar10'"):
        check(tmp_path, Choice.of("cifar10"))
    with pytest.raises(RunFolderError, match=r"training\.lr: 0\.2 asked, 0\.1 in the folder"):
        check(tmp_path, Choice.of("digits", ["training.lr=0.2"]))
    (tmp_path / "preset.json").write_text("{")
    with pytest.raises(RunFolderError, match="damaged"):
        check(tmp_path, DIGITS)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    check(tmp_path, DIGITS)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match=r"something else \(thesis\.tex\)"):
        check(tmp_path, DIGITS)
    with pytest.raises(RunFolderError, match="is a file"):
        check(tmp_path / "thesis.tex", DIGITS)
    with pytest.raises(RunFolderError, match="no folder of `lrat reproduce`"):
        read_preset(tmp_path)


def test_runs_are_found_by_row_and_seed(tmp_path: Path) -> None:
    for row, seed in (("lrat-saa+cw", 0), ("sat", 10), ("sat", 2), ("sat-0.22eps", 0)):
        folder = run_folder(tmp_path, row, seed)
        folder.mkdir(parents=True)
        (folder / "model.safetensors").touch()
    run_folder(tmp_path, "gairat", 0).mkdir()  # not finished
    found = [(run.row, run.seed) for run in finished_runs(tmp_path)]
    assert found == [("lrat-saa+cw", 0), ("sat", 2), ("sat", 10), ("sat-0.22eps", 0)]


def test_studies_hold_their_references_and_every_row_can_be_built() -> None:
    base = DIGITS.config("sat", 0)
    found = studies(base, 0.2)
    assert tuple(study.name for study in found) == NAMES
    for study in found:
        assert study.reference in study.rows
    for row in distinct(found):
        build.objective(DIGITS.config(row.method, 0, row.settings))
    assert {*TABLE_1, *TABLE_2} >= {row.method for row in distinct(found)} - {"pgd+fgsm"}
