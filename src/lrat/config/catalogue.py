"""The names that commands and configurations know, each with a line of what it is; no torch here.

``build`` maps every one of them to an object; a test holds the two together. ``run_name`` and
``slug`` say what suites and runs are called in folders.
"""

from collections.abc import Mapping
from pathlib import Path

from lrat.errors import UnknownNameError
from lrat.threat.norms import threat_parts

METHODS: Mapping[str, str] = {
    "natural": "clean images only",
    "sat": "standard adversarial training: PGD, weight 1 (Madry et al. 2018)",
    "gairat": "PGD weighted by steps survived, after a bootstrap period (Zhang et al. 2021)",
    "gairat-cw": "GAIRAT with CW as the simulated attack (the paper's Figure 6)",
    "lsat-cw": "CW, weight 1",
    "lsat-saa": "SAA, weight 1",
    "lsat-saa+cw": "SAA and CW, weight 1 each: what lrat-saa+cw is without its weights",
    "lrat-pgd": "PGD weighted by its own margin",
    "lrat-cw": "CW weighted by its own margin",
    "lrat-saa": "SAA weighted by its own margin",
    "lrat-saa+cw": "SAA and CW, each weighted by its own margin: the paper's LRAT",
    "gd+cw": "lrat-cw plus a PGD variant weighted by steps survived (Table 2)",
    "gd+saa": "lrat-saa plus a PGD variant weighted by steps survived (Table 2)",
    "saa+cw+gd": "lrat-saa+cw plus a PGD variant weighted by steps survived (Table 2)",
    "pgd+fgsm": "sat with a weak attack's images mixed in, weight 1 each (Appendix D)",
    "trades": "clean cross-entropy plus divergence to the attacked image (Zhang et al. 2019)",
}
ALIASES: Mapping[str, str] = {"lsat-pgd": "sat", "saa+cw": "lrat-saa+cw"}
ATTACKS: Mapping[str, str] = {
    "pgd-N": "PGD on cross-entropy: N steps of epsilon / 4, uniform start",
    "cw-N": "PGD on the logit margin: N steps of epsilon / 4, uniform start",
    "apgd-ce": "Auto-PGD on cross-entropy, 100 steps",
    "apgd-t": "Auto-PGD on the targeted DLR loss, 100 steps towards each of 9 classes",
    "fab-t": "targeted FAB: the nearest misclassified image, 100 steps towards each of 9 classes",
    "square": "Square: random search without gradients, 5,000 queries",
    "autoattack": "apgd-ce, apgd-t, fab-t and square, each on what the ones before left",
    "saa": "the paper's short targeted Auto-PGD, 20 steps, 3 targets (used in training)",
}
SUITES: Mapping[str, str] = {
    "quick": "natural, pgd-20, cw-20",
    "tier": "quick, apgd-ce and apgd-t: the two Auto-PGD members of AutoAttack",
    "paper": "quick and AutoAttack: the columns of the paper's tables",
    "strong": "paper, PGD-100 with 10 restarts, PGD-20 on logits times .1, 1, 10 and 100",
    "FILE.yaml": "attacks of your own choice: see docs/evaluation.md",
}
DATA: Mapping[str, str] = {
    "digits": "1,797 handwritten digits 8x8, bundled with scikit-learn; test fold = seed mod 5",
    "mnist": "MNIST in torchvision's files under data.root",
    "fashion-mnist": "Fashion-MNIST in torchvision's files under data.root",
    "cifar10": "CIFAR-10 in torchvision's files under data.root",
    "npz:PATH": "your own arrays: train_images, train_labels, test_images, test_labels",
}
MODELS: Mapping[str, str] = {
    "small-cnn": "three convolutions with BatchNorm, for 8x8 to 32x32 images",
    "resnet-18": "ResNet-18 in CIFAR form (11.17 M parameters at width 64)",
    "FILE.py:FUNCTION": "your own: a function in your file that returns an nn.Module",
}
DEFAULT_THREAT: Mapping[str, str] = {
    "digits": "linf:0.2",
    "mnist": "linf:0.3",
    "fashion-mnist": "linf:0.1",
    "cifar10": "linf:8/255",
}
CATALOGUES: Mapping[str, Mapping[str, str]] = {
    "methods": METHODS,
    "attacks": ATTACKS,
    "suites": SUITES,
    "data": DATA,
    "models": MODELS,
}

SPLIT_BY_SEED = "digits"
"""The data set whose test images depend on the training seed."""
FOLD_OVERLAP = 1 / 4
"""Its test images by its training images: one fold of five against the other four."""


def resolve_method(name: str) -> str:
    """The method's own name, aliases resolved."""
    resolved = ALIASES.get(name, name)
    if resolved not in METHODS:
        raise UnknownNameError("method", name, [*METHODS, *ALIASES])
    return resolved


def names_users_code(name: str) -> bool:
    """Whether a name means something in a user's file, as ``FILE.py:NAME``."""
    return ".py:" in name


def check_data_name(name: str) -> str:
    if not name.startswith("npz:") and name not in DATA:
        raise UnknownNameError("data", name, DATA)
    return name


def check_model_name(name: str) -> str:
    if not names_users_code(name) and name not in MODELS:
        raise UnknownNameError("model", name, MODELS)
    return name


def check_suite_name(name: str) -> str:
    if name not in SUITES or name == "FILE.yaml":
        raise UnknownNameError("suite", name, SUITES)
    return name


def canonical_threat(text: str) -> str:
    """One spelling for one threat: ``linf:0.20`` and ``linf:51/255`` are ``linf:0.2``."""
    norm, epsilon = threat_parts(text)
    return norm.threat(epsilon)


def run_name(run: Path | str) -> str:
    """A run folder's own name, also for ``.`` and ``runs/a/``."""
    return Path(run).resolve().name


def names_a_file(name: str) -> bool:
    """Whether a suite's name means a YAML file."""
    return name.endswith((".yaml", ".yml"))


def check_suite(name: str) -> str:
    """``UnknownNameError`` for a suite that is neither known nor a file, before anything else."""
    return name if names_a_file(name) else check_suite_name(name)


def slug(name: str) -> str:
    """A suite's name in the names of folders: of a file its stem, told apart from ours."""
    if not names_a_file(name):
        return name
    stem = Path(name).stem
    return f"{stem}-file" if stem in SUITES else stem
