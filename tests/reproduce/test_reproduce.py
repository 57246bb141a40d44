"""`lrat reproduce` as it is typed, on runs of seconds; extended, refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from experiments.commands import Answer, contents, done, give_setting, lrat, process
from lrat.reproduce.cell import Attacks
from lrat.reproduce.make import collected
from lrat.reproduce.presets import Choice
from lrat.reproduce.request import Request

pytestmark = pytest.mark.xdist_group("reproduce")
TINY = (
    *("--set", "training.epochs=2", "--set", "model.width=4", "--set", "attack.steps=2"),
    *("--set", "attack.saa_steps=2", "--set", "data.train_limit=150"),
)
TABLE = ("reproduce", "table1", *TINY, "--suite", "quick", "--seeds", "2", "--workers", "2")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Answer]:
    out = tmp_path_factory.mktemp("reproduce") / "digits"
    answer = process(*TABLE, "--rows", "sat,lrat-cw", "--out", out)
    assert answer.status == 0, answer.err
    return out, answer


def record(out: Path, name: str = "table1") -> dict[str, Any]:
    return dict(json.loads((out / f"{name}.json").read_text()))


def rows_of(out: Path) -> dict[str, list[int]]:
    rows = record(out)["rows"]
    assert isinstance(rows, list)
    return {row["name"]: row["seeds"] for row in rows}


def test_the_table_holds_the_rows_over_their_seeds(made: tuple[Path, Answer]) -> None:
    out, answer = made
    assert answer.err == ""
    assert rows_of(out) == {"sat": [0, 1], "lrat-cw": [0, 1]}
    text = (out / "table1.md").read_text()
    assert text.startswith("# Table 1 on digits\n")
    assert "| sat | " in text
    assert "83.17" in text
    assert "Not run: sat-0.22eps, gairat, lsat-cw, lsat-saa, lsat-saa+cw, lrat-saa" in text
    assert f"written: {out / 'table1.md'}, {out / 'table1.json'}" in answer.out
    assert "; 4 of 4 runs done" in answer.out


def test_numbers_are_those_of_the_runs(made: tuple[Path, Answer]) -> None:
    out, _ = made
    found = record(out)
    rows = found["rows"]
    assert isinstance(rows, list)
    right = tested = 0
    for run in rows[1]["runs"]:
        (evaluation,) = (out / "runs" / run["folder"] / "evaluations").iterdir()
        summary = json.loads((evaluation / "summary.json").read_text())
        share = summary["accuracy"]["pgd-20"]
        assert run["right"]["pgd-20"] == {
            "images": round(share["value"] * share["n"]),
            "of": share["n"],
        }
        right, tested = right + run["right"]["pgd-20"]["images"], tested + share["n"]
    score = rows[1]["scores"]["pgd-20"]
    assert score["value"] == pytest.approx(right / tested)
    assert score["n"] == tested == 720
    assert score["low"] <= score["value"] <= score["high"]
    metrics = (out / "runs" / "lrat-cw-seed-0" / "metrics.jsonl").read_text().splitlines()
    passes = json.loads(metrics[0])["passes"]
    assert rows[1]["cost"]["forwards"] == passes["attack_forwards"] + passes["update_forwards"] == 3


def test_a_run_that_is_not_the_presets_is_left_out_with_the_reason(
    made: tuple[Path, Answer], tmp_path: Path
) -> None:
    out = Path(shutil.copytree(made[0], tmp_path / "digits"))
    give_setting(out / "runs" / "sat-seed-1", "lr: 0.1", "lr: 0.2")
    config = out / "runs" / "lrat-cw-seed-0" / "config.yaml"
    config.write_text(config.read_text().replace("seed:", "seed: ["))
    choice = Choice.of("digits", [each for each in TINY if each != "--set"])
    request = Request(target="table1", choice=choice, out=out)
    table, _ = collected(request, (), Attacks(suite="quick"))
    assert {row.name: row.seeds for row in table.rows} == {"sat": (0,), "lrat-cw": (1,)}
    damaged, other = sorted(table.lacking)
    assert other.endswith("trained with other settings (training.lr: 0.1 asked, 0.2 in the folder)")
    assert damaged.startswith("lrat-cw-seed-0: ")
    assert "\n" not in damaged


def test_runs_record_what_figures_need(made: tuple[Path, Answer]) -> None:
    run = made[0] / "runs" / "sat-seed-1"
    assert len(list((run / "weights").iterdir())) == 2
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert set(last["monitor"]) == {"natural", "pgd-20", "cw-20"}
    assert (run / "checkpoints" / "epoch-002.json").is_file()


def test_the_history_says_which_command_finished_what(made: tuple[Path, Answer]) -> None:
    entry = json.loads((made[0] / "history.json").read_text())["table1"]
    assert entry["command"].startswith("lrat reproduce table1 --set training.epochs=2 ")
    assert entry["about"] == "2 rows, 4 runs"
    assert set(entry) == {"command", "finished", "seconds", "about"}


def test_another_command_reuses_what_is_there_and_adds_its_rows(
    made: tuple[Path, Answer], in_this_process: None
) -> None:
    out, _ = made
    before = {name: digest for name, digest in contents(out).items() if name.startswith("runs/")}
    done(
        *("reproduce", "table1", *TINY, "--suite", "quick", "--seeds", "0,", "--workers", "1"),
        *("--rows", "sat,gairat", "--out", out),
    )
    assert rows_of(out) == {"sat": [0, 1], "gairat": [0], "lrat-cw": [0, 1]}
    after = contents(out)
    assert {name: after[name] for name in before} == before


def test_a_figure_is_drawn_from_the_same_runs(
    made: tuple[Path, Answer], in_this_process: None
) -> None:
    out, _ = made
    run = contents(out / "runs" / "sat-seed-0")
    text = done("reproduce", "figure1b", *TINY, "--seeds", "1", "--out", out)
    assert {path.name for path in (out / "figures").iterdir()} >= {
        "figure1b.pdf",
        "figure1b.png",
        "figure1b.txt",
    }
    assert "pgd-20" in text, "the caption is shown"
    assert {"table1", "figure1b"} <= set(json.loads((out / "history.json").read_text()))
    assert contents(out / "runs" / "sat-seed-0") == run
    unknown = lrat("reproduce", "figure7", "--out", out)
    assert "unknown target 'figure7'" in unknown.complaint


@pytest.mark.parametrize(
    ("changed", "cause"),
    [
        (("--preset", "cifar10"), "holds the preset 'digits', not 'cifar10'"),
        (("--set", "training.lr=0.3"), "training.lr: 0.3 asked, 0.1 in the folder"),
        (("--set", "method.beta=3", "--rows", "lrat-saa"), "method.beta: 3 asked, None in the"),
        (("--rows", "sat,sat"), "sat is there twice"),
        (("--seeds", "0"), "seeds 0: at least 1"),
        (("--rows", "lrat-sa"), "did you mean 'lrat-saa'"),
        (("--set", "method.beta=3"), "method.beta does nothing in 'sat'"),
        (("--suite", "quik"), "did you mean 'quick'"),
        (("--preset", "digit"), "did you mean 'digits'"),
    ],
)
def test_refusals_leave_the_folder_as_it_was(
    changed: tuple[str, ...], cause: str, made: tuple[Path, Answer]
) -> None:
    out, _ = made
    before = contents(out)
    answer = lrat(*TABLE, "--rows", "sat", "--out", out, *changed)
    assert cause in answer.complaint
    assert contents(out) == before


def test_data_that_are_not_there_are_asked_for_first(tmp_path: Path) -> None:
    answer = lrat("reproduce", "table2", "--preset", "fashion-mnist", "--out", tmp_path / "fashion")
    assert "FashionMNIST needs the folder of its official files" in answer.complaint
    assert not (tmp_path / "fashion").exists()


def test_the_papers_preset_reports_its_epoch_and_warns_on_a_cpu(
    tmp_path: Path, in_this_process: None
) -> None:
    out = tmp_path / "cifar10"
    text = done(
        *("reproduce", "table1", "--preset", "cifar10", "--rows", "sat,sat-0.22eps"),
        *("--seeds", "2", "--workers", "2"),
        *(*TINY, "--set", "data.name=digits", "--set", "threat=linf:0.2"),
        *("--set", "model.width=2", "--set", "training.monitor.limit=20"),
        *("--set", "device=cpu", "--suite", "quick", "--limit", "20", "--out", out),
    )
    assert "warning: preset cifar10 is meant for a GPU, this is a CPU; table1" in text
    (evaluation,) = (out / "runs" / "sat-seed-0" / "evaluations").iterdir()
    assert evaluation.name == "epoch-2-quick-linf-0.2-20"
    assert rows_of(out) == {"sat": [0, 1], "sat-0.22eps": [0, 1]}
    # These data are folds, whatever the preset has.
    assert "Nadeau & Bengio" in (out / "table1.md").read_text()


def test_a_sensitivity_compares_rows_with_their_reference(
    tmp_path: Path, in_this_process: None
) -> None:
    out = tmp_path / "digits"
    done(
        *("reproduce", "sensitivity", *TINY, "--rows", "alpha,weak", "--suite", "quick"),
        *("--seeds", "1", "--workers", "2", "--out", out),
    )
    alpha, weak = json.loads((out / "sensitivity.json").read_text())["studies"]
    reference, doubled, _ = alpha["rows"]
    assert reference["name"] == alpha["reference"] == "lrat-saa+cw-beta-0.5-c-0.1"
    assert doubled["farthest"] == 0, "alpha cancels under Eq. 15, exactly for a power of two"
    assert doubled["contrast"]["difference"] == 0
    assert [row["name"] for row in weak["rows"]] == ["sat-step-eps-10-decay-0.0002", "pgd+fgsm"]
    assert set(weak["rows"][1]["weights"]) == {"pgd", "fgsm"}
    text = (out / "sensitivity.md").read_text()
    assert "## Alpha cancels" in text
    assert "| reference |" in text
    assert not (out / "runs").exists()
    done(
        *("reproduce", "sensitivity", *TINY, "--rows", "weak", "--suite", "quick"),
        *("--seeds", "1", "--workers", "1", "--out", out),
    )
    kept = json.loads((out / "sensitivity.json").read_text())["studies"]
    assert kept == [alpha, weak], "what another call made is not lost"
