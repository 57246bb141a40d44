"""Which of several ends is told. Real processes, without anything that connects them."""

import multiprocessing

import pytest

from experiments.tasks import end
from lrat.errors import Interrupted, LratError, SettingError
from lrat.experiments.team import in_team

pytestmark = pytest.mark.xdist_group("processes")


@pytest.mark.parametrize(
    ("ends", "kind", "told"),
    [
        (("lost", "refuse late"), SettingError, "^refuse late: this cannot be made$"),
        (("raise", "die late"), LratError, "^process 2 of 2 ended by SIGKILL: out of memory, "),
        (("save late", "save"), Interrupted, "^save late: saved$"),
        (("stop", "lost"), Interrupted, "^stopped by SIGINT while no step was under way: "),
    ],
)
def test_the_end_that_explains_most_is_told(
    ends: tuple[str, str], kind: type[LratError], told: str
) -> None:
    with pytest.raises(kind, match=told):
        in_team(end(*ends), 2, saves_itself=True)
    assert multiprocessing.active_children() == []


def test_what_the_first_one_returns_comes_back_as_it_is() -> None:
    assert in_team(end("a"), 1, saves_itself=False) == "a"
