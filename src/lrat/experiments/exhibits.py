"""Which images of an evaluation are kept for reports."""

from math import prod

from lrat.data import ImageData, stratified_subset
from lrat.evaluation import Suite
from lrat.evaluation.storage.gallery import Gallery

IMAGES = 32
"""So many where nobody says how many."""
MOST_BYTES = 32 * 2**20
"""Of an evaluation's gallery, unless a number of images is asked for: of 224x224 images under
``paper`` six fit."""
_SEED = 0
_FLOAT32 = 4


def chosen_gallery(
    wanted: int | None, images: ImageData, test: ImageData, suite: Suite, classes: int
) -> Gallery | None:
    """A fixed, seeded, class-stratified part of ``images``, of ``test``, that ``suite`` attacks.

    ``wanted``: how many; these are then attacked again where their outcomes are known already. None
    is the usual number, of images that are attacked anyway; 0 is no gallery.
    """
    count = IMAGES if wanted is None else wanted
    if wanted is None:
        each = _FLOAT32 * (prod(images.shape) + classes) * (1 + len(suite.steps))
        count = min(count, MOST_BYTES // each)
    if count == 0:
        return None
    some = stratified_subset(images, count, seed=_SEED)
    about = {
        "of": len(images),
        "test_images": len(test),
        "seed": _SEED,
        "class_names": list(test.class_names),
    }
    return Gallery(index=some.index.cpu().numpy(), about=about, fill=wanted is not None)
