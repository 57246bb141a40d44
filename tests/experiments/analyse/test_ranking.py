"""Which attack is strongest on which model."""

from pathlib import Path

import numpy as np
import pytest

from experiments.commands import done
from lrat.errors import ConfigurationError, RunFolderError
from lrat.evaluation import EvaluationResult, Outcomes
from lrat.experiments.analyse.ranking import rank, rank_places, rankings_table

N = 100
WRONG = np.arange(N) < 10
"""Wrong when clean, so fooled under every attack."""


def rows(attack: str, fooled: np.ndarray) -> Outcomes:
    return Outcomes.from_columns(
        {
            "index": np.arange(N),
            "label": np.zeros(N),
            "attack": np.full(N, attack),
            "fooled": fooled | WRONG,
            "prediction": (fooled | WRONG).astype(int),
            "margin_clean": np.where(WRONG, -1.0, 1.0),
            "margin": np.where(fooled | WRONG, -1.0, 1.0),
            "step": np.zeros(N),
            "source": np.zeros(N),
            "forwards": np.ones(N),
            "backwards": np.ones(N),
            "distance": np.zeros(N),
        }
    )


def result(cascade: tuple[str, ...] = (), **fooled: np.ndarray) -> EvaluationResult:
    natural = rows("natural", np.zeros(N, dtype=bool))
    attacks = [rows(name.replace("_", "."), each) for name, each in fooled.items()]
    names = [str(each.attack[0]) for each in attacks]
    identity = {
        "suite": "made up",
        "threat": "Linf(epsilon=0.1)",
        "seed": 0,
        "attacks": dict.fromkeys(names, "settings"),
        "cascades": {"auto": list(cascade)} if cascade else {},
    }
    return EvaluationResult(outcomes=Outcomes.concatenate([natural, *attacks]), identity=identity)


def first(count: int) -> np.ndarray:
    """Fooled among those that are right when clean: the first ``count`` of them."""
    return (np.arange(N) >= 10) & (np.arange(N) < 10 + count)


def test_attacks_are_ranked_on_images_that_are_right_when_clean() -> None:
    found = rank(result(weak=first(10), strong=first(60)), name="model")
    assert [(each.name, each.rank) for each in found.attacks] == [("strong", 1), ("weak", 2)]
    assert (found.n, found.images) == (90, 100)
    strong, weak = found.attacks
    assert strong.fooled.value == pytest.approx(60 / 90)
    assert strong.fooled.low < 60 / 90 < strong.fooled.high
    assert strong.accuracy.value == pytest.approx(0.3)
    assert (strong.behind, strong.p) == (None, None)
    assert weak.behind is not None
    assert weak.behind.value == pytest.approx(50 / 90)
    assert weak.behind.low > 0
    assert weak.p == pytest.approx(2.0**-49)  # 50 images on one side alone
    assert found.strongest == ("strong",)
    assert found.ties == ()


def test_attacks_that_few_images_tell_apart_are_tied() -> None:
    found = rank(result(one=first(30), two=first(33), three=first(5)))
    assert found.strongest == ("two", "one")
    assert found.ties == (("one", "two"),)
    record = found.record()
    assert record["strongest"] == ["two", "one"]
    assert record["attacks"][1]["p"] == pytest.approx(0.25)
    assert record["attacks"][0]["fooled"]["n"] == 90


def test_an_ensemble_is_no_rival_of_its_members() -> None:
    found = rank(result(("auto.a", "auto.b"), pgd=first(20), auto_a=first(15), auto_b=first(40)))
    assert [each.name for each in found.attacks] == ["pgd", "auto"]
    assert [each.ensemble for each in found.attacks] == [False, True]
    assert found.strongest == ("pgd",)
    assert "auto (ensemble)" in str(found)


def test_an_ensemble_alone_is_ranked_by_itself() -> None:
    found = rank(result(("auto.a", "auto.b"), auto_a=first(15), auto_b=first(40)))
    assert found.strongest == ("auto",)


def test_nothing_to_rank() -> None:
    with pytest.raises(ConfigurationError, match="ran no attack"):
        rank(result())
    every = np.ones(N, dtype=bool)
    broken = result(pgd=every)
    natural = rows("natural", every)
    attacks = broken.outcomes.under("pgd")
    outcomes = Outcomes.concatenate([natural, attacks])
    with pytest.raises(ConfigurationError, match="no image is right when clean"):
        rank(EvaluationResult(outcomes=outcomes, identity=broken.identity))


def test_runs_are_ranked_from_what_they_store(run: Path) -> None:
    with pytest.raises(RunFolderError, match="holds no finished evaluation"):
        rank_places([run])
    done("evaluate", run, "--limit", 40)
    (found,) = rank_places([run])
    assert (found.data, found.method, found.checkpoint) == ("digits", "sat", "selected")
    assert {each.name for each in found.attacks} == {"pgd-20", "cw-20"}
    table = rankings_table([found])
    assert "pgd-20 (" in table
    assert " = " in table or " > " in table
