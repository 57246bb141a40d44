"""How Square moves: the shrinking windows, and its start and proposals in an L_inf ball."""

import math
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lrat.randomness import Noise
from lrat.threat import Linf

BLOCK = 100
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


@runtime_checkable
class Moves(Protocol):
    """Where the search begins and what it tries next, for one batch of B images."""

    def start(self) -> Tensor:
        """[B C H W], inside the ball."""
        ...

    def propose(self, best: Tensor, query: int, fooled: Tensor) -> Tensor:
        """[B C H W], inside the ball: a change of ``best``. ``query`` counts up from 0."""
        ...

    def select(self, rows: Tensor) -> "Moves":
        """The moves of these rows (integers), as they would have been with the others."""
        ...


def window_side(query: int, p_init: float, shape: torch.Size, smallest: int = 1) -> int:
    """The side, in pixels, of the square window of a query, for images of shape [C H W].

    The window covers the share p of an image, and p halves at fixed queries, however many there
    are to come (as in AutoAttack). ``smallest`` > 1 asks for an odd side. Never more than fits.
    """
    pixels = shape.numel()
    share = p_init / 2 ** bisect_left(_HALVED_AFTER, query)
    side = max(round(math.sqrt(share * pixels / shape[0])), smallest)
    if smallest > 1:
        side += 1 - side % 2
    return min(side, shape[1], shape[2])


def random_signs(uniform: Tensor) -> Tensor:
    """-1 or 1 for numbers in [0, 1)."""
    return uniform.mul(2).sub_(1).sign_()


def places(side: Tensor, length: int, noise: Noise) -> Tensor:
    """The number of places along ``length`` pixels that a window's first pixel is drawn from.

    The reference never draws the last place, which leaves the last row and column as they were at
    the start; noise of our own draws it.
    """
    return length - side + int(noise.per_image)


@dataclass(frozen=True)
class _Windows:
    """A block of windows as outer products: ``rows`` [N B C H 1] of size 0 or 2 epsilon, signed,
    and ``columns`` [N B 1 1 W] of 0 and 1. B is 1 for windows that a batch shares.
    """

    first: int
    rows: Tensor
    columns: Tensor

    def select(self, rows: Tensor) -> "_Windows":
        if self.rows.shape[1] == 1:
            return self
        return replace(self, rows=self.rows[:, rows], columns=self.columns[:, rows])


@dataclass
class LinfMoves:
    """Vertical stripes at +-epsilon, then windows moved by +-2 epsilon per channel, clipped.

    Every pixel a window has touched lies at the end of the ball or of the box. Windows are drawn a
    block ahead: a query then costs one sum and one clip.
    """

    threat: Linf
    center: Tensor
    noise: Noise
    sides: Tensor
    lower: Tensor
    upper: Tensor
    windows: _Windows | None = None

    @staticmethod
    def around(
        center: Tensor, threat: Linf, noise: Noise, *, queries: int, p_init: float
    ) -> "LinfMoves":
        shape = center.shape[1:]
        sides = [window_side(query, p_init, shape) for query in range(queries)]
        inside = threat.around(center)
        return LinfMoves(
            threat=threat,
            center=center,
            noise=noise,
            sides=torch.tensor(sides, device=center.device),
            lower=inside(center - 1),
            upper=inside(center + 1),
        )

    def start(self) -> Tensor:
        count, channels, _, width = self.center.shape
        drawn = self.noise.uniform((count, channels, 1, width), "stripes")
        return self._inside(self.center + self.threat.epsilon * random_signs(drawn))

    def propose(self, best: Tensor, query: int, fooled: Tensor) -> Tensor:
        if self.windows is None or query % BLOCK == 0:
            self.windows = self._draw(query)
        offset = query - self.windows.first
        windows = self.windows.rows[offset], self.windows.columns[offset]
        return self._inside(torch.addcmul(best, *windows))

    def select(self, rows: Tensor) -> "LinfMoves":
        return replace(
            self,
            center=self.center[rows],
            noise=self.noise.select(rows),
            lower=self.lower[rows],
            upper=self.upper[rows],
            windows=None if self.windows is None else self.windows.select(rows),
        )

    def _inside(self, moved: Tensor) -> Tensor:
        # A ball and the box are one box of pixels, whose ends were taken once: one clip, in place.
        return moved.clamp_(self.lower, self.upper)

    def _draw(self, first: int) -> _Windows:
        """The windows of the block's queries: row, column and a sign per channel for each."""
        sides = self.sides[first : first + BLOCK]
        count, channels, height, width = self.center.shape
        shape = (count if self.noise.per_image else 1, len(sides), 2 + channels)
        drawn = self.noise.uniform(shape, f"windows-{first // BLOCK}").transpose(0, 1)
        inside = [
            self._covered(drawn[:, :, axis], sides[:, None], length)
            for axis, length in enumerate((height, width))
        ]
        signs = 2.0 * self.threat.epsilon * random_signs(drawn[:, :, 2:])
        rows = signs[:, :, :, None, None] * inside[0][:, :, None, :, None]
        return _Windows(first=first, rows=rows, columns=inside[1][:, :, None, None, :].to(rows))

    def _covered(self, drawn: Tensor, sides: Tensor, length: int) -> Tensor:
        """[N B length]: whether the pixel lies in the window, along one axis."""
        first = (drawn * places(sides, length, self.noise)).long()[:, :, None]
        pixel = torch.arange(length, device=drawn.device)
        return (pixel >= first) & (pixel < first + sides[:, :, None])
