"""What `lrat analyse` takes besides its attacks, from the times that it writes down.

    python benchmarks/analyse.py RUN/analysis/selected-train-10000 [...]
    python benchmarks/analyse.py --run RUN [--checkpoint selected] [--limit 10000] [--rounds 3]

The first reads what is there; the second analyses copies of RUN so many times and takes the round
with the fastest attacks. Target: views,
statistics and files within 1.2 times the attacks. Reading the run and its data, which whoever
attacks must do too, t-SNE and figures, which do not grow with the images, are told apart. Prints a
Markdown table.
"""

import argparse
import json
import platform
import shutil
import tempfile
from pathlib import Path
from typing import Any

TARGET = 1.2
COLUMNS = ("attacks", "rest", "opening", "figures", "embedding")


def analysed(run: Path, checkpoint: str, limit: int | None, rounds: int) -> list[dict[str, Any]]:
    """The summaries of so many analyses from scratch, of copies of the run."""
    from lrat.experiments.analyse.analyse import AnalysisRequest, analyse_run

    made = []
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            left_out = shutil.ignore_patterns("analysis", "evaluations", "figures")
            copy = Path(shutil.copytree(run, Path(folder) / "run", ignore=left_out))
            request = AnalysisRequest(checkpoint=checkpoint, limit=limit)
            made.append(analyse_run(copy, request).summary)
    return made


def row(name: str, summary: dict[str, Any]) -> str:
    seconds = summary["seconds"]
    ratio = (seconds["attacks"] + seconds["rest"]) / seconds["attacks"]
    drawn = ratio + seconds["figures"] / seconds["attacks"]
    cells = " | ".join(f"{seconds[column]:.1f}" for column in COLUMNS)
    met = "yes" if ratio <= TARGET else "no"
    images = seconds["images_attacked"]
    return f"| {name} | {images} | {cells} | **{ratio:.3f}** | {met} | {drawn:.3f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folders", nargs="*", type=Path, help="analyses that are there")
    parser.add_argument("--run", type=Path, help="a run to analyse anew")
    parser.add_argument("--checkpoint", default="selected")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    if not chosen.folders and chosen.run is None:
        parser.error("name folders of analyses, or --run RUN")
    rows: list[tuple[str, dict[str, Any]]] = []
    for folder in chosen.folders:
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        rows.append((f"{summary['model']}, {summary['data']}", summary))
    if chosen.run is not None:
        found = analysed(chosen.run, chosen.checkpoint, chosen.limit, chosen.rounds)
        if not found:
            parser.error(
                "an analysis of these images is there already: name its folder, or move it"
            )
        best = min(found, key=lambda summary: summary["seconds"]["attacks"])
        rows.append((f"{best['model']}, {best['data']}, best of {len(found)}", best))
    environment = rows[0][1]["environment"]
    print(
        f"torch {environment['torch']}, {environment['threads']} threads, "
        f"{environment['processor'] or platform.machine()}, {environment['device']}; seconds.\n"
    )
    print(f"| model, data | images | {' | '.join(COLUMNS)} ", end="")
    print(f"| (attacks + rest) / attacks | within {TARGET} | with figures |")
    print(f"|---|{'---:|' * (len(COLUMNS) + 2)}---|---:|")
    for name, summary in rows:
        print(row(name, summary))


if __name__ == "__main__":
    main()
