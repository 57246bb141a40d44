"""The moves of Square: shrinking windows, the start and the proposals in L_inf and in L2 balls.

In an L_inf ball a window gets random signs. In an L2 ball bumps of two signs move mass from window
to window: Section 3.4 of Andriushchenko et al. (2020), in the version of AutoAttack.
"""

import math
from bisect import bisect_left
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lrat.randomness import Noise
from lrat.threat import L2, Linf

BLOCK = 100
_HALVED_AFTER = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)

_TINY = 1e-12
_TILES = 5
_SMALLEST = 3


@runtime_checkable
class Moves(Protocol):
    """The start and the proposals of a search, for one batch of B images."""

    def start(self) -> Tensor:
        """[B C H W], inside the ball."""
        ...

    def propose(self, best: Tensor, query: int, fooled: Tensor) -> Tensor:
        """[B C H W], inside the ball: a change of ``best``. ``query`` counts from 0."""
        ...

    def select(self, rows: Tensor) -> "Moves":
        """The moves of these rows (integers), the same as with the other rows."""
        ...


def window_side(query: int, p_init: float, shape: torch.Size, smallest: int = 1) -> int:
    """The side, in pixels, of the square window of a query, for images of shape [C H W].

    The window covers the share p of an image; p halves at fixed queries, independent of their
    number (as in AutoAttack). With ``smallest`` > 1 the side is odd. It is at most the image's.
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


def positions(side: Tensor, length: int, noise: Noise) -> Tensor:
    """The number of positions along ``length`` pixels of which a window's first pixel is drawn.

    The reference never draws the last one, so that the last row and column stay as at the start;
    with noise per image it is drawn.
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

    Every pixel of a window then lies on a bound of the ball or of the box. Windows are drawn in
    blocks of queries, so that a query costs one sum and one clip.
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
        # The intersection of ball and box is a box, so that one clip in place suffices.
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
        first = (drawn * positions(sides, length, self.noise)).long()[:, :, None]
        pixel = torch.arange(length, device=drawn.device)
        return (pixel >= first) & (pixel < first + sides[:, :, None])


