"""What may be concluded from a group of runs on the same images, in short sentences."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lrat.evaluation.comparison.words import written_p
from lrat.reporting.report.records import PairRecord, Share

_MOST_NAMED = 6


@dataclass(frozen=True, kw_only=True)
class GroupFindings:
    """``shares``: worst cases by run, best first; ``worst``: the tests of them by pair, in that
    order."""

    title: str
    shares: Mapping[str, Share]
    worst: Mapping[tuple[str, str], PairRecord]

    @property
    def best(self) -> str:
        return next(iter(self.shares))

    def against_best(self) -> list[PairRecord]:
        """The best run against each other that could be tested."""
        return [pair for (first, _), pair in self.worst.items() if first == self.best]


def group_sentences(found: GroupFindings) -> list[str]:
    """The best by worst case, who cannot be told apart from it, who can."""
    best, shares = found.best, found.shares
    if len(shares) == 1:
        return [f"{best} is alone here: its worst case is {written_share(shares[best])}."]
    tied = [name for name in shares if shares[name].value == shares[best].value]
    if len(tied) > 1:
        sentences = [
            f"{listed(tied)} have the same worst case, the best: {written_share(shares[best])}."
        ]
    else:
        sentences = [f"{best} has the best worst case: {written_share(shares[best])}."]
    pairs = found.against_best()
    same = [pair.second for pair in pairs if not pair.distinguishable and pair.second not in tied]
    worse = [pair for pair in pairs if pair.distinguishable]
    if same:
        sentences.append(
            f"{listed(same)} cannot be told apart from {best} on {shares[best].n} images."
        )
    if worse:
        told = [
            f"{pair.second} by {100 * pair.difference:.1f} points (p {_p(pair)})" for pair in worse
        ]
        sentences.append(f"{best} is better than {listed(told)}.")
    untested = [name for name in shares if name not in {best, *(pair.second for pair in pairs)}]
    if untested:
        sentences.append(f"{listed(untested)} could not be tested against {best}.")
    return sentences


def _p(pair: PairRecord) -> str:
    return written_p(pair.p if pair.p_adjusted is None else pair.p_adjusted)


def written_share(share: Share) -> str:
    """``65.5 % [58.7, 71.7] of 200 images``."""
    low, high = 100 * share.low, 100 * share.high
    images = f"{share.n} image" if share.n == 1 else f"{share.n} images"
    return f"{100 * share.value:.1f} % [{low:.1f}, {high:.1f}] of {images}"


def listed(names: Sequence[str]) -> str:
    """``a, b and c``; of many the first ones and how many more."""
    shown = list(names) if len(names) <= _MOST_NAMED else list(names[: _MOST_NAMED - 2])
    more = len(names) - len(shown)
    if more:
        return f"{', '.join(shown)} and {more} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
