"""Whether images fill the range that attacks and epsilon work in."""

DARKEST = 0.07
"""Images none of whose pixels reaches this were probably scaled twice, or stored as uint8 with
another largest value than 255: 16 levels, as digits have them, end at 16/255 = 0.063."""
TOLERANCE = 1e-4
SCALE_WORDS = "but attacks and epsilon work in [0, 1]"


def odd_scale(low: float, high: float, what: str = "images") -> str | None:
    """In words, what is odd about images whose pixels run from ``low`` to ``high``; None for [0, 1]
    and for any part of it that reaches ``DARKEST``."""
    if low >= -TOLERANCE and DARKEST <= high <= 1 + TOLERANCE:
        return None
    return (
        f"{what} have values from {low:.4g} to {high:.4g}, {SCALE_WORDS}: "
        "scale the images to [0, 1] and put any normalisation into the model"
    )
