"""The output streams of a command: neither a closed pipe, a full disk nor the encoding of a console
ends the work, and no text from a file or a model controls the terminal."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from lrat.text import visible


class _Tolerant:
    """A text stream that drops its lines, instead of ending the run, once it cannot be written.

    ``failure`` is the reason. Characters that the stream's encoding lacks are written as escapes.
    """

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
            # The stream's buffer and the output of child processes are dropped without a message.
            _point_to_nothing(self._stream.fileno())


class _Visible:
    """A tolerant stream in which control characters are written out."""

    def __init__(self, stream: Any) -> None:
        self.rich_proxied_file = _Tolerant(stream)
        """The stream that rich, which controls the terminal on purpose, writes to instead."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)

    def write(self, text: str) -> int:
        self.rich_proxied_file.write(visible(text))
        return len(text)


@contextmanager
def tolerant_output() -> Iterator[Any]:
    """Inside, ``sys.stdout`` and ``sys.stderr`` are such streams; yields the former, whose
    ``failure`` is an ``OSError`` once a line was dropped, else None."""
    for number in (1, 2):
        try:
            os.fstat(number)
        except OSError:
            # Otherwise the next file that is opened would get this number, and the output.
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
