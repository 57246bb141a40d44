"""A damaged or odd file in a run folder changes no number without a word and gives no traceback.

A few bytes and contents of each kind of file in the usual tests; in `make soak` 200 flipped bytes
of each, and all odd contents.
"""

import os
import random
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pytest

from experiments.odd_files import odd_json, odd_parquet, odd_safetensors, with_digest
from experiments.readers import HEAD, KINDS, PANEL, Damage, Runs, Tally, Trial, not_drawn
from lrat.files.names import MODEL
from lrat.runs.folder import BESIDE_TENSORS
from soaking import keep

PARTS = {
    "a run": [kind for kind in KINDS if kind.partition("/")[0] not in {"evaluations", "analysis"}],
    "an evaluation": [kind for kind in KINDS if kind.startswith("evaluations/")],
    "analyses": [kind for kind in KINDS if kind.startswith("analysis/")],
}
FORMATS = {
    "JSON": [kind for kind in KINDS if kind.endswith((".json", ".jsonl"))],
    "Parquet": [kind for kind in KINDS if kind.endswith(".parquet")],
    "safetensors": ["model.safetensors"],
}


def _flipped(count: int) -> Callable[[Runs, str], Iterator[Damage]]:
    def damages(runs: Runs, pattern: str) -> Iterator[Damage]:
        chance, paths = random.Random(pattern), runs.files(pattern)
        for _ in range(count):
            path = chance.choice(paths)
            content = bytearray(runs.stored[path])
            place = chance.randrange(len(content))
            content[place] ^= chance.randrange(1, 256)
            yield f"byte {place} of {path.name}", {path: bytes(content)}

    return damages


NO_FILES: dict[str, Callable[[Path], object]] = {
    "a folder": Path.mkdir,
    "a pipe": os.mkfifo,
    "a link to nowhere": lambda path: path.symlink_to("/nowhere/file"),
    "a link to itself": lambda path: path.symlink_to(path.name),
}


def _replaced(runs: Runs, pattern: str) -> list[Damage]:
    return [(what, {runs.files(pattern)[-1]: put}) for what, put in NO_FILES.items()]


def _one_replaced(runs: Runs, pattern: str) -> list[Damage]:
    return [random.Random(pattern).choice(_replaced(runs, pattern))]


def _odd(runs: Runs, pattern: str) -> Iterator[Damage]:
    path = runs.files(pattern)[-1]
    whole = runs.stored[path]
    if path.suffix == ".parquet":
        yield from ((what, {path: content}) for what, content in odd_parquet(whole))
    elif path.suffix == ".safetensors":
        about = runs.run / MODEL
        for what, content in odd_safetensors(whole, BESIDE_TENSORS):
            yield what, {path: content, about: with_digest(runs.stored[about], content)}
    else:
        *before, last = whole.splitlines(keepends=True) if path.suffix == ".jsonl" else [whole]
        for what, content in odd_json(last):
            yield what, {path: b"".join([*before, content])}


def _few_odd(runs: Runs, pattern: str) -> list[Damage]:
    return random.Random(pattern).sample(list(_odd(runs, pattern)), 2)


def _tallies(
    runs: Runs, kinds: Iterable[str], damages: Callable[[Runs, str], Iterable[Damage]]
) -> dict[str, Tally]:
    """By kind of file. What is odd, not damaged, may hold other numbers."""
    trial, found = Trial(runs), {}
    with not_drawn():
        for pattern in kinds:
            assert runs.files(pattern) or pattern == PANEL, pattern
            if runs.files(pattern):
                is_odd = damages in {_odd, _few_odd}
                found[pattern] = trial.tallied(
                    pattern, damages(runs, pattern), same_numbers=not is_odd
                )
    return found


def _wrong(tallies: dict[str, Tally]) -> list[str]:
    return [each for tally in tallies.values() for each in tally.wrong]


def _table(tallies: dict[str, Tally]) -> str:
    return HEAD + "\n".join(tally.row(pattern) for pattern, tally in tallies.items())


def test_damaged_and_odd_files_are_noticed(tmp_path: Path) -> None:
    runs = Runs.begin(tmp_path, masking=False)
    assert _wrong(_tallies(runs, KINDS, _flipped(1))) == []
    few = [*FORMATS["JSON"], "weights/*.parquet", *FORMATS["safetensors"]]
    assert _wrong(_tallies(runs, few, _few_odd)) == []
    assert _wrong(_tallies(runs, KINDS, _one_replaced)) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Runs:
    return Runs.begin(tmp_path_factory.mktemp("damaged"), masking=True)


@pytest.mark.soak
@pytest.mark.parametrize("part", PARTS)
def test_200_flipped_bytes_of_each_kind_are_noticed(whole: Runs, part: str) -> None:
    tallies = _tallies(whole, PARTS[part], _flipped(200))
    assert _wrong(tallies) == []
    keep(
        f"200 flipped bytes in each kind of file of {part}",
        "A random byte becomes another one; then one of the commands that read such a file reads "
        "it, in turn (train, evaluate, compare, report, merge, why, curve, analyse).\n\n"
        f"{_table(tallies)}",
        page="robustness.md",
    )


@pytest.mark.soak
@pytest.mark.parametrize("part", PARTS)
def test_what_is_no_file_is_not_taken_as_absent(whole: Runs, part: str) -> None:
    everyone = Trial(whole)
    tallies: dict[str, Tally] = {}
    with not_drawn():
        for pattern in PARTS[part]:
            damages = [each for each in _replaced(whole, pattern) for _ in KINDS[pattern]]
            tallies[pattern] = everyone.tallied(pattern, damages)
    assert _wrong(tallies) == []
    keep(
        f"Folders, pipes and links in place of each kind of file of {part}",
        "A folder, a pipe, a link to nowhere and one to itself; then each of the commands that "
        "read such a file reads it. The same numbers: what was derived from other files is written "
        f"anew.\n\n{_table(tallies)}",
        page="robustness.md",
    )


@pytest.mark.soak
@pytest.mark.parametrize("which", FORMATS)
def test_all_odd_files_are_one_line_or_a_sentence(whole: Runs, which: str) -> None:
    tallies = _tallies(whole, FORMATS[which], _odd)
    assert _wrong(tallies) == []
    count = sum(sum(tally.counts.values()) for tally in tallies.values())
    keep(
        f"Odd {which} files in a run folder",
        f"{count:,} contents that no command of ours writes: torn, in other encodings, nested, "
        "without keys, with values of other types and shapes. What can be parsed carries no "
        "checksum, as in earlier versions, so that it is the content that is looked at; then one "
        "of the commands that read such a file reads it, in turn. Numbers that were edited in "
        f"files without a checksum count as the same.\n\n{_table(tallies)}",
        page="robustness.md",
    )
