"""Small and read-only disks, for real where this user may mount."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

PAGE = 4096


class Disk:
    """A file system in memory of so many pages of 4 KiB."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def resize(self, pages: int) -> None:
        self._mount(f"remount,size={pages * PAGE}")

    def set_read_only(self, read_only: bool) -> None:
        self._mount("remount,ro" if read_only else "remount,rw")

    def free_pages(self) -> int:
        room = os.statvfs(self.folder)
        return room.f_bavail * room.f_frsize // PAGE

    def _mount(self, options: str) -> None:
        subprocess.run(["mount", "-o", options, str(self.folder)], check=True)


@contextmanager
def small_disk(folder: Path, pages: int) -> Iterator[Disk]:
    """A disk mounted at ``folder`` inside; the test is skipped where that takes more rights."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small disk takes root")
    folder.mkdir()
    options = f"size={pages * PAGE}"
    process = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if process.returncode:
        pytest.skip(f"cannot mount here: {process.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        # Lazily: a file that a failed test left open must not keep the folder mounted.
        subprocess.run(["umount", "-l", str(folder)], check=True)
