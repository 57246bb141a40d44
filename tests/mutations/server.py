"""Runs tests on copies of the package, each in a fork of one process that has torch loaded.

Importing torch takes longer than most of the tests. Requests come as JSON lines on stdin: the
folder that holds the copy, pytest's arguments and a file for the output; the exit status is the
reply.
"""

import json
import os
import signal
import sys
from typing import Any

import pytest
import sklearn.datasets  # noqa: F401 - loaded once for all
import torch  # noqa: F401 - loaded once for all

FOREIGN = 99
"""Exit status when the copy is not what gets imported."""
LIMIT_SECONDS = 120


def run(request: dict[str, Any]) -> int:
    """In a child: run pytest with the copy first on the path."""
    signal.alarm(LIMIT_SECONDS)
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.path.insert(0, request["folder"])
    import lrat

    if not str(lrat.__file__).startswith(request["folder"]):
        return FOREIGN
    return int(pytest.main(request["arguments"]))


def serve() -> None:
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            status = FOREIGN
            try:
                status = run(json.loads(line))
            finally:
                sys.stdout.flush()
                os._exit(status)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    if "lrat" in sys.modules:
        sys.exit("lrat is loaded already: no copy could take its place")
    serve()
