from dataclasses import dataclass, field

from lrat.text import as_call


@dataclass(frozen=True, kw_only=True, repr=False)
class Thing:
    size: int
    names: list[str] = field(default_factory=lambda: ["a"])
    later: float | None = None
    kinds: dict[str, int] = field(default_factory=dict)

    def __repr__(self) -> str:
        return as_call(self, quiet=["later", "kinds"])


def test_quiet_fields_are_printed_once_they_differ_from_their_default() -> None:
    assert repr(Thing(size=3)) == "Thing(size=3, names=['a'])"
    assert repr(Thing(size=3, later=0.5)) == "Thing(size=3, names=['a'], later=0.5)"
    assert repr(Thing(size=3, kinds={"x": 1})) == "Thing(size=3, names=['a'], kinds={'x': 1})"


def test_what_is_printed_makes_the_same_thing() -> None:
    for thing in (Thing(size=3), Thing(size=4, names=["b"], later=0.5, kinds={"x": 1})):
        assert eval(repr(thing)) == thing  # noqa: S307
