"""Comparison of evaluated runs: two of them, groups of them, or one over its attack seeds."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from lrat.config.catalogue import FOLD_OVERLAP, folds_by_seed
from lrat.config.sections import leaves
from lrat.config.settings import RunConfig
from lrat.errors import ConfigurationError, DataError
from lrat.evaluation import Comparison, EvaluationResult
from lrat.evaluation import compare as compare_results
from lrat.evaluation.comparison.group_scores import compare_groups
from lrat.evaluation.comparison.groups import Group, GroupComparison, Run
from lrat.evaluation.comparison.seeds import AttackSeedSpread, attack_seed_spread
from lrat.files.names import CONTENTS
from lrat.files.read import read_record
from lrat.files.write import write_json
from lrat.runs.folder import (
    checkpoint_of,
    evaluated,
    named_paths,
    of_other_seeds,
    one_of_each,
    read_config,
    run_of,
)

Result: TypeAlias = Comparison | GroupComparison | AttackSeedSpread


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A comparison and the paths that it compares. ``kind``: "pair", "groups" or "attack seeds";
    ``names``: those that the user gave."""

    kind: str
    paths: tuple[Path, ...]
    result: Result
    names: Mapping[Path, str] = field(default_factory=dict)

    def __str__(self) -> str:
        """The tables; those of a pair below the two names."""
        if self.kind != "pair":
            return str(self.result)
        first, second = (self.names.get(path, path) for path in self.paths)
        return f"a: {first}\nb: {second}\n\n{self.result}"

    def record(self) -> dict[str, Any]:
        """Plain values for JSON; intervals are 95 %, shares fractions."""
        paths = [str(path) for path in self.paths]
        return {"kind": self.kind, "places": paths, **self.result.record()}

    def write(self, path: Path) -> None:
        """``record`` as a JSON file, atomically."""
        write_json(path, self.record())


def compare(
    *runs: Path | str | EvaluationResult, suite: str | None = None
) -> "Compared | Comparison":
    """Compare evaluated runs, as ``lrat compare`` does: ``print`` what comes back, or read it.

    Each a run folder, an evaluation's folder, or the result of ``lrat.evaluate``. Two: paired tests
    on the images that both have (the only form for results, which keep no training seed). Three or
    more folders: runs that differ in their seed alone are one group. One folder: its evaluations
    with several attack seeds. ``suite`` chooses where folders hold several evaluations. Raises
    ``LratError`` in one line for what cannot be compared.
    """
    results = [run for run in runs if isinstance(run, EvaluationResult)]
    if not results:
        return compare_places([str(run) for run in runs], suite=suite)
    if len(results) != len(runs) or len(results) != 2 or suite is not None:
        raise ConfigurationError(
            "results are compared two at a time, as lrat.compare(result, other); more of them, and "
            "results beside folders, as folders: give lrat.evaluate an out= and name those"
        )
    return compare_results(*results)


def compare_places(called: Sequence[Path | str], *, suite: str | None = None) -> Compared:
    """Compare runs or evaluation folders, each ``called`` PATH or NAME=PATH.

    Two: paired tests on the images that both have. Three or more: runs of one configuration that
    differ in their training seed form a group, and every group is compared with the first one's.
    One: its evaluations with several attack seeds. Where a run has several evaluations, the one
    that all have is meant, or ``suite`` chooses (a name or a file). Raises ``LratError`` in one
    line for everything that cannot be compared.
    """
    paths, names = named_paths(called)
    if not paths:
        raise ConfigurationError("name the runs to compare: `lrat compare RUN RUN`")
    if len(paths) == 1:
        return Compared(
            kind="attack seeds", paths=tuple(paths), result=_over_attack_seeds(paths[0], suite)
        )
    folders = one_of_each(paths, suite)
    _refuse_twice(paths, folders)
    results = [EvaluationResult.from_folder(folder) for folder in folders]
    if len(paths) == 2:
        _refuse_other_folds(paths, folders)
        pair = compare_results(*results)
        return Compared(kind="pair", paths=tuple(paths), result=pair, names=names)
    runs = [
        _evaluated(path, folder, result, names.get(path))
        for path, folder, result in zip(paths, folders, results, strict=True)
    ]
    groups = compare_groups(_groups(runs))
    return Compared(kind="groups", paths=tuple(paths), result=groups, names=names)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Evaluated:
    """A run with what its configuration says; ``key``: equal for runs of one group."""

    run: Run
    key: str
    method: str
    settings: dict[str, Any]


