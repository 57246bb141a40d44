"""The names that commands and configurations know: one row each; no torch here.

A row says what the name is, what makes its object, and which settings that takes.
``run_name`` and ``slug`` say what suites and runs are called in folders.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from lrat.errors import UnknownNameError
from lrat.threat.norms import threat_parts


@dataclass(frozen=True)
class Row:
    """A name's row. ``about``: its line in ``lrat list``; without one it is not listed.

    ``make``: ``module:name`` of the class or function, imported when used; ``takes``, the settings
    that it takes. Methods: ``value`` is the objective as a configuration writes it
    (``config/method.py``), with an ``Option`` where a setting of ``MethodSettings`` goes. Attacks:
    ``by_steps`` have a number of steps in their name and a step of epsilon / 4; ``member`` is that
    of the cascade which ``make`` makes.
    Models: ``threads`` of a run by default. Data: ``default_threat``; ``augment`` by default;
    ``folds_by_seed``: the test images depend on the seed.
    """

    about: str
    make: str = ""
    value: Mapping[str, Any] = field(default_factory=dict)
    takes: tuple[str, ...] = ()
    by_steps: bool = False
    member: str | None = None
    threads: int | None = None
    default_threat: str | None = None
    augment: bool = False
    folds_by_seed: bool = False

    @property
    def target(self) -> Any:
        """What ``make`` names."""
        module, _, name = self.make.partition(":")
        return getattr(import_module(module), name)

    def build(self, *positional: Any, **named: Any) -> Any:
        """What ``make`` returns for these arguments."""
        return self.target(*positional, **named)


@dataclass(frozen=True)
class Option:
    """In a method's value: the setting of ``MethodSettings`` that goes there."""

    name: str


_MARGIN = {"name": "margin", "alpha": Option("alpha"), "beta": Option("beta")}
_GEOMETRY = {"name": "geometry", "lambda_": Option("gairat_lambda")}
_FLOOR = {name: Option(name) for name in ("min_weight", "normalization", "anchor")}


def _terms(*attacks: str, weighting: Any = "uniform") -> list[dict[str, Any]]:
    return [{"attack": attack, "weighting": weighting} for attack in attacks]


def _lsat(about: str, *attacks: str) -> Row:
    return Row(about, value={"terms": _terms(*attacks)})


def _lrat(about: str, *attacks: str) -> Row:
    return Row(about, value={"terms": _terms(*attacks, weighting=_MARGIN), **_FLOOR})


def _by_steps(about: str, counted: str, *attacks: str) -> Row:
    """The attack ``counted`` is weighted by the steps survived, with weight 1 at first."""
    margins = _terms(*attacks, weighting=_MARGIN)
    weightings: dict[Any, Any] = {0.0: "uniform", Option("gairat_begin"): _GEOMETRY}
    phases = [
        {
            "begin": begin,
            "terms": [*margins, *_terms(counted, weighting=weighting)],
            **(_FLOOR if attacks else {}),
        }
        for begin, weighting in weightings.items()
    ]
    return Row(about, value={"phases": phases})


def _gd(of: str, *attacks: str) -> Row:
    about = f"{of} plus a PGD variant weighted by steps survived (Table 2)"
    return _by_steps(about, "pgd", *attacks)


