"""t-SNE: the same for the same outputs, neighbours stay neighbours, refusals."""

from unittest import mock

import numpy as np
import pytest

from lrat.analysis import embedding
from lrat.analysis.embedding import check_points, embed, engine_of
from lrat.errors import SettingError


def clusters(count: int = 60) -> np.ndarray:
    draw = np.random.default_rng(0)
    centres = 20 * np.eye(3, 5)
    return (centres[np.arange(count) % 3] + draw.normal(size=(count, 5))).astype(np.float32)


def test_the_same_every_time_and_clusters_stay_together() -> None:
    outputs = clusters()
    points = embed(outputs, seed=1)
    assert points is not None
    assert points.shape == (60, 2)
    assert points.dtype == np.float32
    assert np.isfinite(points).all()
    again = embed(outputs, seed=1)
    assert again is not None
    np.testing.assert_array_equal(points, again)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distance, np.inf)
    assert (distance.argmin(1) % 3 == np.arange(60) % 3).all()


def test_the_global_random_state_is_left_alone() -> None:
    before = np.random.get_state()[1].tolist()
    embed(clusters(10), seed=3)
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize("count", [4, 5, 8])
def test_a_handful_of_points(count: int) -> None:
    points = embed(clusters(count))
    assert points is not None
    assert np.isfinite(points).all()


def test_two_classes() -> None:
    logits = clusters(12)[:, :1]
    points = embed(np.concatenate([logits, -logits], axis=1))
    assert points is not None
    assert np.isfinite(points).all()


def test_nothing_to_show() -> None:
    assert embed(clusters(3)) is None
    assert embed(np.ones((30, 10), dtype=np.float32)) is None


def test_many_points_need_opentsne() -> None:
    with (
        mock.patch.object(embedding, "find_spec", return_value=None),
        pytest.raises(SettingError, match=r"pip install 'lrat\[tsne\]', or .*--points 5000"),
    ):
        check_points(5001)
    check_points(5000)
    with pytest.raises(SettingError, match="points=-1"):
        check_points(-1)
    assert [engine_of(count) for count in (3, 5000, 5001)] == ["none", "scikit-learn", "openTSNE"]


def test_opentsne_gives_the_same_every_time() -> None:
    pytest.importorskip("openTSNE")
    with mock.patch.object(embedding, "MOST_EXACT", 20):
        first, second = (embed(clusters(), seed=1) for _ in range(2))
    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first, second)
    sklearn = embed(clusters(), seed=1)
    assert not np.array_equal(first, sklearn)
