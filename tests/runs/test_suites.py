"""Suites in YAML: every kind of attack, and what is wrong with a file in one line."""

import json
import re
from pathlib import Path

import pytest
import torch

from experiments.commands import done, lrat
from lrat.attacks import (
    APGD,
    CW,
    FAB,
    FGSM,
    PGD,
    SAA,
    Attack,
    AutoAttack,
    LogitScaled,
    Restarts,
    Square,
    Transfer,
)
from lrat.config.catalogue import ATTACK_KINDS, SUITES, slug
from lrat.errors import ConfigurationError, LratError
from lrat.losses import cross_entropy, cw, difference, dlr, targeted_dlr
from lrat.runs.suites import suite_from_file
from lrat.threat import Linf

BALL = Linf(epsilon=8 / 255)
OWN = """
import torch
from lrat.losses import Targeted


def flat(logits, labels):
    return -logits.gather(1, labels[:, None]).squeeze(1)


@Targeted
def towards(logits, labels, targets):
    return logits.gather(1, targets[:, None]).squeeze(1)


def brighten(model, images, labels):
    return (images + {by}).clamp(0, 1)


number = 3
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN.replace("{by}", "0.001"))
    return tmp_path


def attacks_in(text: str, folder: Path) -> dict[str, Attack]:
    path = folder / "suite.yaml"
    path.write_text(text)
    return {member.name: member.attack for member in suite_from_file(path, BALL).members}


def one(settings: str, folder: Path) -> Attack:
    return attacks_in(f"attacks: {{one: {{{settings}}}}}", folder)["one"]


QUARTER = BALL.epsilon / 4
KINDS = {
    "attack: pgd": PGD(threat=BALL, steps=20, step_size=QUARTER),
    "attack: pgd, steps: 50, step_size: 0.01, start: gaussian, loss: cw": PGD(
        threat=BALL, steps=50, step_size=0.01, start="gaussian", loss=cw
    ),
    "attack: pgd, step_size: 2/255": PGD(threat=BALL, steps=20, step_size=2 / 255),
    "attack: cw, steps: 7": CW(threat=BALL, steps=7, step_size=QUARTER),
    "attack: fgsm": FGSM(threat=BALL),
    "attack: apgd": APGD(threat=BALL, loss=cross_entropy, retire_every=10),
    "attack: apgd, steps: 30, start: uniform, loss: dlr": APGD(
        threat=BALL, steps=30, start="uniform", loss=dlr, retire_every=10
    ),
    "attack: apgd, loss: targeted_dlr": APGD(
        threat=BALL, loss=targeted_dlr, targets=9, retire_every=10
    ),
    "attack: apgd, loss: targeted_dlr, targets: 2": APGD(
        threat=BALL, loss=targeted_dlr, targets=2, retire_every=10
    ),
    "attack: saa, steps: 10, targets: 2": SAA(threat=BALL, steps=10, targets=2),
    "attack: fab, steps: 10, targets: 2, loss: difference": FAB(
        threat=BALL, steps=10, targets=2, loss=difference, retire_every=10
    ),
    "attack: square, queries: 100, loss: cross_entropy": Square(
        threat=BALL, queries=100, loss=cross_entropy, retire_every=50
    ),
    "attack: autoattack": AutoAttack(threat=BALL),
    "attack: fgsm, restarts: 3": Restarts(attack=FGSM(threat=BALL), count=3),
    "attack: fgsm, logit_scale: 0.1": LogitScaled(attack=FGSM(threat=BALL), scale=0.1),
    "attack: fgsm, logit_scale: 10, restarts: 2": Restarts(
        attack=LogitScaled(attack=FGSM(threat=BALL), scale=10), count=2
    ),
}


@pytest.mark.parametrize(("settings", "expected"), KINDS.items(), ids=KINDS)
def test_every_kind(settings: str, expected: Attack, tmp_path: Path) -> None:
    assert one(settings, tmp_path) == expected


def test_a_suite_keeps_name_and_order(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nattacks:\n  b: {attack: fgsm}\n  a: {attack: cw}\n")
    suite = suite_from_file(path, BALL)
    assert (suite.name, suite.names) == ("mine", ("natural", "b", "a"))
    assert suite.threat == BALL


def test_a_loss_of_ones_own_is_known_by_its_file_s_content(here: Path) -> None:
    attack = one("attack: pgd, loss: 'own.py:flat'", here)
    logits, labels = torch.tensor([[3.0, 1.0]]), torch.tensor([0])
    assert isinstance(attack, PGD)
    assert float(attack.loss.prepare(labels)(logits)) == -3  # type: ignore[union-attr]
    before = repr(attack)
    assert "place='own.py:flat'" in before
    assert repr(one("attack: pgd, loss: 'own.py:flat'", here)) == before
    (here / "own.py").write_text(OWN.replace("{by}", "0.002"))
    assert repr(one("attack: pgd, loss: 'own.py:flat'", here)) != before


def test_a_targeted_loss_of_ones_own(here: Path) -> None:
    attack = one("attack: apgd, loss: 'own.py:towards'", here)
    assert isinstance(attack, APGD)
    assert attack.targets == 9
    assert isinstance(one("attack: fab, loss: 'own.py:towards'", here), FAB)


def test_an_attack_of_ones_own(here: Path) -> None:
    attack = one("attack: 'own.py:brighten'", here)
    found = attack(torch.nn.Identity(), torch.zeros(1, 1, 2, 2), torch.tensor([0]))
    assert found.images.max() == pytest.approx(0.001)
    before = repr(attack)
    (here / "own.py").write_text(OWN.replace("{by}", "0.002"))
    assert repr(one("attack: 'own.py:brighten'", here)) != before


def test_an_attack_from_another_run(run: Path, tmp_path: Path) -> None:
    attack = one(f"attack: cw, steps: 3, transfer_from: '{run}'", tmp_path)
    assert isinstance(attack, Transfer)
    assert attack.attack == CW(threat=BALL, steps=3, step_size=QUARTER)
    assert len(attack.name) == 16
    assert not attack.source.training


WRONG = {
    "unknown kind": ("attacks: {a: {attack: pdg}}", "unknown attack 'pdg': did you mean 'pgd'"),
    "unknown key": (
        "attacks: {a: {attack: pgd, step: 3}}",
        "'attacks.a.step': did you mean 'steps'",
    ),
    "unknown key of the file": ("atacks: {}", "unknown setting 'atacks': did you mean 'attacks'"),
    "idle setting": (
        "attacks: {a: {attack: square, steps: 3}}",
        "a: square takes loss, queries, not steps",
    ),
    "idle settings of one's own": (
        "attacks: {a: {attack: 'own.py:brighten', steps: 3}}",
        "a: own.py:brighten takes no settings, not steps",
    ),
    "wrong type": (
        "attacks: {a: {attack: pgd, steps: many}}",
        "attacks.a.steps='many': input should be a valid integer",
    ),
    "no steps": ("attacks: {a: {attack: pgd, steps: 0}}", "greater than or equal to 1"),
    "endless steps": ("attacks: {a: {attack: pgd, step_size: .inf}}", "should be a finite number"),
    "zero divided": ("attacks: {a: {attack: pgd, step_size: 2/0}}", "attacks.a.step_size='2/0'"),
    "start": (
        "attacks: {a: {attack: pgd, start: random}}",
        "attacks.a.start='random': input should",
    ),
    "scale": ("attacks: {a: {attack: pgd, logit_scale: 0}}", "greater than 0"),
    "no attacks": ("name: mine", "attacks: name at least one attack"),
    "empty attacks": ("attacks: {}", "attacks: name at least one attack"),
    "attack as text": ("attacks: {a: pgd}", "attacks.a='pgd': write settings, as {attack: pgd"),
    "attack without a kind": (
        "attacks: {a: {steps: 3}}",
        "attacks.a.attack is missing: one of pgd,",
    ),
    "empty": ("", "must be a mapping with `attacks:`"),
    "list": ("- pgd", "must be a mapping with `attacks:`"),
    "torn": ("attacks: {a: {attack: pgd", "is no plain YAML: while parsing"),
    "impossible date": ("attacks: 2020-13-45", "is no plain YAML: month must be in 1..12"),
    "a name twice": ("attacks:\n  a: {attack: pgd}\n  a: {attack: cw}", "'a' is there twice"),
    "a name that names no file": (
        "attacks: {a/b: {attack: pgd}}",
        "attack name 'a/b': use letters",
    ),
    "natural": ("attacks: {natural: {attack: pgd}}", "'natural' is taken by the clean images"),
    "objects": (
        "attacks: !!python/object/apply:os.mkdir [hacked]",
        "is no plain YAML: could not determine a constructor for the tag",
    ),
    "loss": (
        "attacks: {a: {attack: pgd, loss: ce}}",
        "unknown loss 'ce': did you mean 'cw'",
    ),
    "targeted loss in pgd": (
        "attacks: {a: {attack: pgd, loss: targeted_dlr}}",
        "suite suite.yaml: a: PGD(loss=targeted_dlr): a targeted loss needs targets",
    ),
    "targets without a targeted loss": (
        "attacks: {a: {attack: apgd, targets: 3}}",
        "suite suite.yaml: a: APGD(loss=cross_entropy, targets=3): takes no targets",
    ),
    "loss file": ("attacks: {a: {attack: pgd, loss: 'no.py:x'}}", "there is no Python file no.py"),
    "loss name": ("attacks: {a: {attack: pgd, loss: 'own.py:x'}}", "own.py has no 'x'"),
    "loss that is a number": (
        "attacks: {a: {attack: pgd, loss: 'own.py:number'}}",
        "loss=3: pass a Loss or a function",
    ),
    "attack that is a number": (
        "attacks: {a: {attack: 'own.py:number'}}",
        "attack=3: pass an Attack",
    ),
    "no run": ("attacks: {a: {attack: pgd, transfer_from: gone}}", "gone is no run folder"),
}


@pytest.mark.parametrize(("text", "cause"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_said_in_one_line(text: str, cause: str, here: Path) -> None:
    (here / "suite.yaml").write_text(text)
    with pytest.raises(LratError) as error:
        suite_from_file(Path("suite.yaml"), BALL)
    assert cause in str(error.value)
    assert "\n" not in str(error.value)
    assert not (here / "hacked").exists()


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "binary.yaml").write_bytes(bytes(range(256)))
    (tmp_path / "folder.yaml").mkdir()
    for name in ("gone.yaml", "binary.yaml", "folder.yaml"):
        with pytest.raises(ConfigurationError, match=f"{name} cannot be read"):
            suite_from_file(tmp_path / name, BALL)


def test_folders_are_named_after_files_and_not_confused_with_our_suites() -> None:
    assert slug("suites/mine.yaml") == "mine"
    assert slug("quick") == "quick"
    assert slug("quick.yaml") == "quick-file"


def test_the_example_in_the_documentation(run: Path, here: Path) -> None:
    text = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml[^\n]*\n(.*?)```", text, flags=re.DOTALL)
    (here / "runs").mkdir()
    run.rename(here / "runs" / "other")
    for part in re.findall(r"my_\w+\.py:\w+", example):
        file, _, name = part.partition(":")
        (here / file).write_text(f"def {name}(*parts):\n    return parts[1]\n")
    attacks = attacks_in(example, here)
    assert next(iter(attacks)) == "pgd-50"
    assert len(attacks) == example.count("{attack: ")
    for name in (*SUITES, *ATTACK_KINDS):
        assert f"`{name}`" in text, f"{name} is not documented"


SHORT = """
name: short
attacks:
  pgd-3: {attack: pgd, steps: 3}
  twice: {attack: pgd, steps: 2, restarts: 2}
  square: {attack: square, queries: 5}