METHODS: Mapping[str, Row] = {
    "natural": Row("clean images only", value={"terms": [], "min_weight": 1.0, "anchor": "clean"}),
    "sat": _lsat("standard adversarial training: PGD, weight 1 (Madry et al. 2018)", "pgd"),
    "gairat": _by_steps(
        "PGD weighted by steps survived, after a bootstrap period (Zhang et al. 2021)", "pgd"
    ),
    "gairat-cw": _by_steps("GAIRAT with CW as the simulated attack (the paper's Figure 6)", "cw"),
    "lsat-cw": _lsat("CW, weight 1", "cw"),
    "lsat-saa": _lsat("SAA, weight 1", "saa"),
    "lsat-saa+cw": _lsat(
        "SAA and CW, weight 1 each: what lrat-saa+cw is without its weights", "saa", "cw"
    ),
    "lrat-pgd": _lrat("PGD weighted by its own margin", "pgd"),
    "lrat-cw": _lrat("CW weighted by its own margin", "cw"),
    "lrat-saa": _lrat("SAA weighted by its own margin", "saa"),
    "lrat-saa+cw": _lrat(
        "SAA and CW, each weighted by its own margin: the paper's LRAT", "saa", "cw"
    ),
    "gd+cw": _gd("lrat-cw", "cw"),
    "gd+saa": _gd("lrat-saa", "saa"),
    "saa+cw+gd": _gd("lrat-saa+cw", "saa", "cw"),
    "pgd+fgsm": _lsat(
        "sat with a weak attack's images mixed in, weight 1 each (Appendix D)", "pgd", "fgsm"
    ),
    "trades": Row(
        "clean cross-entropy plus divergence to the attacked image (Zhang et al. 2019)",
        value={
            "objective": {
                "name": "trades",
                "attack_with": {"name": "pgd", "loss": "kl", "start": "gaussian"},
                "beta": Option("trades_beta"),
            }
        },
    ),
}
ALIASES: Mapping[str, str] = {"lsat-pgd": "sat", "saa+cw": "lrat-saa+cw"}


def _member(name: str, about: str, *takes: str) -> Row:
    return Row(about, "lrat.attacks:AutoAttack", takes=takes, member=name)


_TARGETED = "100 steps towards each of 9 classes"
_STEPS = "N steps of epsilon / 4, uniform start"
_PACE = ("steps", "step_size", "start")
ATTACKS: Mapping[str, Row] = {
    "pgd": Row(
        f"PGD on cross-entropy: {_STEPS}", "lrat.attacks:PGD", takes=(*_PACE, "loss"), by_steps=True
    ),
    "cw": Row(f"PGD on the logit margin: {_STEPS}", "lrat.attacks:CW", takes=_PACE, by_steps=True),
    "fgsm": Row("", "lrat.attacks:FGSM", takes=("start",)),
    "apgd": _member("apgd-ce", "", "steps", "start", "loss", "targets"),
    "apgd-ce": _member("apgd-ce", "Auto-PGD on cross-entropy, 100 steps"),
    "apgd-t": _member("apgd-t", f"Auto-PGD on the targeted DLR loss, {_TARGETED}"),
    "fab": _member("fab-t", "", "steps", "targets", "loss"),
    "fab-t": _member("fab-t", f"targeted FAB: the nearest misclassified image, {_TARGETED}"),
    "square": _member(
        "square", "Square: random search without gradients, 5,000 queries", "queries", "loss"
    ),
    "autoattack": Row(
        "apgd-ce, apgd-t, fab-t and square, each on what the ones before left",
        "lrat.attacks:AutoAttack",
    ),
    "saa": Row(
        "the paper's short targeted Auto-PGD, 20 steps, 3 targets (used in training)",
        "lrat.attacks:SAA",
        takes=("steps", "targets"),
    ),
}
ATTACK_KINDS = {name: row for name, row in ATTACKS.items() if row.takes or not row.member}
"""The attacks that a file builds with settings of its own: a suite's, a method's."""
WEIGHTINGS: Mapping[str, Row] = {
    "uniform": Row("weight 1 for every image", "lrat.weighting:Uniform"),
    "margin": Row(
        "alpha (1 - t)^beta of the variant's margin t (Eq. 12)",
        "lrat.weighting:MarginPower",
        takes=("alpha", "beta"),
    ),
    "geometry": Row(
        "by the steps that the image survives, of attacks that count them (Eq. 10)",
        "lrat.weighting:GeometryTanh",
        takes=("lambda_", "floored"),
    ),
}
LOSSES: Mapping[str, Row] = {
    "cross_entropy": Row("cross-entropy (Eq. 13)", "lrat.losses:cross_entropy"),
    "smoothed_cross_entropy": Row(
        "cross-entropy of smoothed labels, descended alone",
        "lrat.losses:smoothed_cross_entropy",
        takes=("smoothing",),
    ),
    "cw": Row("the logit margin (Eq. 14)", "lrat.losses:cw"),
    "dlr": Row("difference of logits ratio (Croce & Hein 2020)", "lrat.losses:dlr"),
    "targeted_dlr": Row("the same towards a class (Eq. 9)", "lrat.losses:targeted_dlr"),
    "difference": Row("a class's logit minus the label's", "lrat.losses:difference"),
    "kl": Row("divergence from the clean answer, ascended alone (TRADES)", "lrat.losses:kl"),
}
OBJECTIVES: Mapping[str, Row] = {
    "trades": Row(
        "clean cross-entropy plus divergence to the attacked image (Zhang et al. 2019)",
        "lrat.objectives:Trades",
        takes=("attack_with", "beta", "clean_twice"),
    ),
}
"""The objectives beside that of Eq. 7, whose terms a method writes out."""
SUITES: Mapping[str, Row] = {
    "quick": Row("natural, pgd-20, cw-20", "lrat.evaluation.suites:quick"),
    "tier": Row(
        "quick, apgd-ce and apgd-t: the two Auto-PGD members of AutoAttack",
        "lrat.evaluation.suites:tier",
        takes=("classes",),
    ),
    "paper": Row(
        "quick and AutoAttack: the columns of the paper's tables", "lrat.evaluation.suites:paper"
    ),
    "strong": Row(
        "paper, PGD-100 with 10 restarts, PGD-20 on logits times .1, 1, 10 and 100",
        "lrat.evaluation.suites:strong",
    ),
    "FILE.yaml": Row("attacks of your own choice: see docs/evaluation.md"),
}


