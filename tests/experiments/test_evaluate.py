import inspect
import json
import runpy
import sys
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from builders import seeded
from experiments.commands import contents, done, lrat
from experiments.own import arrays, write_model, write_npz
from lrat.config import build
from lrat.evaluation import EvaluationResult
from lrat.runs.suites import Origin


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def only_evaluation(run: Path) -> Path:
    (folder,) = (run / "evaluations").iterdir()
    return folder


def test_quick_on_a_fixed_stratified_part_of_the_test_images(run: Path) -> None:
    out = done("evaluate", run, "--limit", "40").splitlines()
    folder = only_evaluation(run)
    assert folder.name == "selected-quick-linf-0.2-40"
    assert [line.split()[0] for line in out[2:6]] == ["natural", "pgd-20", "cw-20", "worst"]
    assert out[6] == "n 40, seed 0, Linf(epsilon=0.2); passes are means per image"
    assert out[7] == f"evidence in {folder}"
    result = EvaluationResult.from_folder(folder)
    labels = result.outcomes.under("natural").label
    assert set(np.bincount(labels)) == {4}, "digits are balanced, so is a stratified part"
    assert summary(folder)["accuracy"]["pgd-20"]["n"] == 40
    assert result.worst_case.value <= min(share.value for share in result.accuracy.values())


LAYERS = ("cli", "reproduce", "experiments", "reporting", "runs", "config")


