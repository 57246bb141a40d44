"""Every method by the name that the command line knows, for suites with one row per method."""

from lrat.config import build
from lrat.config.catalogue import METHODS
from lrat.config.method import MethodSettings
from lrat.methods import Simulated, gairat, gd, lrat, lsat, natural, sat, trades, weak_mix
from lrat.objectives import Objective


def recipes(simulated: Simulated) -> dict[str, Objective]:
    """As the catalogue has them."""
    return {name: build.method(MethodSettings(name=name), simulated) for name in METHODS}


def in_python(simulated: Simulated) -> dict[str, Objective]:
    """The same by the functions of ``lrat.methods``."""
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


NAMES = list(METHODS)