def _torchvision(name: str, make: str, threat: str, *, augment: bool = False) -> Row:
    about = f"{name} in torchvision's files under data.root"
    return Row(about, make, takes=("root",), default_threat=threat, augment=augment)


DATA: Mapping[str, Row] = {
    "digits": Row(
        "1,797 handwritten digits 8x8, bundled with scikit-learn; test fold = seed mod 5",
        "lrat.data:digits",
        default_threat="linf:0.2",
        folds_by_seed=True,
    ),
    "mnist": _torchvision("MNIST", "lrat.data:mnist", "linf:0.3"),
    "fashion-mnist": _torchvision("Fashion-MNIST", "lrat.data:fashion_mnist", "linf:0.1"),
    "cifar10": _torchvision("CIFAR-10", "lrat.data:cifar10", "linf:8/255", augment=True),
    "npz:PATH": Row(
        "your own arrays: train_images, train_labels, test_images, test_labels",
        "lrat.data:load_npz",
        takes=("path",),
    ),
    "folder:PATH": Row(
        "your own image files: PATH/CLASS/IMAGE, or PATH/train/CLASS/IMAGE with val and test",
        "lrat.data:image_folder",
        takes=("path", "size", "channels"),
    ),
}
MODELS: Mapping[str, Row] = {
    "small-cnn": Row(
        "three convolutions with BatchNorm, for 8x8 to 32x32 images",
        "lrat.models:SmallCNN",
        takes=("size",),
        threads=1,
    ),
    "resnet-18": Row(
        "ResNet-18 in CIFAR form (11.17 M parameters at width 64)", "lrat.models:ResNet18"
    ),
    "preact-resnet-18": Row(
        "ResNet-18 with pre-activation (11.17 M parameters at width 64)",
        "lrat.models:preact_resnet_18",
    ),
    "wrn-28-10": Row("WRN-28-10 (36.48 M parameters at width 160)", "lrat.models:wide_resnet_28"),
    "wrn-34-10": Row("WRN-34-10 (46.16 M parameters at width 160)", "lrat.models:wide_resnet_34"),
    "resnet-50": Row("ResNet-50 for 224x224 images (25.56 M parameters)", "lrat.models:resnet_50"),
    "vit-tiny": Row(
        "ViT-tiny (5.7 M parameters at 224x224)", "lrat.models:vit_tiny", takes=("size",)
    ),
    "timm:NAME": Row(
        "a network of timm, as timm:resnet10t or timm:resnet18,drop_path_rate=0.1",
        "lrat.models:from_timm",
        takes=("name", "normalize", "size"),
    ),
    "torchvision:NAME": Row(
        "a network of torchvision, as torchvision:resnet50",
        "lrat.models:from_torchvision",
        takes=("name", "normalize", "size"),
    ),
    "hf:FOLDER": Row(
        "an image classifier that transformers saved in a folder, with its weights",
        "lrat.models:from_hf",
        takes=("folder", "normalize"),
    ),
    "FILE.py:FUNCTION": Row("your own: a function in your file that returns an nn.Module"),
}


