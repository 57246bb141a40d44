"""A cheaper SAA is one setting away, in the command and in its run's configuration."""

from pathlib import Path

from experiments.commands import done, records
from lrat.config import build
from lrat.config.settings import load_config, parse_assignments, read_settings


def test_keep_reaches_the_attack_and_comes_back_from_yaml(tmp_path: Path) -> None:
    given = parse_assignments(["attack.saa_keep={6: 1}", "method.name=lrat-saa"])
    config = load_config(given)
    (term,) = build.objective(config).terms
    assert term.attack.keep == {6: 1}
    (tmp_path / "again.yaml").write_text(config.to_yaml())
    assert load_config(read_settings(tmp_path / "again.yaml")) == config
    assert config.digest() != load_config({"method": {"name": "lrat-saa"}}).digest()


def test_training_with_it_spends_fewer_passes(tmp_path: Path) -> None:
    tiny = ("--epochs", "1", "--set", "model.width=4", "--set", "attack.saa_steps=8")
    done("train", "lsat-saa", *tiny, "--out", tmp_path / "exact")
    cheaper = ("--set", "attack.saa_keep={3: 1}")
    done("train", "lsat-saa", *tiny, *cheaper, "--out", tmp_path / "cheaper")
    spent = [
        records(tmp_path / name)[0]["passes"]["attack_forwards"] for name in ("exact", "cheaper")
    ]
    # Three targets of 9 iterates each, or 4 iterates each and 5 of the one kept; one clean pass.
    assert spent == [3 * 9 + 1, 3 * 4 + 5 + 1]