def _evaluated(
    path: Path, folder: Path, result: EvaluationResult, called: str | None
) -> _Evaluated:
    home = run_of(folder)
    if home is None:
        # A model without a run: nothing is known of its training.
        run = Run(name=str(path), result=result)
        name = called or path.name or str(path)
        return _Evaluated(run=run, key=str(folder.resolve()), method=name, settings={})
    config = read_config(home)
    checkpoint = checkpoint_of(folder)
    key = f"{called} {_seedless(config).digest()} {_contents(home)} {checkpoint}"
    folds = folds_by_seed(config.data.name)
    return _Evaluated(
        run=Run(
            name=str(path),
            result=result,
            seed=config.seed,
            source=config.data.name if folds else None,
            overlap=FOLD_OVERLAP if folds else 0.0,
        ),
        key=key,
        method=called or config.method.name,
        settings={**dict(leaves(_seedless(config).result_settings())), "checkpoint": checkpoint},
    )


def _groups(runs: Sequence[_Evaluated]) -> list[Group]:
    """In the order in which their first runs were named."""
    by_key: dict[str, list[_Evaluated]] = {}
    for each in runs:
        by_key.setdefault(each.key, []).append(each)
    firsts = [same[0] for same in by_key.values()]
    return [
        Group(name=name, runs=tuple(each.run for each in same))
        for name, same in zip(_names(firsts), by_key.values(), strict=True)
    ]


def _names(groups: Sequence[_Evaluated]) -> list[str]:
    """A group's method; with the settings in which it differs from others of its method, or
    with its number where these are many."""
    names = []
    for number, group in enumerate(groups, start=1):
        alike = [other.settings for other in groups if other.method == group.method]
        differing = [
            f"{key.rpartition('.')[2]}={value}"
            for key, value in group.settings.items()
            if any(other.get(key) != value for other in alike)
        ]
        if len(alike) == 1:
            names.append(group.method)
        elif 0 < len(differing) <= 2:
            names.append(f"{group.method} {' '.join(differing)}")
        else:
            names.append(f"{group.method} ({number})")
    return names


def _over_attack_seeds(path: Path, suite: str | None) -> AttackSeedSpread:
    results = [EvaluationResult.from_folder(folder) for folder in of_other_seeds(path, suite)]
    return attack_seed_spread(sorted(results, key=lambda result: result.seed))


def _refuse_other_folds(paths: Sequence[Path], folders: Sequence[Path]) -> None:
    """Say why two runs on digits have other images, where the digests alone would say that."""
    homes = [run_of(folder) for folder in folders]
    configs = [None if home is None else read_config(home) for home in homes]
    if any(config is None or not folds_by_seed(config.data.name) for config in configs):
        return
    data = [evaluated(folder, "data") for folder in folders]
    seeds = [config.seed for config in configs if config is not None]
    if data[0] != data[1] and seeds[0] != seeds[1]:
        raise DataError(
            f"{paths[0]} and {paths[1]} were tested on other digits: the test images follow the "
            f"training seed ({seeds[0]} and {seeds[1]}): train both with one --seed, or compare "
            "several seeds of each"
        )


def _refuse_twice(paths: Sequence[Path], folders: Sequence[Path]) -> None:
    seen: dict[Path, Path] = {}
    for path, folder in zip(paths, folders, strict=True):
        real = folder.resolve()
        if real in seen:
            also = "" if seen[real] == path else f" (also as {seen[real]})"
            raise ConfigurationError(f"{path} is named twice{also}: name every run once")
        seen[real] = path


def _seedless(config: RunConfig) -> RunConfig:
    return config.model_copy(update={"seed": 0})


def _contents(run: Path) -> str:
    """Digests of a user's model file and of given weights, which the configuration only names."""
    contents = read_record(run / CONTENTS, "bring it back", may_lack=True)
    return f"{contents.get('model file', '')} {contents.get('weights', '')}"