def _bump(height: int, width: int) -> Tensor:
    """[height width] of norm 1: highest in the middle, falling in square rings.

    Ring d (the Chebyshev distance from the middle) holds sum_{k >= d} 1 / (k + 1)^2.
    """
    rows = (torch.arange(height) - height // 2).abs()
    columns = (torch.arange(width) - width // 2).abs()
    ring = torch.maximum(rows[:, None], columns)
    bump = torch.zeros(height, width)
    for reach in range(max(height, width) // 2 + 1):
        bump += (ring <= reach) / torch.tensor(reach + 1.0).square()
    return bump / bump.square().sum().sqrt()


def opposed_bumps(side: int) -> Tensor:
    """[2 side side] of norm 1: a bump above a negative one, and the same transposed.

    Eq. 6 of the paper's appendix, as AutoAttack computes it.
    """
    upper = side // 2
    pattern = torch.cat([_bump(upper, side), -_bump(side - upper, side)])
    pattern = pattern / pattern.square().sum().sqrt()
    return torch.stack([pattern, pattern.T])


def _norm(values: Tensor) -> Tensor:
    """The norm over the last dimension, which stays, by a sum that rounds as the reference's."""
    return values.square().sum(-1, keepdim=True).sqrt()


@dataclass(frozen=True)
class _Draws:
    """The draws of N queries: the flat positions of the first pixels of both windows [N B 2],
    whether the bumps are transposed [N B], and their signs [N B C]. B is 1 for shared draws.
    """

    first: int
    corners: Tensor
    transposed: Tensor
    signs: Tensor

    def select(self, rows: Tensor) -> "_Draws":
        return replace(
            self,
            corners=self.corners[:, rows],
            transposed=self.transposed[:, rows],
            signs=self.signs[:, rows],
        )


@dataclass
class L2Moves:
    """Tiles of opposed bumps on the whole image; then, per query, the perturbation's mass in two
    windows moves into the first one, reshaped by a new pair of bumps; the second becomes empty, and
    unused norm goes into the first too.
    """

    threat: L2
    center: Tensor
    noise: Noise
    sides: list[int]
    radius: Tensor
    draws: _Draws | None = None
    shapes: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)

    @staticmethod
    def around(
        center: Tensor, threat: L2, noise: Noise, *, queries: int, p_init: float
    ) -> "L2Moves":
        shape = center.shape[1:]
        sides = [window_side(query, p_init, shape, _SMALLEST) for query in range(queries)]
        # Epsilon in float32, since its square is compared with sums of squares.
        radius = torch.full((), threat.epsilon, device=center.device)
        return L2Moves(threat=threat, center=center, noise=noise, sides=sides, radius=radius)

    def start(self) -> Tensor:
        count, channels, height, width = self.center.shape
        side = max(height // _TILES, 1)
        margin = max(height - _TILES * side, 0) // 2
        tiles = [
            (margin + row * side, margin + column * side)
            for row in range(height // side)
            for column in range(width // side)
        ]
        transposed, signs = self._draw_tiles(len(tiles), count, channels)
        patterns = self._shapes(side)[0].view(2, side, side)
        delta = torch.zeros_like(self.center)
        for (top, left), transpose, sign in zip(tiles, transposed, signs, strict=True):
            # The last tiles may exceed an image whose side is no multiple of five.
            part = delta[:, :, top : top + side, left : left + side]
            bumps = patterns[transpose][:, None] * sign[:, :, None, None]
            part += bumps[:, :, : part.shape[2], : part.shape[3]]
        return self._on_sphere(delta.flatten(1))

    def propose(self, best: Tensor, query: int, fooled: Tensor) -> Tensor:
        if not self.noise.per_image:
            self.draws = self._draw_shared(query, fooled)
        elif self.draws is None or query % BLOCK == 0:
            self.draws = self._draw_block(query)
        offset, side = query - self.draws.first, self.sides[query]
        transposed, signs = self.draws.transposed[offset], self.draws.signs[offset]
        patterns, inside = self._shapes(side)
        bumps = patterns[transposed][:, None] * signs[:, :, None]
        pixels = self.draws.corners[offset][:, :, None] + inside
        pixels = pixels.expand(len(best), -1, -1)
        delta = self._gather(best - self.center, pixels[:, :1], pixels[:, 1:], bumps)
        return self._on_sphere(delta)

    def select(self, rows: Tensor) -> "L2Moves":
        # Shared draws are new for each query, so only those per image are selected.
        draws = self.draws if self.noise.per_image else None
        return replace(
            self,
            center=self.center[rows],
            noise=self.noise.select(rows),
            draws=None if draws is None else draws.select(rows),
        )

    def _gather(self, delta: Tensor, first: Tensor, second: Tensor, bumps: Tensor) -> Tensor:
        """[B C H*W]: ``delta``, in place, with the mass of both windows [B 1 S*S] in the first."""
        count, channels = delta.shape[:2]
        flat = delta.flatten(2)
        either = torch.zeros_like(flat[:, :1]).scatter_(2, torch.cat([first, second], dim=2), 1)
        first, second = (part.expand(count, channels, -1) for part in (first, second))
        window = flat.gather(2, first)
        bumps = bumps + window / (_TINY + _norm(window))
        unused = (self.radius.square() - _norm(delta.flatten(1)).square()).clamp(min=0)[:, :, None]
        mass = (unused / channels + _norm(flat * either).square()).sqrt()
        bumps = bumps / (_TINY + _norm(bumps)) * mass
        return flat.scatter_(2, second, 0.0).scatter_(2, first, bumps)

    def _on_sphere(self, delta: Tensor) -> Tensor:
        """The point at distance epsilon in this direction, clipped to the box."""
        delta = delta.flatten(1)
        moved = (delta / (_norm(delta) + _TINY)).mul_(self.threat.epsilon)
        return moved.view(self.center.shape).add_(self.center).clamp_(0, 1)

    def _shapes(self, side: int) -> tuple[Tensor, Tensor]:
        """For windows of side S: the bumps [2 S*S], and the offsets [S*S] of their pixels from the
        first one in the flat image."""
        if side not in self.shapes:
            step = torch.arange(side)
            inside = (step[:, None] * self.center.shape[3] + step).flatten()
            bumps = opposed_bumps(side).flatten(1)
            self.shapes[side] = bumps.to(self.center.device), inside.to(self.center.device)
        return self.shapes[side]

    def _draw_tiles(self, tiles: int, count: int, channels: int) -> tuple[Tensor, Tensor]:
        """Per tile whether it is transposed ([B] or [1], int64) and its signs [B C]."""
        if self.noise.per_image:
            drawn = self.noise.uniform((count, tiles, 1 + channels), "tiles").transpose(0, 1)
            transposed, signs = drawn[:, :, 0], drawn[:, :, 1:]
        else:
            drawn = self.noise.uniform((tiles, 1 + count * channels), "tiles")
            transposed, signs = drawn[:, :1], drawn[:, 1:].view(tiles, count, channels)
        return (transposed > 0.5).long(), random_signs(signs)

    def _draw_block(self, first: int) -> _Draws:
        sides = self.sides[first : first + BLOCK]
        count, channels = self.center.shape[:2]
        shape = (count, len(sides), 5 + channels)
        drawn = self.noise.uniform(shape, f"windows-{first // BLOCK}").transpose(0, 1)
        return self._as_draws(first, sides, drawn[:, :, :5], drawn[:, :, 5:])

    def _draw_shared(self, query: int, fooled: Tensor) -> _Draws:
        """As the reference: signs for images not fooled alone, whose number the draws depend on.

        Waits for the device.
        """
        count, channels = self.center.shape[:2]
        rows = (~fooled).nonzero().flatten()
        drawn = self.noise.uniform((1, 5 + len(rows) * channels), "windows")
        signs = drawn.new_ones(count, channels)
        signs[rows] = drawn[0, 5:].view(-1, channels)
        return self._as_draws(query, [self.sides[query]], drawn[None, :, :5], signs[None])

    def _as_draws(self, first: int, sides: list[int], shared: Tensor, signs: Tensor) -> _Draws:
        height, width = self.center.shape[2:]
        side = torch.tensor(sides, device=shared.device)[:, None, None]
        rows = (shared[:, :, 0:4:2] * positions(side, height, self.noise)).long()
        columns = (shared[:, :, 1:4:2] * positions(side, width, self.noise)).long()
        return _Draws(
            first=first,
            corners=rows * width + columns,
            transposed=(shared[:, :, 4] > 0.5).long(),
            signs=random_signs(signs),
        )
