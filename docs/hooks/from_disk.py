"""Pages that are opened from a disk, without a server, ask for the search's index as a script.

A browser lets no search run there, and the theme then hides it; without this script it would also
complain of a file that is not there.
"""

from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority


@event_priority(-100)  # after the search has written its index
def on_post_build(config: Any, **_: Any) -> None:
    """The index a second time, as a script."""
    index = Path(config["site_dir"], "search", "search_index.json")
    if index.is_file():
        script = f"var __index = {index.read_text(encoding='utf-8')}"
        index.with_suffix(".js").write_text(script, encoding="utf-8")
