"""Square: a random search that uses the model's logits alone (Andriushchenko et al. 2020)."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from lrat.attacks.base import Best, GradientAttack, Variant
from lrat.attacks.square_moves import L2Moves, LinfMoves, Moves
from lrat.checks import check_fields
from lrat.data.inputs import check_logits
from lrat.errors import DataError, SettingError
from lrat.losses import LossLike, Prepared, as_loss, cw, probability_margin, untargeted_loss
from lrat.outputs import forward_logits
from lrat.randomness import Noise
from lrat.threat import BALL, L2, BallLike, Linf
from lrat.types import Images, Labels, Logits


@dataclass(frozen=True, kw_only=True)
class Square(GradientAttack):
    """Random search over square windows, without a gradient: AutoAttack's black-box member.

    ``queries`` proposals per restart after the start, one forward each; an image takes a proposal
    that raises its ``loss`` or that is misclassified, and keeps its point once it is fooled. The
    loss may be a user's function ``(logits, labels) -> [B]``; success is judged by the class alone.
    ``p_init``: the share of the image that the first windows cover (Sec. 3.1 of the paper), halved
    as in AutoAttack. For L_inf and L2 balls; SettingError for others.

    With ``Keyed`` noise windows and signs differ between images. With ``Sequential`` noise the
    batch shares them, and the numbers are drawn as in AutoAttack, from a CPU generator. In an L2
    ball these draws depend on the number of images not fooled yet, which is read once per query;
    nothing else waits for the device.

    ``retire_every=N``: before every N-th query the fooled images leave the batch, and the search
    ends without images; nothing changes for the others. With None the batch keeps its size. Between
    restarts fooled images always leave.

    Returns per image the point at which it was fooled, else its best-loss point (of several
    restarts the one with the smallest probability margin). ``trace.step`` is the number of its
    query, 0 for the start; ``trace.source`` that of its restart.
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
        object.__setattr__(self, "loss", untargeted_loss(self.loss, "Square"))

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
        best = Best(images, labels)
        rows = torch.arange(len(images), device=images.device)
        kind: Any = LinfMoves if isinstance(self.threat, Linf) else L2Moves
        for restart in range(self.restarts):
            if restart > 0:
                rows = rows[~best.fooled[rows]]
            if len(rows) == 0:
                break
            draws = noise.child(restart).select(rows)
            moves = kind.around(
                images[rows], self.threat, draws, queries=self.queries, p_init=self.p_init
            )
            run = _Search.begin(model, loss.select(rows), moves, labels[rows], rows)
            self._search(run, best, restart)
        return best.variant()

    def _search(self, run: "_Search", best: Best, restart: int) -> None:
        for query in range(self.queries):
            if self.retire_every is not None and query % self.retire_every == 0:
                fooled = run.fooled.nonzero().flatten()
                if len(fooled) > 0:
                    run.select(fooled).put(best, restart)
                    run = run.select((~run.fooled).nonzero().flatten())
                if len(run.row) == 0:
                    return
            run.advance(query)
        run.put(best, restart)


@dataclass
class _Search:
    """A search after so many ``forwards``; every tensor has a row per image, so rows can leave.

    ``best`` [B C H W] with its ``logits``, ``losses`` and the number of its query in ``step``.
    ``row`` [B]: the images' numbers in the batch of the attack.
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
    forwards: int = 1

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

    def advance(self, query: int) -> None:
        """Forward one proposal per image, and take it where it is better."""
        images = self.moves.propose(self.best, query, self.fooled)
        logits = forward_logits(self.model, images)
        losses, wrong = self.loss(logits), logits.argmax(1) != self.labels
        better = ((losses > self.losses) | wrong) & ~self.fooled
        # Interpolation with weights of 0 and 1 is exact, and several times faster than ``where``.
        self.best.lerp_(images, better.to(images).view(-1, 1, 1, 1))
        self.logits = torch.where(better[:, None], logits, self.logits)
        self.losses = torch.where(better, losses, self.losses)
        self.step.masked_fill_(better, query + 1)
        self.fooled |= wrong
        self.forwards += 1

    def put(self, best: Best, restart: int) -> None:
        """Write the points of the search into ``best``."""
        best.take(
            self.row,
            self.best,
            margin=probability_margin(self.logits, self.labels),
            fooled=self.fooled,
            step=self.step,
            source=restart,
            forwards=self.forwards,
            backwards=0,
        )

    def select(self, rows: Tensor) -> "_Search":
        """The search of these rows (integers) alone, which can be continued like the whole one."""
        return replace(
            self,
            loss=self.loss.select(rows),
            moves=self.moves.select(rows),
            **{
                name: getattr(self, name)[rows]
                for name in ("labels", "row", "best", "logits", "losses", "step", "fooled")
            },
        )
