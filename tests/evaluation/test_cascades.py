"""A cascade in an evaluation: stages are walked one by one, chunk by chunk, and kept."""

import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from attacks.stubs import Bright, Brighten, WrongView, grey
from evaluation.parts import batches_of
from evaluation.results import assert_equal_outcomes
from lrat.attacks import APGD, PGD, Cascade, Restarts, Square, Trace, Transfer, Variant
from lrat.errors import RunFolderError, SettingError
from lrat.evaluation import EvaluationResult, Member, Progress, Suite, custom, evaluate_suite
from lrat.losses import targeted_dlr
from lrat.randomness import Keyed, keys
from lrat.threat import Linf
from trained import THREAT, digits, trained

COUNT = 70
SHORT = Cascade(
    members={
        "pgd": PGD(threat=THREAT, steps=2, step_size=0.03),
        "apgd-t": APGD(threat=THREAT, steps=8, loss=targeted_dlr, targets=3, retire_every=3),
        "square": Square(threat=THREAT, queries=40, retire_every=10),
    }
)
STAGES = ("whole.pgd", "whole.apgd-t", "whole.square")


def problem() -> tuple[Tensor, Tensor]:
    images, labels = digits()
    return images[1400 : 1400 + COUNT], labels[1400 : 1400 + COUNT]


def evaluate(
    folder: Path | None = None, size: int = 32, attack: Any = SHORT, **settings: Any
) -> EvaluationResult:
    suite = custom(THREAT, {"whole": attack})
    return evaluate_suite(
        trained("dense"), batches_of(*problem(), size), suite, folder=folder, **settings
    )


def assert_same(one: EvaluationResult, other: EvaluationResult) -> None:
    assert_equal_outcomes(one, other)
    assert str(one) == str(other)


def test_stages_are_cumulative_and_the_cascade_is_its_last_stage() -> None:
    result = evaluate()
    assert result.names == ("natural", "whole")
    assert result.stages == {"whole": STAGES}
    shares = [result.accuracy[name].value for name in ("natural", *STAGES)]
    assert shares[0] > shares[1] > shares[2] >= shares[3]
    assert result.accuracy["whole"] == result.accuracy[STAGES[-1]] == result.worst_case
    rows = [result.outcomes.under(name).at(result.index) for name in ("natural", *STAGES)]
    for before, after in pairwise(rows):
        fell = before.fooled
        assert after.fooled[fell].all()
        assert (after.forwards[fell] == 0).all(), "what fell before is not attacked again"
        np.testing.assert_array_equal(after.margin[fell], before.margin[fell])
        np.testing.assert_array_equal(after.prediction[fell], before.prediction[fell])
        assert (after.forwards[~fell] > 0).all()


def test_a_cascade_s_row_is_that_of_the_stage_that_decided() -> None:
    result = evaluate()
    whole = result.outcomes.under("whole").at(result.index)
    stages = [result.outcomes.under(name).at(result.index) for name in STAGES]
    clean = result.outcomes.under("natural").at(result.index).fooled
    assert (whole.source[clean] == -1).all()
    assert set(whole.source[~clean]) == {0, 1, 2}
    np.testing.assert_array_equal(whole.forwards, sum(each.forwards for each in stages))
    np.testing.assert_array_equal(whole.backwards, sum(each.backwards for each in stages))
    for position in np.flatnonzero(~clean):
        decided = stages[whole.source[position]]
        assert whole.margin[position] == decided.margin[position]
        assert whole.step[position] == decided.step[position]
        if whole.fooled[position]:
            assert not any(each.fooled[position] for each in stages[: whole.source[position]])
        else:
            assert whole.margin[position] == min(each.margin[position] for each in stages)


def test_verdicts_are_those_of_the_cascade_as_an_attack() -> None:
    """With the noise of the stages' names, to the image."""
    images, labels = problem()
    model = trained("dense")
    named = Cascade(members={f"whole.{name}": attack for name, attack in SHORT.members.items()})
    variant = named(model, images, labels, noise=Keyed(keys(0, torch.arange(COUNT))))
    with torch.no_grad():
        fooled = model(variant.images).argmax(1) != labels
    result = evaluate()
    assert torch.equal(torch.from_numpy(~result.robust(["whole"])), fooled)
    # Inside another attack the evaluation does not know the stages.
    assert evaluate(attack=Restarts(attack=SHORT, count=1)).stages == {}


def test_the_table_shows_stages_below_their_cascade_and_counts_passes_once() -> None:
    result = evaluate()
    lines = str(result).splitlines()
    assert [re.split(r" {2,}", line.strip())[0] for line in lines[2:]] == [
        "natural",
        "whole",
        "after pgd",
        "after apgd-t",
        "after square",
        "worst case",
        lines[-1],
    ]
    total = float(lines[7].split()[-2])
    assert total == pytest.approx(1 + result.passes["whole"].forwards, abs=0.06)
    assert lines[3].split()[1] == lines[6].split()[2] == lines[7].split()[2]