"""


def test_a_suite_file_from_the_command_line(run: Path, here: Path) -> None:
    Path("short.yaml").write_text(SHORT)
    out = done("evaluate", run, "--limit", "20", "--suite", "short.yaml")
    assert [line.split()[0] for line in out.splitlines()[2:7]] == [
        "natural",
        "pgd-3",
        "twice",
        "square",
        "worst",
    ]
    (folder,) = (run / "evaluations").iterdir()
    assert re.fullmatch("selected-short-linf-0.2-20-[0-9a-f]{8}", folder.name)
    identity = json.loads((folder / "identity.json").read_text())
    assert identity["suite"] == "short"
    assert list(identity["attacks"]) == ["pgd-3", "twice", "square"]
    Path("short.yaml").write_text(SHORT.replace("queries: 5", "queries: 6"))
    changed = done("evaluate", run, "--limit", "20", "--suite", "short.yaml")
    assert f"{folder}\n" not in changed, "another version has a folder of its own"
    Path("short.yaml").write_text(SHORT)
    assert f"{folder}\n" in done("evaluate", run, "--limit", "20", "--suite", "short.yaml")


@pytest.mark.parametrize(
    ("name", "cause"),
    [
        ("gone.yaml", "suite gone.yaml cannot be read: No such file"),
        ("gone.yml", "suite gone.yml cannot be read: No such file"),
        ("gone", "unknown suite 'gone': Known: "),
        ("FILE.yaml", "suite FILE.yaml cannot be read"),
        ("own.py", "unknown suite 'own.py'"),
    ],
)
def test_suites_that_there_are_not(name: str, cause: str, run: Path, here: Path) -> None:
    assert cause in lrat("evaluate", run, "--limit", "10", "--suite", name).complaint
    assert not (run / "evaluations").exists()
