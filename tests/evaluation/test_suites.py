import pytest

from evaluation.parts import THREAT, Calls
from lrat.attacks import APGD, PGD
from lrat.errors import SettingError
from lrat.evaluation import Member, Suite, custom, quick, tier
from lrat.evaluation.suites import describe_threat, replaced
from lrat.losses import cross_entropy, cw, targeted_dlr
from lrat.threat import L2, Linf


def test_quick_is_the_papers_protocol():
    suite = quick(THREAT)
    assert suite.names == ("natural", "pgd-20", "cw-20")
    for member, loss in zip(suite.members, (cross_entropy, cw), strict=True):
        attack = member.attack
        assert isinstance(attack, PGD)
        assert (attack.steps, attack.start, attack.loss) == (20, "uniform", loss)
        assert attack.step_size == THREAT.epsilon / 4


def test_tier_adds_auto_pgd():
    suite = tier(THREAT, 10)
    assert suite.names == ("natural", "pgd-20", "cw-20", "apgd-ce", "apgd-t")
    plain, targeted = (member.attack for member in suite.members[2:])
    assert plain == APGD(threat=THREAT, steps=100, loss=cross_entropy, retire_every=10)
    settings = {"loss": targeted_dlr, "targets": 9, "retire_every": 10}
    assert targeted == APGD(threat=THREAT, steps=100, **settings)


def test_tier_on_few_classes_is_the_same_and_says_at_how_many_it_aims():
    assert tier(THREAT, 4) == tier(THREAT, 10)
    assert replaced(tier(THREAT, 4), 4) == ("apgd-t aims at 3 wrong classes instead of 9",)
    assert replaced(tier(THREAT, 10), 10) == ()


def test_an_epsilon_of_0_is_said():
    assert replaced(quick(Linf(epsilon=0.0)), 10) == (
        "epsilon is 0, so nothing can be attacked: these are natural accuracies",
    )
    assert replaced(quick(THREAT), 10) == ()


def test_tier_refuses_a_single_class():
    with pytest.raises(SettingError, match=r"classes=1.*>= 2"):
        tier(THREAT, 1)


def test_custom_takes_attacks_and_plain_callables():
    attack = PGD(threat=THREAT, steps=2, step_size=0.1)
    suite = custom(THREAT, {"pgd": attack, "mine": Calls()}, name="own")
    assert (suite.name, suite.names) == ("own", ("natural", "pgd", "mine"))
    assert suite.members[0].attack is attack


def test_a_description_has_no_address():
    def mine(model, images, labels):
        return images

    (member,) = custom(THREAT, {"mine": mine}).members
    assert "mine" in member.description
    assert "0x" not in member.description


@pytest.mark.parametrize("name", ["", "natural", "a/b", "../x", ".hidden", "a b"])
def test_names_that_cannot_name_files_are_refused(name):
    attack = PGD(threat=THREAT, steps=1, step_size=0.1)
    with pytest.raises(SettingError, match="attack name"):
        Member(name=name, attack=attack)


def test_a_name_twice_is_refused():
    member = quick(THREAT).members[0]
    with pytest.raises(SettingError, match="pgd-20 twice"):
        Suite(name="double", threat=THREAT, members=(member, member))


def test_threats_are_described_exactly():
    assert describe_threat(Linf(epsilon=8 / 255)) == "Linf(epsilon=8/255)"
    assert describe_threat(Linf(epsilon=0.03)) == "Linf(epsilon=0.03)"
    assert describe_threat(L2(epsilon=0.5)) == "L2(epsilon=0.5)"
