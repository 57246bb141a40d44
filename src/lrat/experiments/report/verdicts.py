"""Which images each attack of an evaluation fooled: the few columns of the outcomes that tests on
the same images need."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lrat.errors import RunFolderError
from lrat.evaluation.comparison.shared import WORST_CASE, Standing
from lrat.evaluation.outcomes import NATURAL
from lrat.evaluation.result import EvaluationResult
from lrat.evaluation.storage.store import parts_of
from lrat.files.read import read_whole
from lrat.files.write import read_table

_COLUMNS = ("index", "label", "attack", "fooled")


@dataclass(frozen=True, kw_only=True, eq=False)
class Verdicts:
    """``index`` [N] ascending, ``label`` [N], and for ``natural`` and each attack whether an image
    was right [N] under it. A cascade is one attack; its stages are there under their names."""

    index: npt.NDArray[np.int64]
    label: npt.NDArray[np.int64]
    right: Mapping[str, npt.NDArray[np.bool_]]
    names: tuple[str, ...]
    identity: Mapping[str, Any]

    @cached_property
    def standing(self) -> Standing:
        """For ``evaluation.comparison``: natural, each attack and the worst case, 0 or 1."""
        rows = {name: self.right[name].astype(np.int64) for name in self.names}
        return {**rows, WORST_CASE: np.minimum.reduce(list(rows.values()))}


def read_verdicts(folder: Path, result: EvaluationResult, images: int) -> Verdicts:
    """Those of a finished evaluation of ``images`` images, whose ``result`` knows the names.

    Raises ``RunFolderError`` for a damaged part and where a part is missing.
    """
    tables = [read_whole(path, _read, _CURE) for path in parts_of(folder)]
    columns = {
        name: np.concatenate([table[name] for table in tables]) if tables else np.array([])
        for name in ("index", "label", "fooled")
    }
    each = [np.full(len(table["index"]), str(table["attack"][0])) for table in tables]
    attacks = np.concatenate(each) if each else np.array([], np.str_)
    by_name: dict[str, npt.NDArray[np.int64]] = {}
    index = np.unique(columns["index"]).astype(np.int64)
    for name in (NATURAL, *result.identity["attacks"]):
        rows = np.flatnonzero(attacks == name)
        held, first = np.unique(columns["index"][rows], return_index=True)
        by_name[name] = rows[first]
        if len(held) != images or len(index) != images:
            raise RunFolderError(
                f"{folder} was finished with {images} images and holds {len(held)} of {name}: "
                "parts are missing; run the same evaluation again, which makes them anew"
            )
    right = {name: ~columns["fooled"][rows].astype(bool) for name, rows in by_name.items()}
    for cascade, stages in result.stages.items():
        right[cascade] = right[stages[-1]]  # its rows repeat the earlier stages' successes
    return Verdicts(
        index=index,
        label=columns["label"][by_name[NATURAL]].astype(np.int64),
        right=right,
        names=result.names,
        identity=result.identity,
    )


_CURE = "delete it and evaluate again, the rest is reused"


def _read(path: Path) -> dict[str, npt.NDArray[Any]]:
    table = read_table(path, _COLUMNS)
    if len(set(table["attack"][:1]) | set(table["attack"][-1:])) > 1:
        raise RunFolderError("rows of several attacks in one part")
    return table


def count_right(verdicts: Verdicts, names: Sequence[str]) -> int:
    """Images that are right under all of these."""
    return int(np.logical_and.reduce([verdicts.right[name] for name in names]).sum())