def test_a_folder_gives_the_same_result_back(tmp_path: Path) -> None:
    result = evaluate(tmp_path)
    back = EvaluationResult.from_folder(tmp_path)
    assert_same(result, back)
    assert back.stages == result.stages
    assert back.accuracy == result.accuracy
    assert back.settings == result.settings
    assert list(back.settings) == ["whole"]


SPLITS = [(COUNT, None), (1, None), (COUNT, 7), (32, 10), (20, 50)]


@pytest.mark.parametrize(("size", "chunk"), SPLITS)
def test_blocks_and_chunks_change_no_verdict(size: int, chunk: int | None) -> None:
    """Margins differ in their last bits, and with them the iterate that came closest."""
    one, other = evaluate().outcomes, evaluate(size=size, chunk=chunk).outcomes
    for column in ("index", "attack", "label", "fooled"):
        np.testing.assert_array_equal(getattr(other, column), getattr(one, column))
    np.testing.assert_allclose(other.margin, one.margin, atol=0.02)
    np.testing.assert_array_equal(other.forwards > 0, one.forwards > 0)


def sizes(attack: Brighten) -> list[int]:
    return [len(part) for part in attack.met]


def test_survivors_of_a_block_fill_the_chunks_of_the_next_stage() -> None:
    """Of 24 images the first stage leaves every third: 8, which are 2 chunks of 4, not 6."""
    images, labels = grey(*([0.45, 0.45, 0.1] * 8))
    first, second = Brighten(by=0.1), Brighten(by=0.2)
    suite = custom(Linf(epsilon=0.2), {"both": Cascade(members={"a": first, "b": second})})
    result = evaluate_suite(Bright(), batches_of(images, labels, 24), suite, chunk=4)
    assert sizes(first) == [4] * 6
    assert sizes(second) == [4, 4]
    assert result.accuracy["both"].value == pytest.approx(1 / 3)


@pytest.mark.parametrize("reports", range(1, 13))
def test_a_cascade_continues_where_it_was_broken_off(tmp_path: Path, reports: int) -> None:
    left = reports

    def stop(progress: object) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt

    first, second, images = Brighten(by=0.1), Brighten(by=0.2), grey(*([0.45, 0.35, 0.1] * 8))

    def run(**settings: Any) -> EvaluationResult:
        suite = custom(Linf(epsilon=0.2), {"both": Cascade(members={"a": first, "b": second})})
        return evaluate_suite(Bright(), batches_of(*images, 12), suite, chunk=4, **settings)

    whole = run()
    assert (sum(sizes(first)), sum(sizes(second))) == (24, 16)
    first.met.clear()
    second.met.clear()
    with pytest.raises(KeyboardInterrupt):
        run(folder=tmp_path, on_progress=stop)
    with pytest.raises(RunFolderError, match="is not finished"):
        EvaluationResult.from_folder(tmp_path)
    assert_same(run(folder=tmp_path), whole)
    assert (sum(sizes(first)), sum(sizes(second))) == (24, 16), "nothing is attacked twice"
    assert_same(EvaluationResult.from_folder(tmp_path), whole)


def test_images_that_are_kept_lie_in_the_ball_and_prove_the_verdict(tmp_path: Path) -> None:
    result = evaluate(tmp_path, keep_images=True, chunk=16)
    images, labels = problem()
    model = trained("dense")
    seen: dict[str, list[int]] = {name: [] for name in STAGES}
    for path in (tmp_path / "images").iterdir():
        name = next(stage for stage in STAGES if path.name.startswith(f"{stage}-0"))
        held = load_file(path)
        assert set(held) == {"images", "index"}
        index, kept = held["index"], held["images"]
        assert kept.dtype is torch.float32
        assert THREAT.violation(kept, images[index]).max() <= THREAT.tolerance
        rows = result.outcomes.under(name).at(index.numpy())
        with torch.no_grad():
            predicted = model(kept).argmax(1)
        np.testing.assert_array_equal(predicted.numpy(), rows.prediction)
        np.testing.assert_array_equal((predicted != labels[index]).numpy(), rows.fooled)
        seen[name] += index.tolist()
    for name, numbers in seen.items():
        attacked = result.outcomes.under(name).forwards > 0
        expected = result.outcomes.under(name).index[attacked]
        assert sorted(numbers) == sorted(expected.tolist())
    assert_same(EvaluationResult.from_folder(tmp_path), result)


def test_images_are_kept_only_on_request_and_only_in_a_folder(tmp_path: Path) -> None:
    evaluate(tmp_path)
    assert not (tmp_path / "images").exists()
    with pytest.raises(SettingError, match="keep_images needs a folder"):
        evaluate(keep_images=True)
    with pytest.raises(RunFolderError, match=r"images: \(absent\) there, kept here"):
        evaluate(tmp_path, keep_images=True)


