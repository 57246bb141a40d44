"""The core needs torch and numpy alone: another process blocks all other packages."""

import subprocess
import sys
from pathlib import Path

BLOCK = """
import sys

# What torch itself requires or brings.
ALLOWED = {
    "torch", "numpy", "functorch", "torchgen", "typing_extensions", "sympy", "mpmath", "networkx",
    "jinja2", "markupsafe", "fsspec", "filelock", "setuptools", "pkg_resources", "triton", "cuda",
    "nvidia", "cython_runtime", "lrat",
}


def blocked(name):
    top = name.partition(".")[0]
    return not (top in ALLOWED or top in sys.stdlib_module_names or top.startswith("_"))


class Without:
    # Does not find what is blocked, as if it were not installed.

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if blocked(name) else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
for name in [name for name in sys.modules if blocked(name)]:
    del sys.modules[name]
for name in ("scipy", "sklearn", "torchvision", "pydantic", "yaml", "jaxtyping", "pyarrow"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        pass
    else:
        raise AssertionError(f"{name} is not blocked")
"""

IMPORTS = """
import importlib
import pkgutil

import lrat
from torch import Tensor

ABOVE = {
    f"lrat.{name}"
    for name in ("__main__", "cli", "reproduce", "experiments", "reporting", "runs", "config")
}
names = [module.name for module in pkgutil.iter_modules(lrat.__path__, "lrat.")]
for package in [importlib.import_module(name) for name in names if name not in ABOVE]:
    for module in pkgutil.walk_packages(getattr(package, "__path__", []), package.__name__ + "."):
        importlib.import_module(module.name)
for needed in ("attacks.apgd", "methods", "training.loop", "evaluation.evaluate", "data.arrays"):
    assert f"lrat.{needed}" in sys.modules, needed
assert lrat.types.Images is Tensor
"""

WORK = """
import sys
from pathlib import Path

import numpy as np
import torch

from lrat.data import InMemory, image_data, in_order
from lrat.evaluation import evaluate_suite, quick
from lrat.methods import Simulated, lrat
from lrat.models import SmallCNN
from lrat.objectives import StepContext
from lrat.randomness import Keyed, keys
from lrat.threat import Linf
from lrat.training import Optimisation, Storage, train
from lrat.types import Batch

folder = Path(sys.argv[1])
pixels = np.random.default_rng(0).integers(0, 256, (24, 8, 8), dtype=np.uint8)
data = image_data(pixels, np.arange(24) % 4)
threat = Linf(epsilon=8 / 255)
objective = lrat(Simulated(threat=threat, steps=2, saa_steps=3), ["saa", "cw"])
model = SmallCNN(classes=4, width=2)

batch = next(iter(in_order(data, batch_size=24)))
step = StepContext(epoch=0, progress=0.0, noise=Keyed(keys(0, batch.index)))
output = objective.loss(model, batch, objective.attack(model, batch, step), step)
loss = output.total / output.normalizer
assert torch.isfinite(loss)
loss.backward()
assert all(parameter.grad is not None for parameter in model.parameters())

source = InMemory(data, batch_size=8)
storage = Storage(folder=folder / "run", identity="core", record_epochs=[1])
done = train(model, source, objective, Optimisation(epochs=1, lr=0.01), storage=storage)
assert len(done.records) == 1
found = evaluate_suite(model, in_order(data, batch_size=24), quick(threat), folder=folder / "eval")
assert 0 <= found.worst_case.value <= found.accuracy["natural"].value <= 1
assert list(folder.rglob("*.npz"))
assert not list(folder.rglob("*.parquet"))
"""


def run(code: str, *arguments: str) -> None:
    command = [sys.executable, "-W", "error", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_the_core_imports_with_torch_and_numpy_alone() -> None:
    run(BLOCK + IMPORTS)


def test_the_core_attacks_trains_and_evaluates_with_torch_and_numpy_alone(tmp_path: Path) -> None:
    """One LRAT-SAA+CW step by hand, an epoch of the loop, a suite; records become .npz."""
    run(BLOCK + WORK, str(tmp_path))
