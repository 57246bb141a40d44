"""Every method by the name that the command line knows, for suites with one row per method."""

from lrat.config import build
from lrat.config.catalogue import METHODS
from lrat.config.method import MethodSettings
from lrat.methods import Simulated, gairat, gd, lrat, lsat, natural, sat, trades, weak_mix
from lrat.objectives import Objective


def in_catalogue(simulated: Simulated) -> dict[str, Objective]:
    """All that the catalogue has."""
    return {name: build.method(MethodSettings(name=name), simulated) for name in METHODS}


def recipes(simulated: Simulated) -> dict[str, Objective]:
    """The paper's and TRADES, by the functions of ``lrat.methods``."""
    return {
        "natural": natural(),
        "sat": sat(simulated),
        "gairat": gairat(simulated),
        "gairat-cw": gairat(simulated, "cw"),
        "lsat-cw": lsat(simulated, "cw"),
        "lsat-saa": lsat(simulated, "saa"),
        "lsat-saa+cw": lsat(simulated, "saa", "cw"),
        "lrat-pgd": lrat(simulated, ["pgd"]),
        "lrat-cw": lrat(simulated, ["cw"]),
        "lrat-saa": lrat(simulated, ["saa"]),
        "lrat-saa+cw": lrat(simulated),
        "gd+cw": gd(simulated, ["cw"]),
        "gd+saa": gd(simulated, ["saa"]),
        "saa+cw+gd": gd(simulated, ["saa", "cw"]),
        "pgd+fgsm": weak_mix(simulated),
        "trades": trades(simulated),
    }


NAMES = [
    *("natural", "sat", "gairat", "gairat-cw", "lsat-cw", "lsat-saa"),
    *("lsat-saa+cw", "lrat-pgd", "lrat-cw", "lrat-saa", "lrat-saa+cw"),
    *("gd+cw", "gd+saa", "saa+cw+gd", "pgd+fgsm", "trades"),
]
