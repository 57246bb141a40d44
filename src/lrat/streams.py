"""What a command prints. Neither a reader that leaves, a full disk nor the encoding of a console
ends the work, and no text from a file or a model controls the terminal."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lrat.text import visible


class _Tolerant:
    """A text stream whose lines are lost, never the run, where they cannot be written.
    ``failure`` is why; characters that its encoding lacks are written as escapes."""

    failure: OSError | None = None

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        if stream is None:  # closed before Python started
            self.failure = OSError(errno.EBADF, os.strerror(errno.EBADF))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            if self.failure is None:
                self._stream.write(text)
        except UnicodeEncodeError as error:
            known = text.encode(error.encoding, "backslashreplace").decode(error.encoding)
            return self.write(known)
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        try:
            if self.failure is None:
                self._stream.flush()
        except OSError as error:
            self._lose(error)

    def isatty(self) -> bool:
        return self._stream is not None and bool(self._stream.isatty())

    def _lose(self, error: OSError) -> None:
        self.failure = error
        with suppress(OSError, ValueError):  # some streams have no descriptor
            # What the stream still holds, and what child processes print, is lost in silence.
            _point_to_nothing(self._stream.fileno())


class _Visible:
    """A tolerant stream in which control characters are written out."""

    def __init__(self, stream: Any) -> None:
        self.rich_proxied_file = _Tolerant(stream)
        """What rich, which controls the terminal on purpose, writes to in place of this."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(visible(text))
        return len(text)


@contextmanager
def tolerant_output() -> Iterator[Any]:
    """Inside, ``sys.stdout`` and ``sys.stderr`` are such streams; yields the former, whose
    ``failure`` is an ``OSError`` once something was lost, else None."""
    for number in (1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Else the next file that is opened would be what is printed to.
            _point_to_nothing(number)
    before = sys.stdout, sys.stderr
    out: Any = _Visible(before[0])
    errors: Any = _Visible(before[1])
    sys.stdout, sys.stderr = out, errors
    try:
        yield out
    finally:
        out.flush()
        errors.flush()
        sys.stdout, sys.stderr = before


def _point_to_nothing(descriptor: int) -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    if nothing != descriptor:
        os.dup2(nothing, descriptor)
        os.close(nothing)
