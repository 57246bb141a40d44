"""Files whose headers or sizes lie: one line, before anything is expanded."""

import os
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lrat.data import load_npz
from lrat.errors import DataError
from lrat.files import archives


def member(shape: str, kind: str = "'|u1'", *, version: int = 1, body: bytes = bytes(64)) -> bytes:
    """A .npy file with this header."""
    text = f"{{'descr': {kind}, 'fortran_order': False, 'shape': {shape}}}"
    return framed(text, version=version) + body


def framed(text: str, *, version: int = 1) -> bytes:
    line = (text.ljust(117) + "\n").encode()
    length = struct.pack("<H" if version == 1 else "<I", len(line))
    return b"\x93NUMPY" + bytes([version, 0]) + length + line


HEADERS = {
    "10^12 images": member("(1000000000000, 1, 8, 8)"),
    "10^30 numbers": member(f"({10**30},)"),
    "10^3000 numbers": member(f"({10**3000},)"),
    "10^9 numbers of 8 bytes": member("(1000000000,)", "'<f8'"),
    "fewer than there are": member("(2, 4, 4)"),
    "one more than there is": member("(65,)"),
    "a negative number": member("(-1, 8, 8)"),
    "two negative numbers": member("(-8, -8)"),
    "a fraction of images": member("(1.5, 8)"),
    "no shape": member("None"),
    "texts of 4 GB": member("(1,)", "'<U1000000000'"),
    "pairs of 10^9": member("(1,)", "('<f4', (1000000000,))"),
    "10^12 elements without a size": member("(1000000000000,)", "'|V0'", body=b""),
    "a type that is none": member("(64,)", "'<q9'"),
    "objects": member("(8,)", "'|O'"),
    "format 3": member("(64,)", version=3),
    "format 9": member("(64,)", version=9),
    "a header that is code": framed("__import__('os').system('true')"),
    "a header of brackets": framed("(" * 5000),
    "a header without keys": framed("{}"),
    "a header that ends early": member("(64,)")[:40],
    "a header of 4 GB": b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{",
    "nothing": b"",
    "a pickle": b"\x80\x04N.",
}


def write(path: Path, images: bytes, **how: Any) -> Path:
    labels = np.array([0, 1, 0, 1])
    with zipfile.ZipFile(path, "w", **how) as archive:
        archive.writestr("test_images.npy", images)
        with archive.open("test_labels.npy", "w") as stream:
            np.save(stream, labels)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as error:
        load_npz(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600
    return str(error.value)


def test_a_sound_header_is_read(tmp_path: Path) -> None:
    assert len(load_npz(write(tmp_path / "x.npz", member("(4, 4, 4)"))).test) == 4


@pytest.mark.parametrize("images", HEADERS.values(), ids=HEADERS)
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_LZMA])
def test_a_header_that_lies_is_refused(images: bytes, compression: int, tmp_path: Path) -> None:
    refusal(write(tmp_path / "x.npz", images, compression=compression))


def test_a_small_file_that_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.npz"
    np.savez_compressed(path, images=np.zeros((4, 1000, 1000), np.uint8), labels=np.arange(4))
    assert len(load_npz(path).test) == 4
    monkeypatch.setattr(archives, "_ALWAYS_ALLOWED", 10**6)
    assert "would expand to" in refusal(path)
    np.savez(path, images=np.zeros((4, 1000, 1000), np.uint8), labels=np.arange(4))
    assert len(load_npz(path).test) == 4


@pytest.mark.parametrize("position", [26, -40, -10])
def test_a_damaged_archive_is_refused(position: int, tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz", member("(4, 4, 4)"))
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)
    refusal(path)


@pytest.mark.skipif(os.name == "nt", reason="needs pipes and devices of POSIX")
def test_what_is_no_file_is_refused_and_a_link_to_one_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        assert "no plain file" in refusal(path)
    write(tmp_path / "x.npz", member("(4, 4, 4)"))
    (tmp_path / "link.npz").symlink_to("x.npz")
    assert len(load_npz(tmp_path / "link.npz").test) == 4
