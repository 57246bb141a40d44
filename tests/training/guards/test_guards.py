"""Guards as the loop uses them: said once, kept over interruptions, changing nothing."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from lrat.data import InMemory, image_data
from lrat.threat import Linf
from lrat.training import EpochRecord, Optimisation, Storage, TrainingResult, Watch, train
from lrat.training.guards import (
    Guard,
    Guards,
    Measured,
    Probe,
    Reading,
    probe_size,
    standard_guards,
)
from trained import digits
from training.guards.runs import batch, network, sat, spoken

EPSILON = 0.2


def record(epoch: int, **values: Any) -> EpochRecord:
    """An epoch's record whose first term carries all of the loss."""
    terms = {"pgd": {"share": 1.0, "effective_sample_size": 0.05, "loss": 1.0}}
    defaults = {"lr": 0.1, "loss": 1.0, "steps": 20, "images": 1200, "terms": terms}
    return EpochRecord(epoch=epoch, **{**defaults, **values})


class Always:
    """Speaks whenever it is asked."""

    def __init__(self, name: str, implied_by: Sequence[str] = ()) -> None:
        self.name = name
        self.implied_by = frozenset(implied_by)
        self.asked = 0

    def __call__(self, readings: Sequence[Reading]) -> str | None:
        self.asked += 1
        return f"{len(readings)} epochs"


def test_each_guard_speaks_once_and_not_after_what_explains_it() -> None:
    first, second, third = Always("a"), Always("b", ["a"]), Always("c", ["nobody"])
    assert isinstance(first, Guard)
    guards = Guards([first, second, third])
    assert spoken(guards, [record(1), record(2)]) == [("a", 1), ("c", 1)]
    assert (first.asked, second.asked, third.asked) == (1, 0, 1)


def test_a_continued_run_neither_repeats_nor_forgets() -> None:
    records = [
        record(epoch, robust_accuracy=0.5, skipped=epoch % 2, validation={"pgd-10": 0.3})
        for epoch in range(1, 7)
    ]
    measured = Measured(name="pgd-10", images=20)
    whole = spoken(standard_guards(validation=measured, selects=True), records)
    assert {"skipped-steps", "collapsed-weights", "small-validation"} == {name for name, _ in whole}
    for cut in range(7):
        before = standard_guards(validation=measured, selects=True)
        said = spoken(before, records[:cut])
        after = standard_guards(validation=measured, selects=True)
        after.load_state_dict(json.loads(json.dumps(before.state_dict())), records[:cut])
        assert said + spoken(after, records[cut:]) == whole
        assert after.state_dict() == spoken_state(records, measured)


def spoken_state(records: Sequence[EpochRecord], measured: Measured) -> dict[str, Any]:
    guards = standard_guards(validation=measured, selects=True)
    spoken(guards, records)
    return guards.state_dict()


def test_numbers_that_are_not_finite_are_unknown() -> None:
    guards = standard_guards(validation=Measured(name="pgd-10", images=20), selects=True)
    bad = record(
        1,
        terms={"pgd": {"share": None, "effective_sample_size": float("nan")}},
        validation={"pgd-10": float("nan"), "natural": None},
        robust_accuracy=None,
    )
    assert spoken(guards, [bad] * 4) == []
    json.dumps(guards.state_dict(), allow_nan=False)


def test_the_averaged_weights_are_what_is_selected() -> None:
    seen: list[Reading] = []

    class Keeps(Always):
        def __call__(self, readings: Sequence[Reading]) -> str | None:
            seen.append(readings[-1])
            return None

    guards = Guards([Keeps("keeps")], validation=Measured(name="pgd-10", images=20))
    guards.after_epoch(record(1, validation={"pgd-10": 0.3}, average={"validation/pgd-10": 0.4}))
    guards.after_epoch(record(2, validation={"pgd-10": 0.3}))
    assert [(one.held_out, one.selecting) for one in seen] == [(0.3, 0.4), (0.3, 0.3)]


def trained(
    folder: Path | None, *, guards: Guards | None, epochs: int = 4, **watch: Any
) -> tuple[torch.nn.Module, TrainingResult]:
    images, labels = digits()
    model = network()
    result = train(
        model,
        InMemory(image_data(images[:200], labels[:200]), batch_size=50),
        sat(EPSILON, steps=2),
        Optimisation(epochs=epochs, lr=0.1),
        watch=Watch(guards=guards, **watch),
        storage=None if folder is None else Storage(folder=folder, identity="guards"),
    )
    return model, result


def test_guards_change_no_weight_and_no_number() -> None:
    plain, without = trained(None, guards=None)
    watched, result = trained(None, guards=Guards([Always("a")]))
    for name, value in plain.state_dict().items():
        assert torch.equal(value, watched.state_dict()[name])
    assert result.records[0].notices == ({"guard": "a", "text": "1 epochs"},)
    assert [each.passes for each in result.records] == [each.passes for each in without.records]
    assert [each.loss for each in result.records] == [each.loss for each in without.records]


def test_notices_are_recorded_once_over_an_interruption(tmp_path: Path) -> None:
    class Stops:
        def on_step(self, progress: Any) -> None:
            if progress.epoch == 3:
                raise KeyError("killed")

        def on_epoch(self, record: EpochRecord) -> None:
            return

    def guards() -> Guards:
        class Late(Always):
            def __call__(self, readings: Sequence[Reading]) -> str | None:
                counts = readings[-1].examined["pgd"]
                return str(vars(counts)) if len(readings) == 4 else None

        return Guards([Always("early"), Late("late")])

    _, whole = trained(tmp_path / "whole", guards=guards())
    with pytest.raises(KeyError):
        trained(tmp_path / "parts", guards=guards(), progress=Stops())
    _, parts = trained(tmp_path / "parts", guards=guards())
    notices = [each.notices for each in whole.records]
    assert [each.notices for each in parts.records] == notices
    assert [len(each) for each in notices] == [1, 0, 0, 1]
    assert "'images': 200" in notices[3][0]["text"]  # the first batches of four epochs


class TestProbe:
    def test_accuracy_under_pgd(self) -> None:
        probe = Probe(batches=(batch(0, 50), batch(50, 80)), threat=Linf(epsilon=EPSILON))
        model = network().eval()
        assert probe.measured == Measured(name="pgd-10", images=80)
        ((name, value),) = probe(model).items()
        assert name == "pgd-10"
        assert 80 * value == pytest.approx(round(80 * value))
        assert probe(model) == probe(model)
        natural = sum(
            int((model(part.images).argmax(1) == part.labels).sum()) for part in probe.batches
        )
        assert value <= natural / 80

    def test_its_view_is_refreshed(self) -> None:
        class Copy(torch.nn.Module):
            refreshed = 0

            def __init__(self, model: torch.nn.Module) -> None:
                super().__init__()
                self.model = model

            def refresh(self) -> None:
                self.refreshed += 1

            def forward(self, images: torch.Tensor) -> torch.Tensor:
                return self.model(images)

        model = network().eval()
        view = Copy(model)
        seen = Probe(batches=(batch(0, 20),), threat=Linf(epsilon=EPSILON), view=view)
        direct = Probe(batches=(batch(0, 20),), threat=Linf(epsilon=EPSILON))
        assert seen(model) == direct(model)
        assert view.refreshed == 1

    @pytest.mark.parametrize(
        ("images", "size"), [(10, 10), (300, 32), (1437, 71), (2560, 128), (50_000, 128)]
    )
    def test_its_size_keeps_it_cheap(self, images: int, size: int) -> None:
        assert probe_size(images) == size
