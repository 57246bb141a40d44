"""The script for GPUs at a tiny size on this processor: it measures, and survives failures."""

import json
import logging
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import pytest
import torch

from test_core_dependencies import BLOCK

FOLDER = Path(__file__).parents[2] / "benchmarks"
MODULES = ("gpu", "gpu_rows", "subjects")


@pytest.fixture(scope="module")
def gpu() -> Iterator[ModuleType]:
    """The script as a module, and the paths and modules of this process as they were."""
    paths = list(sys.path)
    sys.path.insert(0, str(FOLDER))
    try:
        import gpu

        yield gpu
    finally:
        sys.path[:] = paths
        for name in MODULES:
            sys.modules.pop(name, None)


@pytest.fixture
def size(gpu: ModuleType):
    return gpu.Size.tiny()


def child(line: str) -> list[str]:
    return [sys.executable, "-c", line]


def test_a_tiny_run_needs_no_gpu_and_writes_what_it_prints(
    gpu: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stem = tmp_path / "deep" / "gpu"
    monkeypatch.setattr(sys, "argv", ["gpu.py", "--tiny", "--out", str(stem)])
    monkeypatch.setattr(gpu.gpu_rows, "allow_fast_float32", lambda: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(
        gpu, "VARIANTS", [each for each in gpu.VARIANTS if each.name != "plain model, float32"]
    )
    gpu.main()
    printed = capsys.readouterr().out
    assert stem.with_suffix(".md").read_text() == printed
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in table} == {10}
    rows = json.loads(stem.with_suffix(".json").read_text())["rows"]
    folded = {
        (row["what"], row["batch"]): row for row in rows if row["variant"] == "bfloat16, folded"
    }
    assert set(folded) == {(what, size) for what in ("SAT", "LRAT-SAA", "PGD") for size in (2, 4)}
    for row in folded.values():
        assert row["error"] is None
        assert row["seconds_per_epoch"] == pytest.approx(row["seconds"] * 50_000 / row["batch"])
    passes = {what: folded[what, 4]["passes_per_image"] for what in ("SAT", "LRAT-SAA", "PGD")}
    assert passes == {"SAT": "3 + 3", "LRAT-SAA": "11 + 7", "PGD": "2 + 2"}
    # Forwards, gradients of inputs and of weights, at the FLOP of a forward each.
    assert folded["SAT", 2]["flop"] == folded["PGD", 2]["flop"] / 4 * 7
    if not torch.cuda.is_available():
        errors = {row["error"] for row in rows if row["variant"] == "bfloat16, folded, graphs"}
        assert errors == {"skipped: CUDA graphs need CUDA"}
    if find_spec("torchattacks") is None:
        errors = {row["error"] for row in rows if row["variant"] == "torchattacks"}
        assert errors == {"skipped: there is no torchattacks here"}


def test_it_needs_torch_numpy_and_this_repository_alone(gpu: ModuleType, size) -> None:
    """Everything else is blocked in the process."""
    variant = next(each for each in gpu.VARIANTS if each.name == "bfloat16, folded")
    script = gpu.child_command(variant, tiny=True)[1:]
    run = f"""
import runpy

ALLOWED |= {set(MODULES)}
sys.argv = {script}
sys.path.insert(0, {str(FOLDER)!r})
runpy.run_path(sys.argv[0], run_name="__main__")
"""
    done = subprocess.run(child(BLOCK + run), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(row["what"], row["batch"]) for row in rows] == variant.cases(size)
    assert {row["error"] for row in rows} == {None}


def test_a_variant_that_raises_is_a_row_and_the_next_case_goes_on(gpu: ModuleType, size) -> None:
    class Broken(gpu.Variant):
        def view(self, model, images):
            if len(images) == 2:
                raise RuntimeError("out of |memory")
            return model

    rows = list(gpu.gpu_rows.rows(Broken(name="broken", steps=False), size))
    assert [row.batch for row in rows] == [2, 4]
    assert rows[0].error == "RuntimeError: out of |memory"
    assert rows[1].error is None
    assert rows[1].seconds is not None
    facts = {
        "command": "",
        "device": "",
        "torch": "",
        "peak_flop_per_second": 1.0,
        "forward_flop_per_image": 1.0,
    }
    text = gpu.render(facts, [gpu.record(row, 1.0) for row in rows], size)
    assert "out of /memory" in text


def test_what_the_view_warns_of_is_told(gpu: ModuleType, size) -> None:
    class Eager(gpu.Variant):
        def view(self, model, images):
            logging.getLogger("lrat.acceleration.graphs").warning("it runs %s", "eagerly")
            return model

    rows = list(gpu.gpu_rows.rows(Eager(name="eager", steps=False), size))
    assert {row.warning for row in rows} == {"it runs eagerly"}
    assert {row.error for row in rows} == {None}


def test_a_process_that_dies_leaves_its_rows_and_its_last_words(gpu: ModuleType, size) -> None:
    variant = gpu.VARIANTS[0]
    row = json.dumps({"what": "SAT", "batch": 2, "variant": variant.name, "seconds": 1.5})
    line = f"import sys; print({row!r}); print('noise'); sys.exit('the device is gone')"
    rows = gpu.measure(variant, size, child(line), 60)
    assert {(row.what, row.batch) for row in rows} == set(variant.cases(size))
    assert rows[0].seconds == 1.5
    assert rows[0].error is None
    assert {row.error for row in rows[1:]} == {"exit status 1: the device is gone"}


def test_a_process_that_hangs_is_stopped(
    gpu: ModuleType, size, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "LEAST_PER_VARIANT", 0.0)
    rows = gpu.measure(gpu.VARIANTS[0], size, child("import time; time.sleep(600)"), 0.2)
    assert {row.error for row in rows} == {"stopped after 0 s"}


def test_without_time_or_a_needed_module_nothing_is_started(gpu: ModuleType, size) -> None:
    plain = gpu.VARIANTS[0]
    rows = gpu.measure(plain, size, ["/no/such/program"], 1.0)
    assert {row.error for row in rows} == {"skipped: no time left"}
    needy = gpu.Variant(name="needy", needs="no.such.module")
    rows = gpu.measure(needy, size, ["/no/such/program"], 100.0)
    assert {row.error for row in rows} == {"skipped: there is no no.such.module here"}


def test_no_gpu_is_one_line(gpu: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    monkeypatch.setattr(sys, "argv", ["gpu.py"])
    monkeypatch.setattr(gpu.gpu_rows, "allow_fast_float32", lambda: None)
    with pytest.raises(SystemExit, match=r"^no CUDA device here: --tiny shows"):
        gpu.main()
