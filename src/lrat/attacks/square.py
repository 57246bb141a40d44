"""Square: a random search that asks the model for scores alone (Andriushchenko et al. 2020)."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lrat.attacks.base import GradientAttack, Trace, Variant
from lrat.attacks.square_moves import L2Moves, LinfMoves, Moves
from lrat.checks import check_fields
from lrat.data.inputs import check_logits
from lrat.errors import DataError, SettingError
from lrat.losses import LossLike, Prepared, as_loss, cw, probability_margin
from lrat.outputs import forward_logits
from lrat.randomness import Noise
from lrat.threat import BALL, L2, BallLike, Linf
from lrat.types import Images, Labels, Logits


@dataclass(frozen=True, kw_only=True)
class Square(GradientAttack):
    """Random search over square windows, without a gradient: AutoAttack's black-box member.

    ``queries`` proposals per restart after the start, one forward each; an image takes a proposal
    that raises its ``loss`` or that is misclassified, and keeps its point once it is fooled. A loss
    of one's own, ``(logits, labels) -> [B]``, is ascended; success is the argmax's alone.
    ``p_init``: the share of the image that the first windows cover (Sec. 3.1 of the paper), halved
    as AutoAttack halves it. For L_inf and L2 balls; SettingError for others.

    With ``Keyed`` noise each image has its own windows and signs. With ``Sequential`` noise the
    batch shares them and the numbers are drawn as AutoAttack draws them, from a CPU generator. In
    an L2 ball those draws depend on how many images are left, which is read once per query; but for
    that, nothing waits for the device.

    ``retire_every=N``: before every N-th query the images that are fooled leave the batch, and the
    search ends when none is left; nothing changes for the others. None keeps the batch as it is.
    Between restarts the fooled leave always.

    Returns per image the point it was fooled at, else its best-loss point (of several restarts the
    one with the smallest probability margin). ``trace.step`` is the query that found it, 0 for the
    start; ``trace.source`` the restart.
    """

    threat: BallLike
    queries: int = 5000
    p_init: float = 0.8
    restarts: int = 1
    loss: LossLike = cw
    retire_every: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, threat=BALL)
        if not isinstance(self.threat, Linf | L2):
            raise SettingError(f"Square(threat={self.threat!r}): the threat must be Linf or L2")
        object.__setattr__(self, "loss", as_loss(self.loss))
        if as_loss(self.loss).targeted:
            raise SettingError(
                f"Square(loss={self.loss!r}): a targeted loss needs targets; use APGD(targets=...)"
            )

    @property
    def needs_clean(self) -> bool:
        return as_loss(self.loss).needs_clean

    def perturb(
        self, model: nn.Module, images: Images, labels: Labels, noise: Noise, clean: Logits | None
    ) -> Variant:
        if images.dim() != 4:
            raise DataError(
                f"Square moves squares in images [B C H W], but got {list(images.shape)}: attack "
                "other inputs by PGD, APGD or FAB"
            )
        loss = as_loss(self.loss).prepare(labels, clean)
        found = _Found.empty(images, labels)
        left = torch.arange(len(images), device=images.device)
        for restart in range(self.restarts):
            if restart > 0:
                left = left[~found.fooled[left]]
            if len(left) == 0:
                break
            moves = self._moves(images[left], noise.child(restart).select(left))
            run = _Search.begin(model, loss.select(left), moves, labels[left], left)
            self._search(run, found, restart)
        return found.variant()

    def _moves(self, center: Tensor, noise: Noise) -> Moves:
        if isinstance(self.threat, Linf):
            return LinfMoves.around(
                center, self.threat, noise, queries=self.queries, p_init=self.p_init
            )
        if isinstance(self.threat, L2):
            return L2Moves.around(
                center, self.threat, noise, queries=self.queries, p_init=self.p_init
            )
        raise SettingError(f"Square(threat={self.threat!r}): the threat must be Linf or L2")

    def _search(self, run: "_Search", found: "_Found", restart: int) -> None:
        for query in range(self.queries):
            if self.retire_every is not None and query % self.retire_every == 0:
                gone = run.fooled.nonzero().flatten()
                if len(gone) > 0:
                    found.take(run.select(gone), restart)
                    run = run.select((~run.fooled).nonzero().flatten())
                if len(run.row) == 0:
                    return
            run.ask(query)
        found.take(run, restart)


@dataclass
class _Search:
    """A search after ``asked`` forwards; every tensor has a row per image, so rows can leave.

    ``best`` [B C H W] with its ``logits``, ``losses`` and the number of its query in ``step``.
    ``row`` [B] numbers the images as the attack was given them.
    """

    model: nn.Module
    loss: Prepared
    moves: Moves
    labels: Tensor
    row: Tensor
    best: Tensor
    logits: Tensor
    losses: Tensor
    step: Tensor
    fooled: Tensor
    asked: int = 1

    @staticmethod
    def begin(
        model: nn.Module, loss: Prepared, moves: Moves, labels: Tensor, row: Tensor
    ) -> "_Search":
        start = moves.start()
        logits = forward_logits(model, start)
        check_logits(logits)
        return _Search(
            model=model,
            loss=loss,
            moves=moves,
            labels=labels,
            row=row,
            best=start.clone(),
            logits=logits,
            losses=loss(logits),
            step=torch.zeros_like(labels),
            fooled=logits.argmax(1) != labels,
        )

    def ask(self, query: int) -> None:
        """One forward of one proposal per image, taken where it helps."""
        images = self.moves.propose(self.best, query, self.fooled)
        logits = forward_logits(self.model, images)
        losses, wrong = self.loss(logits), logits.argmax(1) != self.labels
        taken = ((losses > self.losses) | wrong) & ~self.fooled
        # Weights of 0 and 1 interpolate exactly, and several times faster than ``where`` chooses.
        self.best.lerp_(images, taken.to(images).view(-1, 1, 1, 1))
        self.logits = torch.where(taken[:, None], logits, self.logits)
        self.losses = torch.where(taken, losses, self.losses)
        self.step.masked_fill_(taken, query + 1)
        self.fooled |= wrong
        self.asked += 1

    def select(self, rows: Tensor) -> "_Search":
        """The search of these rows (integers) alone, to be gone on with as if it had been so."""
        return replace(
            self,
            loss=self.loss.select(rows),
            moves=self.moves.select(rows),
            **{
                name: getattr(self, name)[rows]
                for name in ("labels", "row", "best", "logits", "losses", "step", "fooled")
            },
        )


@dataclass
class _Found:
    """The point that each image of the batch is returned with, and what it cost."""

    images: Tensor
    margin: Tensor
    step: Tensor
    source: Tensor
    forwards: Tensor
    fooled: Tensor

    @staticmethod
    def empty(images: Tensor, labels: Tensor) -> "_Found":
        zeros = torch.zeros_like(labels)
        return _Found(
            images=images.clone(),
            margin=torch.full(labels.shape, torch.inf, device=labels.device),
            step=zeros.clone(),
            source=zeros.clone(),
            forwards=zeros.clone(),
            fooled=zeros.bool(),
        )

    def take(self, run: _Search, restart: int) -> None:
        """What a search found: fooled images first, then the smaller margin."""
        row, margin = run.row, probability_margin(run.logits, run.labels)
        better = run.fooled | (margin < self.margin[row])
        wide = better[:, None, None, None]
        self.images[row] = torch.where(wide, run.best, self.images[row])
        self.margin[row] = torch.where(better, margin, self.margin[row])
        self.step[row] = torch.where(better, run.step, self.step[row])
        self.source[row] = self.source[row].masked_fill(better, restart)
        self.forwards[row] += run.asked
        self.fooled[row] |= run.fooled

    def variant(self) -> Variant:
        return Variant(
            images=self.images,
            trace=Trace(
                margin=self.margin,
                step=self.step,
                source=self.source,
                forwards=self.forwards,
                backwards=torch.zeros_like(self.forwards),
            ),
        )
