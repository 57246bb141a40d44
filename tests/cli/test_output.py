"""Printing loses lines at most: full disks, readers that leave, closed streams, other encodings,
texts that would control the terminal."""

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from unittest import mock

import pytest
from rich.console import Console

from experiments.commands import TINY, lrat
from lrat.cli import entry, main
from lrat.streams import tolerant_output

FULL = pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device of Linux")
TRAIN = (
    *("train", "natural", "--data", "digits", "--threat", "linf:0.1", "--epochs", "1"),
    *("--set", "data.train_limit=60", *TINY),
)


def _left_reader() -> IO[str]:
    reader, writer = os.pipe()
    os.close(reader)
    return os.fdopen(writer, "w", buffering=1)


STREAMS = {
    "a full disk": (lambda: open("/dev/full", "w", buffering=1), 1),  # noqa: SIM115
    "a full disk that is noticed at the end": (lambda: open("/dev/full", "w"), 1),  # noqa: SIM115
    "a reader that left": (_left_reader, 0),
    "a closed one": (lambda: None, 1),
}


@contextmanager
def _printing_to(stream: Any) -> Iterator[io.StringIO]:
    errors = io.StringIO()
    with mock.patch.object(sys, "stdout", stream), mock.patch.object(sys, "stderr", errors):
        yield errors
    if stream is not None:
        stream.close()


def _status(*arguments: object) -> int:
    with (
        mock.patch.object(sys, "argv", ["lrat", *map(str, arguments)]),
        pytest.raises(SystemExit) as end,
    ):
        main()
    return int(end.value.code or 0)


@FULL
@pytest.mark.parametrize("kind", STREAMS)
@pytest.mark.parametrize("command", [("list", "methods"), ("list", "nothing"), ("--version",)])
def test_what_cannot_be_printed_is_one_line_and_a_status(kind: str, command: list[str]) -> None:
    opened, status = STREAMS[kind]
    with _printing_to(opened()) as errors:
        found = _status(*command)
    refused = "nothing" in command
    assert found == (2 if refused else status)
    assert errors.getvalue().count("\n") == 1
    assert ("lost" in errors.getvalue()) is not refused


@FULL
def test_a_training_whose_lines_are_lost_is_finished(tmp_path: Path) -> None:
    with _printing_to(_left_reader()) as errors:
        assert _status(*TRAIN, "--out", tmp_path / "run") == 0
    assert (tmp_path / "run" / "model.safetensors").is_file()
    assert errors.getvalue().count("\n") == 1


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_characters_that_a_console_lacks_are_escapes(encoding: str, tmp_path: Path) -> None:
    content = io.BytesIO()
    with _printing_to(io.TextIOWrapper(content, encoding, write_through=True)):
        assert _status(*TRAIN, "--out", tmp_path / "läufe-日本") == 0
        printed = content.getvalue().decode(encoding)
    assert r"-\u65e5\u672c" in printed
    assert ("läufe" in printed) is (encoding == "cp1252")


def test_control_characters_reach_no_terminal_unless_rich_controls_it() -> None:
    out = io.StringIO()
    with _printing_to(out), tolerant_output():
        sys.stdout.write("\x1b[2Jcleared\r\x9b2J\n")
        Console(file=sys.stdout, force_terminal=True).print("[red]x")
        sys.stderr.write("\x1b]0;title\x07")
        assert sys.stderr.getvalue() == r"\x1b]0;title\x07"  # type: ignore[attr-defined]
        printed = out.getvalue()
    assert printed.startswith("\\x1b[2Jcleared\\x0d\\x9b2J\n\x1b[31mx")


@pytest.mark.parametrize(
    "name", ["\x1b[31mred", "bell\x07", "\x9b2J", "back\x08", "gnp.\u202eexe", "a\rb"]
)
def test_names_that_would_control_the_terminal_are_written_out(name: str) -> None:
    for command in (("train", "--config", f"{name}.yaml"), ("report", name), ("list", name)):
        answer = lrat(*command)
        assert not set(answer.err) & set("\x1b\x07\x9b\x08\u202e\r"), command
        assert answer.complaint


def test_an_error_is_cut_in_the_middle(capsys: pytest.CaptureFixture[str]) -> None:
    with mock.patch.object(entry, "app", side_effect=entry.LratError("x" * 10**6 + ": the cure")):
        assert _status("list") == 2
    complaint = capsys.readouterr().err
    assert len(complaint) < 2100
    assert complaint.endswith(": the cure\n")


@pytest.mark.parametrize(
    ("error", "part"),
    [
        (PermissionError(13, "Permission denied", "/a/b"), "/a/b: Permission denied"),
        (OSError(5, "Input/output error", "/a\nb"), "/a b: Input/output error"),
        (OSError(36, "File name too long", "long"), "too long"),
        (OSError(24, "Too many open files"), "Too many open files"),
        (ConnectionResetError(104, "Connection reset by peer"), "Connection reset"),
        (OSError("no number"), "no number"),
        (MemoryError(), "memory ran out"),
    ],
    ids=str,
)
def test_errors_of_the_system_are_one_line(
    error: BaseException, part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with mock.patch.object(entry, "app", side_effect=error):
        assert _status("list") == 2
    complaint = capsys.readouterr().err
    assert part in complaint
    assert complaint.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_a_signal_where_nothing_is_to_be_saved_cleans_up(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    cleaned = []

    def command(*arguments: object, **options: object) -> int:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt:
            if number is not signal.SIGTERM:
                os.kill(os.getpid(), number)  # a shell hands it on
            cleaned.append(name)
            return 130
        return 0

    with mock.patch.object(entry, "app", command):
        assert _status("evaluate") == 130
    assert cleaned == [name]
    assert capsys.readouterr().err == "lrat: interrupted\n"
    assert signal.getsignal(number) is before


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
def test_what_nohup_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def command(*arguments: object, **options: object) -> int:
        os.kill(os.getpid(), signal.SIGHUP)
        return 0

    try:
        with mock.patch.object(entry, "app", command):
            assert _status("train") == 0
    finally:
        signal.signal(signal.SIGHUP, before)
