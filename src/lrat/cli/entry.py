"""The commands together, and what becomes of their errors."""

import errno
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from lrat import __version__
from lrat.cli.analyse import analyse
from lrat.cli.compare import compare
from lrat.cli.curve import curve
from lrat.cli.demo import demo
from lrat.cli.evaluate import evaluate, merge
from lrat.cli.export import export
from lrat.cli.list import list_
from lrat.cli.report import report
from lrat.cli.reproduce import reproduce
from lrat.cli.train import train
from lrat.cli.why import why
from lrat.distributed.signals import SIGNALS, interrupt_once
from lrat.errors import Interrupted, LratError
from lrat.streams import tolerant_output
from lrat.text import reason, visible

_logger = logging.getLogger(__name__)
_LONGEST_LINE, _END = 2000, 400

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Adversarial training with local reweighting (LRAT), its baselines, and their evaluation.",
)
# In the order of the help.
app.command()(train)
app.command()(evaluate)
app.command()(merge)
app.command()(compare)
app.command()(curve)
app.command()(why)
app.command()(analyse)
app.command()(report)
app.command()(export)
app.command()(demo)
app.command()(reproduce)
app.command(name="list")(list_)


def _show_version(requested: bool) -> bool:
    if requested:
        print(f"lrat {__version__}")
        raise typer.Exit
    return requested


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More of what happens.")] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s: %(message)s",
        stream=sys.stderr,
    )


def main() -> None:
    """Entry point: an error of ours, of usage or of the system is one line and status 2, an
    interrupted run 130, lines that could not be printed 1.

    The work goes on without its lines, and a reader that has read enough (``| head``) is no
    failure. Without arguments it shows the help.
    """
    with tolerant_output() as output:
        status = _status()
    lost = output.failure
    if lost is not None and status in {0, 1}:
        _complain(
            f"what was printed is lost in part ({reason(lost)}); the command went on to its end, "
            "and what it stores is there"
        )
        status = status or int(lost.errno != errno.EPIPE)
    sys.exit(status)


def _status() -> int:
    try:
        with _terminated_as_interrupted():
            status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except Interrupted as stopped:
        return _complain(str(stopped), 130)
    except LratError as error:
        return _complain(str(error))
    except OSError as error:
        _logger.info("where the system refused", exc_info=True)
        return _complain(_refused(error))
    except Exception as error:
        if _is_memory_error(error):
            _logger.info("where memory ran out", exc_info=True)
            return _complain(
                "memory ran out: use fewer images or runs at once, or a smaller batch, or free "
                "memory"
            )
        # typer's own: their classes live in typer or in click, depending on typer's version.
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        return _complain(f"{explain().rstrip('.')}; {_help_hint(error)} shows what there is")
    if status == 130:
        return _complain("interrupted", 130)
    return status if isinstance(status, int) else 0


def _is_memory_error(error: Exception) -> bool:
    if "torch" not in sys.modules:
        return isinstance(error, MemoryError)
    from lrat.outputs import is_memory_error

    return is_memory_error(error)


def _refused(error: OSError) -> str:
    path = error.filename
    if error.errno == errno.ENAMETOOLONG:
        return f"a name is too long for this file system, choose a shorter: {path}"
    why = reason(error)
    if path is None or isinstance(path, int):
        return f"the system refused: {why}; -v shows where"
    return f"{path}: {why}; choose another path, or mend this one, and run the same command again"


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Inside, the signals that would end the process do what Ctrl-C does, also where nothing is
    there to be saved yet: locks and half-written files go, and the command says why it ended.
    Those that are ignored (``nohup``) stay so."""
    here = threading.current_thread() is threading.main_thread()
    ending = [each for each in SIGNALS if here and signal.getsignal(each) is signal.SIG_DFL]
    for each in ending:
        signal.signal(each, interrupt_once)
    try:
        yield
    finally:
        for each in ending:
            signal.signal(each, signal.SIG_DFL)


def _complain(message: str, status: int = 2) -> int:
    """``message`` in one line of bounded length, whose end, the cure, stays."""
    line = visible(" ".join(message.split()))
    if len(line) > _LONGEST_LINE:
        line = f"{line[: _LONGEST_LINE - _END]} … {line[-_END:]}"
    print(f"lrat: {line}", file=sys.stderr)
    return status


def _help_hint(error: Exception) -> str:
    """``lrat train --help``: the help of the command that was used wrongly."""
    context = getattr(error, "ctx", None)
    command = "" if context is None or context.parent is None else f" {context.info_name}"
    return f"`lrat{command} --help`"
