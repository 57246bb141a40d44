"""Statistics of recorded weights, by hand."""

from pathlib import Path

import numpy as np
import pytest

from lrat.analysis.weights import (
    ALL_CLASSES,
    EDGES,
    SUM,
    RecordedEpoch,
    read_recorded,
    weight_statistics,
)
from lrat.errors import RunFolderError
from lrat.files.write import write_table

RAW = {"saa": [0.1, 0.4, 1.0], "cw": [0.3, 0.4, 0.0]}
LABELS = [0, 1, 1]


def recorded(
    epoch: int = 1, raw: dict[str, list[float]] | None = None, labels: list[int] | None = None
) -> RecordedEpoch:
    raw = RAW if raw is None else raw
    labels = LABELS if labels is None else labels
    values = np.concatenate([np.float32(each) for each in raw.values()]).astype(np.float64)
    n = len(labels)
    return RecordedEpoch(
        epoch=epoch,
        index=np.tile(np.arange(n), len(raw)),
        label=np.tile(labels, len(raw)),
        term=np.repeat(list(raw), n),
        raw=values,
        normalised=2 * values,
    )


def row(
    table: dict[str, np.ndarray], term: str, label: int = ALL_CLASSES, kind: str = "raw"
) -> dict[str, float]:
    chosen = (table["term"] == term) & (table["label"] == label) & (table["kind"] == kind)
    (position,) = np.flatnonzero(chosen)
    return {name: values[position] for name, values in table.items()}


def test_a_term_over_all_images_by_hand() -> None:
    statistics = row(weight_statistics([recorded()], floor=0.45), "saa")
    assert statistics["epoch"] == 1
    assert statistics["n"] == 3
    assert statistics["mean"] == pytest.approx(0.5)
    assert statistics["deviation"] == pytest.approx(np.std(RAW["saa"]))
    assert (statistics["minimum"], statistics["maximum"]) == (pytest.approx(0.1), 1)
    assert statistics["share_below"] == pytest.approx(1 / 3)
    assert statistics["effective_sample_size"] == pytest.approx(1.5**2 / (3 * 1.17))
    assert statistics["instance_share"] == pytest.approx((0.25 + 0.5 + 1) / 3)
    assert statistics["floor_share"] == pytest.approx(1 / 3)  # .4 < .45


def test_a_class_by_hand() -> None:
    statistics = row(weight_statistics([recorded()], floor=0), "cw", label=1)
    assert statistics["n"] == 2
    assert statistics["mean"] == pytest.approx(0.2)
    assert statistics["deviation"] == pytest.approx(0.2)
    assert statistics["effective_sample_size"] == pytest.approx(0.5)
    assert statistics["floor_share"] == 0


def test_terms_add_up() -> None:
    statistics = row(weight_statistics([recorded()], floor=0), SUM)
    assert statistics["mean"] == pytest.approx((0.4 + 0.8 + 1.0) / 3)
    assert statistics["instance_share"] == 1


def test_normalised_weights_have_rows_of_their_own() -> None:
    table = weight_statistics([recorded()], floor=10)
    assert row(table, "saa", kind="normalised")["mean"] == pytest.approx(1.0)
    assert row(table, "saa", kind="normalised")["floor_share"] == 1, "of raw weights: Eq. 7"


def test_histograms_count_every_image_between_fixed_edges() -> None:
    raw = {"pgd": [0.0, 0.2, 0.19999, 2.99, 3.0, 77.0]}
    table = weight_statistics([recorded(raw=raw, labels=[0] * 6)], floor=0)
    statistics = row(table, "pgd")
    bins = [int(statistics[f"bin_{number:02d}"]) for number in range(len(EDGES) - 1)]
    assert sum(bins) == 6
    assert bins[0] == 1
    assert (bins[3], bins[4]) == (1, 1)  # .2 begins the bin [.2, .25)
    assert (bins[59], bins[60]) == (1, 2)
    assert statistics["share_below"] == pytest.approx(2 / 6)
    below = sum(bins[:4]) / 6
    assert below == statistics["share_below"]


def test_weights_that_are_all_zero_have_no_effective_sample() -> None:
    statistics = row(weight_statistics([recorded(raw={"pgd": [0, 0, 0]})], floor=0.1), "pgd")
    assert statistics["effective_sample_size"] == 0
    assert statistics["instance_share"] == 0
    assert statistics["floor_share"] == 1


def test_objectives_without_weights_have_no_rows() -> None:
    nothing = recorded(raw={"trades": [np.nan] * 3})
    assert weight_statistics([nothing], floor=0) == {}
    assert weight_statistics([], floor=0) == {}


def test_a_thousand_classes() -> None:
    labels = list(range(1000))
    table = weight_statistics([recorded(raw={"pgd": [1.0] * 1000}, labels=labels)], floor=0)
    assert len(table["n"]) == 1001 * 2 * 2
    assert row(table, "pgd", label=999)["n"] == 1


def write(folder: Path, epoch: int, **changed: np.ndarray) -> Path:
    of = recorded()
    columns = {
        "index": of.index,
        "label": of.label,
        "term": of.term,
        "raw_weight": of.raw.astype(np.float32),
        "normalised_weight": of.normalised.astype(np.float32),
        "loss": of.raw.astype(np.float32),
    }
    return write_table(folder / f"epoch-{epoch:03d}", {**columns, **changed})


def test_recorded_epochs_are_read_in_order(tmp_path: Path) -> None:
    for epoch in (10, 2):
        write(tmp_path, epoch)
    (tmp_path / ".epoch-003.parquet.tmp").write_bytes(b"half")
    (tmp_path / "notes.txt").write_text("mine")
    epochs = list(read_recorded(tmp_path))
    assert [each.epoch for each in epochs] == [2, 10]
    np.testing.assert_array_equal(epochs[0].raw, recorded().raw)
    assert epochs[0].term.tolist() == ["saa"] * 3 + ["cw"] * 3
    assert list(read_recorded(tmp_path / "missing")) == []


def test_a_damaged_epoch_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, 4)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(RunFolderError, match=r"epoch-004.parquet is damaged .*: bring it back"):
        list(read_recorded(tmp_path))
