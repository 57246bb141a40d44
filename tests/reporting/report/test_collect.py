"""What runs have stored, collected for a report."""

import shlex
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from experiments.commands import lrat, python
from lrat.config.settings import load_config, parse_assignments, read_settings
from lrat.errors import ConfigurationError, RunFolderError, UnknownNameError
from lrat.evaluation import compare
from lrat.evaluation.result import EvaluationResult
from lrat.files.write import write_json
from lrat.reporting.report import write_run_report
from lrat.reporting.report.collect.locate import weights_digest as digest_of_file
from lrat.reporting.report.collect.summary import summary
from lrat.reporting.report.collect.training import images_behind
from lrat.reporting.report.records import Overfitting, RunRecord
from lrat.runs.folder import keep_command
from lrat.runs.weights import weights_digest
from reporting.report.reported import make_evaluation, make_run, only, report, write_weights


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs on the same images: two that do not differ significantly, one that is worse."""
    folder = tmp_path_factory.mktemp("three")
    for name, method, robust in (
        ("best", "lrat-saa+cw", 62),
        ("close", "sat", 60),
        ("worse", "gairat", 30),
    ):
        make_evaluation(make_run(folder / name, method), robust, gallery=10)
    return folder


def test_a_run_is_shown_with_its_numbers(three: Path) -> None:
    record = report(three / "best")
    run = only(record)
    assert (run.name, run.method, run.state) == ("best", "lrat-saa+cw", "evaluated")
    assert (run.data, run.model, run.threat) == ("digits", "small-cnn", "linf:0.2")
    (evaluation,) = run.evaluations
    assert [each.name for each in evaluation.attacks] == ["natural", "pgd-20", "autoattack"]
    assert [each.share.value for each in evaluation.attacks] == [0.9, 0.67, 0.62]
    stages = evaluation.attacks[2].stages
    assert {name: share.value for name, share in stages.items()} == {
        "apgd-ce": 0.64,
        "square": 0.62,
    }
    assert evaluation.worst_case.value == 0.62
    assert evaluation.worst_case.low < 0.62 < evaluation.worst_case.high
    assert (evaluation.images, evaluation.checkpoint, evaluation.suite) == (
        100,
        "selected",
        "paper",
    )
    assert list(run.epochs) == [1, 2, 3]
    assert run.accuracy["monitored, pgd-20"] == {1: 0.4, 2: 0.5, 3: 0.6}
    assert run.accuracy["training, clean"] == dict.fromkeys((1, 2, 3), 0.9)
    assert run.selected_epoch == 3
    assert run.cost is not None
    assert (run.cost.seconds, run.cost.epochs, run.cost.parameters) == (6.0, 3, 1234)
    assert run.cost.passes == {"attack forwards": 10.0, "update forwards": 1.0}
    assert run.config == (three / "best" / "config.yaml").read_text()
    assert run.environment["torch"] == "2.8"
    assert run.problems == []


def test_groups_hold_what_may_be_compared_and_what_tests_say(three: Path) -> None:
    record = report(three)
    (group,) = record.groups
    assert list(group.runs) == ["best", "close", "worse"]
    assert group.title == "digits of seed 0, 100 images, Linf(epsilon=0.2), suite paper"
    worst = {(a, b): each for a, b, each in group.pairs if each.name == "worst case"}
    assert set(worst) == {("best", "close"), ("best", "worse"), ("close", "worse")}
    one, other = (EvaluationResult.from_folder(_evaluation(three / n)) for n in ("best", "worse"))
    found = worst["best", "worse"]
    assert replace(found, p_adjusted=None, rows=1) == replace(
        compare(one, other).contrasts["worst case"], p_adjusted=None, rows=1
    )
    assert found.p_adjusted == pytest.approx(3 * found.p), "the smallest of three, after Holm"
    assert found.significant
    assert not worst["best", "close"].significant
    assert record.summary[:3] == [
        "best has the best worst case: 62.0 % [52.2, 70.9] of 100 images.",
        "close does not differ significantly from best on 100 images.",
        "best is better than worse by 32.0 points (p <.0001).",
    ]


def _evaluation(run: Path) -> Path:
    (folder,) = (run / "evaluations").iterdir()
    return folder


def test_other_images_threats_and_suites_are_groups_of_their_own(tmp_path: Path) -> None:
    for name, settings in (
        ("a", {}),
        ("b", {}),
        ("other-data", {"data": "e" * 64}),
        ("other-threat", {"threat": "Linf(epsilon=8/255)"}),
        ("other-suite", {"suite": "quick"}),
        ("fewer", {"images": 50, "clean": 40}),
    ):
        make_evaluation(make_run(tmp_path / name), 30, **settings)
    record = report(tmp_path)
    assert sorted(len(group.runs) for group in record.groups) == [1, 1, 1, 1, 2]
    assert list(record.groups[0].runs) == ["a", "b"]
    told = "\n".join(record.summary)
    assert "a and b have the same worst case, the best: 30.0 %" in told
    title = record.groups[0].title
    for name, reason in (
        ("fewer", "number of images"),
        ("other-data", "test images, which follow the training seed"),
        ("other-threat", "threat"),
        ("other-suite", "suite"),
    ):
        assert f"{name} is not compared with the runs on {title}: other {reason}." in told


def test_several_seeds_are_compared_by_method(tmp_path: Path) -> None:
    for method, robust in (("sat", (50, 53, 51)), ("gairat", (30, 34, 31))):
        for seed, right in enumerate(robust):
            run = make_run(tmp_path / f"{method}-{seed}", method, seed=seed)
            make_evaluation(run, right, data=f"{seed}" * 64)
    record = report(tmp_path)
    assert record.summary[0].startswith(
        "Over 3 training seeds, sat has the best mean worst case: 51.3 % [46.3, 56.4]"
    )
    assert record.summary[1].startswith("sat is better than gairat by 19.7 points (p ")
    assert record.summary[1].endswith("over these seeds (corrected t test, Holm's correction).")
    assert len(record.groups) == 3, "each fold has images of its own"


def test_seeds_on_the_same_images_do_not_speak_of_others(tmp_path: Path) -> None:
    """Differences of 2, 3 and 2 points would be shown over seeds; 100 images cannot show them."""
    for method, robust in (("sat", (50, 53, 51)), ("gairat", (48, 50, 49))):
        for seed, right in enumerate(robust):
            settings = {"data": {"name": "mnist"}, "model": {"name": "small-cnn"}}
            run = make_run(tmp_path / f"{method}-{seed}", method, seed=seed, **settings)
            make_evaluation(run, right)
    summary = " ".join(report(tmp_path).summary)
    assert (
        "gairat does not differ significantly from sat over these seeds (paired t test" in summary
    )


def test_the_evaluation_of_most_attacks_and_images_comes_first(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    make_evaluation(run, images=200, suite="quick", clean=150)
    make_evaluation(run, images=40, clean=30, robust=20)
    make_evaluation(run, images=60, clean=50, robust=20, gallery=4)
    make_evaluation(run, images=60, clean=50, robust=21, seed=1)
    record = only(report(run))
    found = [(each.suite, each.images, each.seed) for each in record.evaluations]
    assert found == [("paper", 60, 0), ("paper", 60, 1), ("paper", 40, 0), ("quick", 200, 0)]
    assert len({each.group for each in record.evaluations}) == 4, "a run is in a group once"
    quick = only(report(run, suite="quick"))
    assert [each.suite for each in quick.evaluations] == ["quick"]
    with pytest.raises(RunFolderError, match="no run has an evaluation of tier"):
        report(run, suite="tier")
    with pytest.raises(UnknownNameError, match="did you mean 'paper'"):
        report(run, suite="papr")


def test_the_gallery_shows_what_each_attack_made_of_an_image(three: Path) -> None:
    found = only(report(three / "best")).gallery
    assert found is not None
    assert [each.index for each in found.images] == list(range(0, 100, 10))
    assert (found.norm, found.epsilon) == ("Linf", 0.2)
    assert found.about.startswith("10 of 100 test images of paper")
    assert found.class_names == [str(each) for each in range(10)]
    by_index = {each.index: each for each in found.images}
    stands, fooled, wrong = (by_index[index] for index in (0, 70, 90))
    assert stands.image.shape == (4, 4, 1)
    assert list(stands.attacks) == ["pgd-20", "autoattack"]
    attacked = stands.attacks["autoattack"]
    assert (attacked.fooled, attacked.attacked, attacked.margin) == (False, True, 1.0)
    assert attacked.distance == pytest.approx(0.2)
    assert attacked.probabilities.sum() == pytest.approx(1)
    assert (fooled.label, fooled.attacks["pgd-20"].prediction) == (0, 1)
    assert fooled.attacks["pgd-20"].fooled
    assert wrong.natural.fooled
    assert not wrong.attacks["pgd-20"].attacked
    np.testing.assert_array_equal(wrong.attacks["pgd-20"].image, wrong.image)


def test_an_evaluation_without_images_names_the_command_that_keeps_some(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    make_evaluation(run)
    record = only(report(run))
    assert record.gallery is None
    (problem,) = record.problems
    command = f"lrat evaluate {run} --suite paper --limit 100 --gallery 32"
    assert problem == f"No images were kept; `{command}` keeps some."


def test_an_image_whose_verdict_is_not_the_outcomes_is_not_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    make_evaluation(run, gallery=10)
    (part,) = _evaluation(run).glob("gallery/*.npz")
    with np.load(part) as held:
        columns = dict(held)
    at = (columns["attack"] == "pgd-20") & (columns["index"] == 0)
    columns["logits"][at] = columns["logits"][at][:, ::-1]
    np.savez(part, **columns)
    found = only(report(run)).gallery
    assert found is not None
    assert [each.index for each in found.images] == list(range(10, 100, 10))
    assert "1 more are not complete" in found.about


def test_overlap_of_fooled_images_is_beside_what_chance_would_give(three: Path) -> None:
    (found,) = only(report(three / "best")).overlap
    assert list(found.names) == ["pgd-20", "autoattack"]
    assert found.jaccard[0][1] == pytest.approx(23 / 28), "90 are right, 67 and 62 stand"
    assert 0 < found.chance[0][1] < found.jaccard[0][1]
    assert "of 90 test images" in found.about


def test_an_analysis_of_earlier_weights_says_so(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    present = weights_digest(load_file(run / "model.safetensors"))
    pair = {"jaccard": 0.5, "chance": {"jaccard": 0.1}}
    pairs = dict.fromkeys(("v_gd-v_cw", "v_gd-v_pgd", "v_pgd-v_cw"), pair)
    for name, model in (("selected-train-40", "0" * 64), ("selected-train-40-1234abcd", present)):
        folder = run / "analysis" / name
        about = {"part": "train", "checkpoint": "selected", "identity": {"model": model}}
        write_json(folder / "summary.json", about)
        write_json(folder / "overlap.json", {"size": 8, "n": 40, "pairs": pairs})
    earlier, now = only(report(run)).overlap
    assert "earlier weights" in earlier.about
    assert "earlier weights" not in now.about


@pytest.mark.parametrize(
    ("monitored", "marked"),
    [((0.31, 0.7, 0.4), True), ((0.31, 0.5, 0.48), False), ((0.31, 0.4, 0.5), False)],
)
def test_lost_robust_accuracy_is_marked_beyond_noise(
    tmp_path: Path, monitored: tuple[float, ...], marked: bool
) -> None:
    record = report(make_run(tmp_path / "run", monitored=monitored))
    found = only(record).overfitting
    assert found is not None
    assert (found.best, found.last, found.marked) == (max(monitored), monitored[-1], marked)
    assert any("lost robust accuracy" in sentence for sentence in record.summary) == marked


def test_the_images_behind_shares_are_their_common_denominator() -> None:
    assert images_behind([0.25, 1 / 3]) == 12
    assert images_behind([k / 360 for k in (71, 330)]) == 360
    assert images_behind([0.0, 1.0]) is None
    assert images_behind([2**-0.5]) is None


def test_weights_that_changed_since_they_were_evaluated_are_told(tmp_path: Path) -> None:
    """The digest of a file is that of its tensors."""
    run = make_run(tmp_path / "run")
    weights = {
        "b.weight": torch.arange(6.0).reshape(2, 3),
        "a": torch.tensor(3),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    write_weights(run, save(weights))
    digest = weights_digest(weights)
    assert digest_of_file((run / "model.safetensors").read_bytes()) == digest
    make_evaluation(run, model="0" * 64)
    make_evaluation(run, images=60, clean=50, robust=20, model=digest)
    found = only(report(run)).evaluations
    assert [each.images for each in found] == [60, 100], "the present weights first"
    assert found[0].notes == []
    assert "earlier weights" in found[1].notes[0]


def test_places_are_runs_evaluations_or_folders_of_runs(three: Path, tmp_path: Path) -> None:
    names = [run.name for run in report(three).runs]
    assert names == ["best", "close", "worse"]
    assert [run.name for run in report(three / "best", three, three / "best").runs] == names
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "runs").symlink_to(three)
    assert [run.name for run in report(tmp_path / "results").runs] == names
    alone = report(_evaluation(three / "best"))
    assert [run.name for run in alone.runs] == ["best"]
    other = make_run(tmp_path / "best")
    twice = report(three / "best", other).runs
    assert [run.name for run in twice] == [f"{three.name}/best", f"{tmp_path.name}/best"]


def test_commands_make_the_run_again(tmp_path: Path) -> None:
    settings = {
        "data": {"validation": 0.0, "train_limit": 100},
        "training": {"epochs": 3, "drops": {0.5: 0.1}, "monitor": {"attacks": ("pgd-20",)}},
        "attack": {"saa_keep": {6: 1}},
        "seed": 4,
        "threat": "l2:0.5",
    }
    run = make_run(tmp_path / "a run", "lrat-saa", **settings)
    (command,) = only(report(run)).commands
    words = shlex.split(command)
    assert words[:3] == ["lrat", "train", "lrat-saa"]
    assert words[-2:] == ["--out", str(run)]
    options = dict(zip(words[3:-2:2], words[4:-2:2], strict=True))
    assert options["--threat"] == "l2:0.5"
    assigned = [value for name, value in pairwise(words) if name == "--set"]
    again = load_config(
        {
            "method": {"name": words[2]},
            "data": {"name": options["--data"]},
            "model": {"name": options["--model"]},
            "threat": options["--threat"],
            "seed": int(options["--seed"]),
            "training": {"epochs": int(options["--epochs"])},
        },
        parse_assignments(assigned),
    )
    assert again == load_config(read_settings(run / "config.yaml"))


def test_commands_are_those_that_were_typed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    evaluation = make_evaluation(run, gallery=3)
    typed = ["lrat train sat --out 'a run; rm -rf /'", "lrat -v evaluate 'a run' --suite paper"]
    for folder, command in zip((run, evaluation), typed, strict=True):
        keep_command(folder, command)
    record = only(report(run))
    assert (record.commands, record.problems) == (typed, [])
    for folder, harmful in ((run, "lrat train; rm -rf /"), (evaluation, "rm 'lrat")):
        keep_command(folder, harmful)
    record = only(report(run))
    assert record.commands[1] == f"lrat evaluate {run} --suite paper"
    assert record.commands[0].startswith("lrat train sat --data digits")
    assert ["is no command of lrat" in each for each in record.problems] == [True, True]
    keep_command(run, None)
    assert not (run / "command.txt").exists()
    keep_command(evaluation, typed[1])
    stored = (evaluation / "command.txt").read_text()
    (evaluation / "command.txt").write_text(stored.replace("paper", "quick"))
    assert "is damaged: its digest differs" in only(report(run)).problems[0]


def test_the_command_writes_a_page_and_says_where(three: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.html"
    answer = lrat("report", three, "--out", out, "--title", "Ours")
    assert answer.status == 0, answer.err
    assert answer.out.splitlines()[0].startswith("best has the best worst case")
    assert f"3 runs, {out.stat().st_size / 1e6:.1f} MB" in answer.out.splitlines()[-1]
    assert answer.out.rstrip().endswith(str(out))
    assert "<title>Ours</title>" in out.read_text()
    assert "is a folder" in lrat("report", three, "--out", tmp_path).complaint
    assert "name the runs" in lrat("report", "--out", out).complaint
    (tmp_path / "file").write_text("x")
    assert "cannot write" in lrat("report", three, "--out", tmp_path / "file" / "r.html").complaint
    written = write_run_report([three], out)
    assert (written.runs, written.size) == (3, out.stat().st_size)


def test_only_a_page_is_overwritten(three: Path, tmp_path: Path) -> None:
    ours = tmp_path / "config.yaml"
    ours.write_text("method: mine")
    with pytest.raises(ConfigurationError, match="no page of HTML: name another file"):
        write_run_report([three], ours)
    assert ours.read_text() == "method: mine"
    with pytest.raises(ConfigurationError, match="no plain file"):
        write_run_report([three], "/dev/null")
    page = tmp_path / "report.html"
    page.write_text("<!DOCTYPE html>")
    assert write_run_report([three], page).size == page.stat().st_size


def test_a_report_loads_no_torch(three: Path, tmp_path: Path) -> None:
    loaded = python(
        "import sys; from lrat.reporting.report import write_run_report; "
        f"write_run_report([{str(three)!r}], {str(tmp_path / 'report.html')!r}); "
        "print('torch' in sys.modules)"
    )
    assert loaded == "False\n"


def test_several_losses_of_robust_accuracy_are_one_sentence() -> None:
    runs = [
        RunRecord(
            name=name,
            folder=name,
            method="gairat",
            state="trained",
            data="digits",
            model="small-cnn",
            threat="linf:0.2",
            training_seed=seed,
            overfitting=Overfitting(
                on="pgd-20 on test images", best_epoch=9, best=0.6, last=last, n=360, marked=True
            ),
        )
        for seed, (name, last) in enumerate({"a": 0.5, "b": 0.4, "c": 0.45}.items())
    ]
    (told,) = [sentence for sentence in summary(runs, [], []) if "robust accuracy" in sentence]
    assert told.startswith("b lost robust accuracy")
    assert "from 60.0 % (epoch 9) to 40.0 %" in told
    assert told.endswith("So, less, did a and c.")