def test_few_files_of_the_upper_layers_are_passed_before_the_first_forward(run: Path) -> None:
    visited: set[str] = set()

    def note(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        is_function = event == "call" and frame.f_code.co_flags & inspect.CO_OPTIMIZED
        if is_function and path.parent.name in LAYERS and path.parents[1].name == "lrat":
            visited.add(f"{path.parent.name}/{path.name}")
        if frame.f_code.co_name == "forward_logits":
            sys.setprofile(None)

    sys.setprofile(note)
    try:
        done("evaluate", run, "--limit", "20")
    finally:
        sys.setprofile(None)
    assert {"cli/evaluate.py", "runs/sources.py"} <= visited
    assert len(visited) <= 11, sorted(visited)


@pytest.mark.parametrize("options", [(), ("--devices", "1")], ids=["here", "in a child process"])
def test_a_suite_and_its_sources_are_made_once(
    options: tuple[str, ...], run: Path, tmp_path: Path
) -> None:
    """A file that a suite names is executed whenever that suite is made."""
    (tmp_path / "loss.py").write_text(
        "from pathlib import Path\n"
        "with open(Path(__file__).with_name('made'), 'a') as file:\n"
        "    file.write('once ')\n"
        "def loss(logits, labels):\n"
        "    return -logits.gather(1, labels[:, None])[:, 0]\n"
    )
    suite = tmp_path / "suite.yaml"
    attack = f"{{attack: pgd, steps: 2, loss: '{tmp_path}/loss.py:loss', transfer_from: '{run}'}}"
    suite.write_text(f"attacks: {{one: {attack}}}\n")
    done("evaluate", run, "--limit", "20", "--suite", suite, *options)
    assert (tmp_path / "made").read_text().split() == ["once"]


def test_one_source_serves_all_attacks_that_are_made_on_it(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[object] = []
    checked: list[object] = []
    of, check_fit = Origin.of, build.check_fit
    monkeypatch.setattr(Origin, "of", lambda name: (opened.append(name), of(name))[1])
    monkeypatch.setattr(
        build, "check_fit", lambda *given: (checked.append(given[0]), check_fit(*given))[1]
    )
    suite = tmp_path / "suite.yaml"
    attack = f"{{attack: pgd, steps: 2, transfer_from: '{run}'}}"
    suite.write_text(f"attacks: {{one: {attack}, other: {attack}}}\n")
    done("evaluate", run, "--limit", "20", "--suite", suite)
    assert opened == [str(run)]
    # The run's model when it is opened, its source likewise, and the source on these images.
    assert len(checked) == 3


def test_a_finished_evaluation_is_read_back(run: Path) -> None:
    first = done("evaluate", run, "--limit", "20")
    before = contents(run)
    modified = {path: path.stat().st_mtime_ns for path in run.rglob("outcomes/*")}
    assert done("evaluate", run, "--limit", "20") == first
    assert contents(run) == before
    assert {path: path.stat().st_mtime_ns for path in run.rglob("outcomes/*")} == modified


def test_verdicts_do_not_depend_on_the_batch_size(run: Path) -> None:
    first = done("evaluate", run, "--limit", "30")
    for path in only_evaluation(run).rglob("*"):
        if path.is_file():
            path.unlink()
    (only_evaluation(run) / "outcomes").rmdir()
    assert done("evaluate", run, "--limit", "30", "--batch-size", "7") == first


def test_a_part_that_was_lost_is_made_again(run: Path) -> None:
    first = done("evaluate", run, "--limit", "20")
    before = contents(only_evaluation(run))
    (only_evaluation(run) / "summary.json").unlink()
    next((only_evaluation(run) / "outcomes").glob("cw-20*")).unlink()
    assert done("evaluate", run, "--limit", "20") == first
    assert contents(only_evaluation(run)).keys() == before.keys()


def test_tier(run: Path) -> None:
    done("evaluate", run, "--limit", "10", "--suite", "tier")
    found = summary(only_evaluation(run))
    assert list(found["accuracy"]) == ["natural", "pgd-20", "cw-20", "apgd-ce", "apgd-t"]
    assert "targets=9" in found["identity"]["attacks"]["apgd-t"]
    assert found["passes"]["apgd-t"]["forwards"] > found["passes"]["apgd-ce"]["forwards"]


def test_checkpoints_by_name(run: Path) -> None:
    shown = {}
    for name in ("selected", "last", "epoch-1", "epoch-2"):
        out = done("evaluate", run, "--limit", "40", "--checkpoint", name).splitlines()
        shown[name] = out[:-1]
        assert out[-1].endswith(f"/{name}-quick-linf-0.2-40")
    best = json.loads((run / "model.json").read_text())["selected_epoch"]
    assert shown["last"] == shown["epoch-2"]
    assert shown["selected"] == shown[f"epoch-{best}"]
    digests = {summary(folder)["identity"]["model"] for folder in (run / "evaluations").iterdir()}
    assert len(digests) == 2


def test_another_threat_and_another_seed_have_folders_of_their_own(run: Path) -> None:
    small = done("evaluate", run, "--limit", "40", "--threat", "linf:1/255")
    large = done("evaluate", run, "--limit", "40", "--threat", "l2:4", "--seed", "3")
    names = {folder.name for folder in (run / "evaluations").iterdir()}
    assert names == {"selected-quick-linf-1-255-40", "selected-quick-l2-4-40-seed-3"}
    assert "Linf(epsilon=1/255)" in small
    assert "seed 3, L2(epsilon=4.0)" in large


def worst(out: str) -> float:
    return float(next(line for line in out.splitlines() if line.startswith("worst")).split()[2])


def test_a_larger_ball_fools_more(run: Path) -> None:
    within = [
        worst(done("evaluate", run, "--limit", "40", "--threat", f"linf:{epsilon}"))
        for epsilon in ("0.01", "0.1", "0.4")
    ]
    assert within[0] > within[1] >= within[2]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model, its weights and data, as users have them."""
    monkeypatch.chdir(tmp_path)
    write_model("model.py")
    test = arrays(45)
    np.savez("test.npz", **test)
    write_npz("all.npz")
    model = seeded(0, runpy.run_path("model.py")["make"])
    images, labels = torch.from_numpy(arrays(120)["images"]), torch.arange(120) % 3
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
    save_file(model.state_dict(), "w.safetensors")
    return tmp_path


FILE = ("evaluate", "--model-file", "model.py:make", "--threat", "linf:0.1")


def test_a_model_of_ones_own_on_arrays_of_ones_own(here: Path) -> None:
    command = (*FILE, "--weights", "w.safetensors", "--data", "npz:test.npz")
    out = done(*command)
    assert "n 45, seed 0, Linf(epsilon=0.1)" in out
    assert "natural         100.00" in out
    assert {path.name for path in here.iterdir()} == {
        "model.py",
        "test.npz",
        "all.npz",
        "w.safetensors",
    }, "nothing is written unless asked for"
    kept = done(*command, "--out", "kept")
    assert kept.startswith(out)
    assert kept.splitlines()[-1] == "evidence in kept/model-quick-linf-0.1-45"
    assert summary(here / "kept" / "model-quick-linf-0.1-45")["images"] == 45
    assert done(*command, "--out", "kept") == kept


def test_a_data_set_with_training_images_is_tested_on_its_test_images(here: Path) -> None:
    command = (*FILE, "--weights", "w.safetensors")
    of_both = done(*command, "--data", "npz:all.npz")
    assert of_both == done(*command, "--data", "npz:test.npz")


def test_a_model_without_weights_is_the_same_each_time(here: Path) -> None:
    command = (*FILE, "--data", "npz:test.npz")
    assert done(*command) == done(*command)


@pytest.mark.parametrize(
    "options",
    [
        ("--weights", "w.safetensors"),
        ("--out", "elsewhere"),
        ("--model-file", "model.py:make"),
    ],
)
def test_options_that_a_run_makes_meaningless_are_refused(
    options: tuple[str, str], trained: Path
) -> None:
    before = contents(trained)
    complaint = lrat("evaluate", trained, *options).complaint
    assert complaint.startswith("name either a run folder, whose model and data are known, or")
    assert contents(trained) == before
