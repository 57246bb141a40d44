"""t-SNE of last-layer outputs (van der Maaten & Hinton 2008): seeded, the same every time."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import SettingError

MOST_EXACT = 5000
"""Up to so many points scikit-learn's Barnes-Hut t-SNE is quick enough."""
LEAST = 4
"""Fewer points have no neighbourhoods to keep."""
_PERPLEXITY = 30.0


def check_points(points: int) -> None:
    """Refuse a number of points that cannot be embedded here, before anything is computed.

    Raises ``SettingError``, also where so many points need openTSNE and it is not installed.
    """
    if points < 0:
        raise SettingError(f"points={points}: how many images t-SNE shows, 0 for none")
    if points > MOST_EXACT and find_spec("openTSNE") is None:
        raise SettingError(
            f"t-SNE of {points} points needs openTSNE: pip install 'lrat[tsne]', or ask for "
            f"--points {MOST_EXACT} at most"
        )


def engine_of(count: int) -> str:
    """``scikit-learn`` up to ``MOST_EXACT`` points, ``openTSNE`` above; ``none`` for a handful."""
    if count < LEAST:
        return "none"
    return "scikit-learn" if count <= MOST_EXACT else "openTSNE"


def perplexity_of(count: int) -> float:
    """30, the usual one, or a third of the other points where these are few."""
    return min(_PERPLEXITY, (count - 1) / 3)


def embed(outputs: npt.NDArray[np.float32], *, seed: int = 0) -> npt.NDArray[np.float32] | None:
    """Two coordinates [N 2] for each of the outputs [N K]; None where t-SNE has nothing to show.

    That is below ``LEAST`` points, and where all outputs are equal. One thread, PCA start, fixed
    seed: equal outputs give equal coordinates. Raises ``SettingError`` as ``check_points`` does.
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

    # Threads add up in no fixed order.
    with threadpool_limits(limits=1):
        made = TSNE(
            perplexity=perplexity_of(len(outputs)),
            init="pca" if outputs.shape[1] > 1 else "random",
            learning_rate="auto",
            random_state=seed,
            n_jobs=1,
        ).fit_transform(outputs)
    return np.asarray(made)


def _open(outputs: npt.NDArray[np.float64], seed: int) -> npt.NDArray[Any]:
    from openTSNE import TSNE
    from threadpoolctl import threadpool_limits

    with threadpool_limits(limits=1):
        made = TSNE(
            perplexity=perplexity_of(len(outputs)),
            initialization="pca",
            neighbors="exact",
            random_state=seed,
            n_jobs=1,
        ).fit(outputs)
    return np.asarray(made)
