import pytest

from lrat.experiments.meter import Part, Profile, aligned


def profile(**changed: object) -> Profile:
    settings = {
        "title": "sat on digits",
        "view": "the model in float32",
        "images": 500,
        "parts": (
            Part(name="attack forward", seconds=1, passes=5000, flop=2e11, precision="bfloat16"),
            Part(name="update", seconds=2, passes=1000, flop=1e11),
            Part(name="rest", seconds=1),
        ),
        "peaks": {"float32": 1e11, "bfloat16": 4e11},
        "activations": 8400,
        "plain_activations": 1_216_600,
    }
    return Profile(**{**settings, **changed})


def test_a_profile_prints_as_an_aligned_table() -> None:
    assert str(profile()) == "\n".join(
        [
            "sat on digits",
            "attacks see the model in float32",
            "",
            "                  share  s/1,000 images  passes/image  GFLOP/s  of peak",
            "attack forward   25.0 %           2.000         10.00    200.0     50 %",
            "update           50.0 %           4.000          2.00     50.0     50 %",
            "rest             25.0 %           2.000             –        –        –",
            "total           100.0 %           8.000         12.00     75.0     38 %",
            "",
            "peak, the fastest matrix product here: 100.0 in float32, 400.0 in bfloat16 (GFLOP/s)",
            "saved activations of an attack's pass: 8.4 kB per image; through the model itself "
            "1,216.6 kB",
        ]
    )


def test_the_share_of_peak_is_the_time_that_the_peak_would_take() -> None:
    # Half a second in bfloat16 and one in float32, of four.
    assert profile().share_of_peak == pytest.approx(1.5 / 4)


def test_attacks_have_shares_of_all_the_time() -> None:
    shown = str(profile(attacks={"pgd-20": 1.0, "apgd-t": 2.0})).splitlines()[-1]
    assert shown == "by attack: pgd-20 25.0 %, apgd-t 50.0 %"


def test_nothing_is_invented_where_flop_are_unknown() -> None:
    unknown = profile(parts=(Part(name="rest", seconds=1), Part(name="data", seconds=0, flop=0.0)))
    assert unknown.share_of_peak is None
    total = str(unknown).splitlines()[6]
    assert total.split() == ["total", "100.0", "%", "2.000", "0.00", "–", "–"]


@pytest.mark.parametrize(
    ("peak", "unit"), [(3e12, "TFLOP/s"), (3e9, "GFLOP/s"), (3e6, "MFLOP/s"), (3e3, "MFLOP/s")]
)
def test_the_unit_suits_the_lowest_peak(peak: float, unit: str) -> None:
    assert unit in str(profile(peaks={"float32": peak, "bfloat16": 1e16}))


def test_columns_are_aligned() -> None:
    assert aligned([["a", "1"], ["bcd", "100"]]) == ["a      1", "bcd  100"]
