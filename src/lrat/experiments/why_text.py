"""The story of one image in words and tables."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lrat.evaluation import NATURAL, Outcomes
from lrat.evaluation.outcomes import UNKNOWN
from lrat.evaluation.story import AttackStory, Path, Story
from lrat.text import aligned

_MOST_CLASSES = 5
_MOST_POINTS = 10
_MOST_PATHS = 9


@dataclass(frozen=True, kw_only=True)
class ExplanationParts:
    """A story, and what an evaluation has stored about the same image (None: nothing)."""

    run: str
    data: str
    class_names: Sequence[str]
    threat: str
    seed: int
    seen: str | None
    story: Story
    stored: Outcomes | None
    notes: tuple[str, ...]

    def name(self, number: int) -> str:
        """A class by number, and by name where it has one of its own."""
        if number >= len(self.class_names) or self.class_names[number] == str(number):
            return str(number)
        return f"{number} {self.class_names[number]}"

    def named(self, number: int, label: int) -> str:
        """A class, marked where it is the label's."""
        return self.name(number) + (" (label)" if number == label else "")

    def words(self, row: Outcomes) -> str:
        """The class that the model sees, and under it the logit margin."""
        return f"{self.name(int(row.prediction[0]))}\nmargin {float(row.margin[0]):+.3g}"

    @property
    def caption(self) -> str:
        story = self.story
        ran = [attack.name for attack in story.attacks if attack.image is not None]
        about = f"Image {story.index} of {self.data}, label {self.name(story.label)}; {self.run}"
        shown = (
            "Each attack's perturbation (the largest change at full scale), its image with the "
            "class on it, and the logit margin of what it sent through the model, forward by "
            "forward; crosses mark the first that was misclassified inside the threat"
        )
        return (
            f"{about}. {shown}. Attacks {', '.join(ran) or 'none'} inside {self.threat}; n 1 "
            f"image, seed {self.seed}."
        )

    @property
    def differing(self) -> list[str]:
        """Attacks whose stored verdict is another than the one of the image alone."""
        if self.stored is None:
            return []
        rows = [(NATURAL, self.story.natural)]
        rows += [(attack.name, attack.row) for attack in self.story.attacks]
        return [
            f"{name}: the stored verdict is {_verdict(stored)} (margin "
            f"{float(stored.margin[0]):+.4g}), here it is {_verdict(row)} (margin "
            f"{float(row.margin[0]):+.4g}): float32 results depend on the batch in the last bits"
            for name, row in rows
            if len(stored := self.stored.under(name)) and stored.fooled[0] != row.fooled[0]
        ]

    def __str__(self) -> str:
        story = self.story
        header = [
            f"image {story.index} of {self.data}, label {self.name(story.label)}",
            f"{self.run}, {self.threat}, seed {self.seed}",
            *([self.seen] if self.seen else []),
            f"clean: {self.name(int(story.natural.prediction[0]))}, "
            f"{'wrong' if story.natural.fooled[0] else 'right'}, logit margin "
            f"{float(story.natural.margin[0]):+.4f}",
        ]
        parts = ["\n".join(header), self._classes(), self._attacks()]
        parts += [words for attack in story.attacks for words in self._ways(attack)]
        parts.append("\n".join(f"note: {note}" for note in (*self.notes, *self._agreement())))
        return "\n\n".join(part for part in parts if part)

    def _agreement(self) -> list[str]:
        if self.stored is None:
            return []
        return self.differing or ["every verdict is the stored one"]

    def _classes(self) -> str:
        """The most probable classes of the clean image, the label's among them."""
        story = self.story
        order = np.argsort(-story.logits, kind="stable").tolist()
        shown = order[:_MOST_CLASSES]
        shown += [] if story.label in shown else [story.label]
        rows = [("class", "logit", "probability %")]
        rows += [
            (
                self.named(number, story.label),
                f"{story.logits[number]:+.4f}",
                f"{100 * story.probabilities[number]:.2f}",
            )
            for number in shown
        ]
        return aligned(rows)

    def _attacks(self) -> str:
        header = ("attack", "verdict", "class", "margin", "step", "source", "distance")
        costs = ("forwards", "backwards", "first wrong")
        rows = [(*header, *costs, *(("stored",) if self.stored is not None else ()))]
        for attack in self.story.attacks:
            row, ran = attack.row, attack.image is not None
            cells = (
                attack.name,
                _verdict(row) if ran else _why_not(self.story),
                self.name(int(row.prediction[0])),
                f"{float(row.margin[0]):+.4f}",
                _known(row.step[0]),
                _known(row.source[0]),
                f"{float(row.distance[0]):.4f}",
                f"{float(row.forwards[0]):g}",
                f"{float(row.backwards[0]):g}",
                _first_wrong(attack) if ran else "-",
            )
            rows.append((*cells, *self._stored(attack.name)))
        return aligned(rows)

    def _stored(self, name: str) -> tuple[str, ...]:
        if self.stored is None:
            return ()
        row = self.stored.under(name)
        return (f"{_verdict(row)} {float(row.margin[0]):+.4f}" if len(row) else "-",)

    def _ways(self, attack: AttackStory) -> Iterator[str]:
        """Some points of each path: its ends, its first failure, and steps between."""
        count = len(attack.paths)
        if attack.calls > 1:
            yield (
                f"{attack.name}: fooled the view but not the model, and ran again without the view"
            )
        for number, path in enumerate(attack.paths[:_MOST_PATHS]):
            title = attack.name if count == 1 else f"{attack.name}, path {number + 1} of {count}"
            points = _points(path)
            rows = [
                ("forward", *(str(path.forward[at]) for at in points)),
                ("logit margin", *(f"{path.margin[at]:+.3g}" for at in points)),
                ("class", *(str(path.prediction[at]) for at in points)),
            ]
            yield f"{title}\n{aligned(rows)}"


def _points(path: Path) -> list[int]:
    last = len(path.forward) - 1
    points = {round(last * part / (_MOST_POINTS - 1)) for part in range(_MOST_POINTS)}
    if path.failure is not None:
        points.add(int(np.flatnonzero(path.forward == path.failure)[0]))
    return sorted(point for point in points if point >= 0)


def _verdict(row: Outcomes) -> str:
    return "fooled" if row.fooled[0] else "robust"


def _why_not(story: Story) -> str:
    return "wrong when clean" if story.natural.fooled[0] else "fooled before"


def _known(value: Any) -> str:
    return "-" if value == UNKNOWN else str(value)


def _first_wrong(attack: AttackStory) -> str:
    """The first misclassified forward inside the threat; an attack need not look at what it
    returns."""
    if attack.failure is not None:
        return str(attack.failure)
    return "the result" if attack.row.fooled[0] else "never"