def test_other_stages_are_refused_with_the_difference(tmp_path: Path) -> None:
    evaluate(tmp_path)
    fewer = Cascade(members={name: SHORT.members[name] for name in ("pgd", "apgd-t")})
    with pytest.raises(RunFolderError, match=r"whole\.square: Square\(.*\) there, \(absent"):
        evaluate(tmp_path, attack=fewer)
    order = Cascade(members={name: SHORT.members[name] for name in ("apgd-t", "pgd", "square")})
    with pytest.raises(RunFolderError, match=r"cascades\.whole: \['whole\.pgd', .*\] there"):
        evaluate(tmp_path, attack=order)


def test_a_member_may_attack_what_another_left() -> None:
    """Also outside a cascade; what it comes after must be an earlier attack of the suite."""
    first, second = Brighten(by=0.1), Brighten(by=0.2)
    members = (Member(name="a", attack=first), Member(name="b", attack=second, after="a"))
    suite = Suite(name="own", threat=Linf(epsilon=0.2), members=members)
    evaluate_suite(Bright(), batches_of(*grey(0.45, 0.35, 0.1)), suite)
    assert second.values == [0.35, 0.1]
    with pytest.raises(SettingError, match="b comes after 'a', which is no earlier attack"):
        Suite(name="own", threat=Linf(epsilon=0.2), members=members[::-1])


def test_what_only_the_view_calls_fooled_is_attacked_again_without_it() -> None:
    """The view is darker by a step that points the wrong way, so its successes are none."""

    class Mirrored(Bright):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(1 - images)

    original = Bright()
    view = WrongView(original, Mirrored(boundary=0.65))
    images, labels = grey(0.4, 0.45, 0.1)
    near = Linf(epsilon=0.2)
    attack = APGD(threat=near, steps=3, start="none", retire_every=1)
    suite = custom(near, {"apgd": attack})
    result = evaluate_suite(original, batches_of(images, labels), suite, view=view)
    rows = result.outcomes.under("apgd")
    assert rows.fooled.tolist() == [True, True, False]
    plain = evaluate_suite(original, batches_of(images, labels), suite)
    np.testing.assert_array_equal(rows.margin[:2], plain.outcomes.under("apgd").margin[:2])
    alone = plain.outcomes.under("apgd").forwards
    assert (rows.forwards[:2] > alone[:2]).all(), "both attempts are paid for"


def test_progress_of_a_stage_counts_those_fooled_before() -> None:
    heard: list[Progress] = []
    stages = {"a": Brighten(by=0.1), "b": Brighten(by=0.2)}
    suite = custom(Linf(epsilon=0.2), {"both": Cascade(members=stages)})
    batches = batches_of(*grey(0.45, 0.45, 0.45, 0.35, 0.1, 0.1))
    evaluate_suite(Bright(), batches, suite, chunk=2, on_progress=heard.append)
    counts = [(each.done, each.robust) for each in heard if each.attack == "both.b"]
    assert counts == [(5, 1), (6, 2)]


class Darker(Bright):
    """Its boundary lies where the attack's step already reaches it."""

    def __init__(self) -> None:
        super().__init__(boundary=0.45)


@pytest.mark.parametrize("kind", ["pgd", "function"])
def test_attacks_that_tell_nothing_of_success_are_made_again_too(kind: str) -> None:
    """They stop at the view's boundary: only through the model itself they cross it."""
    original = Bright()
    near = Linf(epsilon=0.2)

    def to_the_boundary(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        for _ in range(4):
            robust = model(images).argmax(1) == labels
            images = images + 0.03 * robust.view(-1, 1, 1, 1)
        return images

    class Hesitant:
        """As PGD, which reports its passes, but no margin."""

        provides: frozenset[str] = frozenset()
        needs_clean = False

        def __call__(self, model, images, labels, **_: object) -> Variant:
            adversarial = to_the_boundary(model, images, labels)
            four = torch.full_like(labels, 4)
            return Variant(images=adversarial, trace=Trace(forwards=four, backwards=0 * four))

    suite = custom(near, {"mine": Hesitant() if kind == "pgd" else to_the_boundary})
    batches = batches_of(*grey(0.42, 0.43, 0.1))
    view = WrongView(original, Darker())
    rows = evaluate_suite(original, batches, suite, view=view).outcomes.under("mine")
    assert rows.fooled.tolist() == [True, True, False]
    assert rows.forwards.tolist() == [8, 8, 4]


def test_a_carried_over_attack_is_judged_on_the_model_and_paid_on_its_source() -> None:
    source = trained()
    attack = PGD(threat=THREAT, steps=4, step_size=0.1)
    carried = evaluate(attack=Transfer(attack=attack, source=source, name="convolutional"))
    result = evaluate(attack=attack)
    natural = carried.accuracy["natural"].value
    assert result.accuracy["whole"].value < carried.accuracy["whole"].value < natural
    assert carried.passes["whole"].forwards == pytest.approx(4 * natural)