_LISTED: Mapping[str, Mapping[str, Row]] = {
    "methods": METHODS,
    "attacks": ATTACKS,
    "weightings": WEIGHTINGS,
    "losses": LOSSES,
    "suites": SUITES,
    "data": DATA,
    "models": MODELS,
}
CATALOGUES: Mapping[str, Mapping[str, str]] = {
    what: {f"{k}-N" if row.by_steps else k: row.about for k, row in rows.items() if row.about}
    for what, rows in _LISTED.items()
}
"""What ``lrat list`` prints."""

_WITH_PATH = ("npz", "folder", "hf")
FOLD_OVERLAP = 1 / 4
"""Test images by training images where the folds follow the seed: one fold of five to four."""


def resolve_method(name: str) -> str:
    """The method's own name, aliases resolved."""
    resolved = ALIASES.get(name, name)
    if resolved not in METHODS:
        raise UnknownNameError("method", name, [*METHODS, *ALIASES])
    return resolved


def names_users_code(name: str) -> bool:
    """Whether a name means something in a user's file, as ``FILE.py:NAME``."""
    return ".py:" in name


def _row(kind: str, name: str, rows: Mapping[str, Row]) -> Row:
    """The row of a name, also of one that ends in a part of the user's, as ``npz:FILE``."""
    head, colon, rest = name.partition(":")
    row = next((row for key, row in rows.items() if rest and key.startswith(f"{head}:")), None)
    row = row if colon else rows.get(name)
    if row is None:
        raise UnknownNameError(kind, name, rows)
    return row


def data_row(name: str) -> Row:
    """The row of a data set, as ``digits`` or ``npz:FILE``. Raises ``UnknownNameError``."""
    return _row("data", name, DATA)


def model_row(name: str) -> Row:
    """The row of a network, as ``small-cnn`` or ``timm:resnet10t``. Raises ``UnknownNameError``."""
    return _row("model", name, MODELS)


def place_in(name: str) -> str | None:
    """The path in the name of data or of a model, as in ``npz:FILE``; None where it has none."""
    head, _, path = name.partition(":")
    return path if head in _WITH_PATH and path else None


def folds_by_seed(data: str | None) -> bool:
    """Whether the test images of this data set depend on the training seed."""
    row = DATA.get(data or "")
    return row is not None and row.folds_by_seed


def check_model_name(name: str) -> str:
    if not names_users_code(name):
        model_row(name)
    return name


def check_suite_name(name: str) -> str:
    if name not in SUITES or not SUITES[name].make:
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
    """A suite's name in the names of folders: of a file its stem, distinct from ours."""
    if not names_a_file(name):
        return name
    stem = Path(name).stem
    return f"{stem}-file" if stem in SUITES else stem
