"""t-SNE of last-layer outputs (van der Maaten & Hinton 2008), reproducible by its seed."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import SettingError

MOST_EXACT = 5000
"""The most points for which scikit-learn's Barnes-Hut t-SNE is fast enough."""
LEAST = 4
"""The fewest points for which t-SNE is defined."""
_PERPLEXITY = 30.0


def check_points(points: int) -> None:
    """``SettingError`` for a negative number of points, and for one that needs openTSNE where it is
    not installed."""
    if points < 0:
        raise SettingError(f"points={points}: how many images t-SNE shows, 0 for none")
    if points > MOST_EXACT and find_spec("openTSNE") is None:
        raise SettingError(
            f"t-SNE of {points} points needs openTSNE: pip install 'lrat[tsne]', or use "
            f"--points {MOST_EXACT} at most"
        )


def engine_of(count: int) -> str:
    """``none`` below ``LEAST`` points, ``scikit-learn`` to ``MOST_EXACT``, ``openTSNE`` above."""
    if count < LEAST:
        return "none"
    return "scikit-learn" if count <= MOST_EXACT else "openTSNE"


def perplexity_of(count: int) -> float:
    """The usual 30, or a third of the number of other points if that is smaller."""
    return min(_PERPLEXITY, (count - 1) / 3)


def embed(outputs: npt.NDArray[np.float32], *, seed: int = 0) -> npt.NDArray[np.float32] | None:
    """Two coordinates [N 2] for each of the outputs [N K]; None below ``LEAST`` points, and where
    all outputs are equal.

    With one thread, a PCA start and a fixed seed the same outputs give the same coordinates. Raises
    ``SettingError`` as ``check_points`` does.
    """
    check_points(len(outputs))
    exact = outputs.astype(np.float64)
    if len(outputs) < LEAST or not (exact.std(0) > 0).any():
        return None
    state = seed % 2**32
    embedded = _sklearn(exact, state) if len(outputs) <= MOST_EXACT else _open(exact, state)
    return embedded.astype(np.float32)


def _sklearn(outputs: npt.NDArray[np.float64], seed: int) -> npt.NDArray[Any]:
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits  # scikit-learn brings it

    # Several threads would sum in no fixed order.
    with threadpool_limits(limits=1):
        tsne = TSNE(
            perplexity=perplexity_of(len(outputs)),
            init="pca" if outputs.shape[1] > 1 else "random",
            learning_rate="auto",
            random_state=seed,
            n_jobs=1,
        )
        return np.asarray(tsne.fit_transform(outputs))


def _open(outputs: npt.NDArray[np.float64], seed: int) -> npt.NDArray[Any]:
    from openTSNE import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        tsne = TSNE(
            perplexity=perplexity_of(len(outputs)),
            initialization="pca",
            neighbors="exact",
            random_state=seed,
            n_jobs=1,
        )
        return np.asarray(tsne.fit(outputs))
