"""The commands together, and what becomes of their errors."""

import errno
import logging
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, NoReturn

import typer

from lrat import __version__
from lrat.cli.analysing import analyse
from lrat.cli.comparing import compare
from lrat.cli.curves import curve
from lrat.cli.evaluating import evaluate
from lrat.cli.listing import list_
from lrat.cli.merging import merge
from lrat.cli.reporting import report
from lrat.cli.reproducing import reproduce
from lrat.cli.training import demo, train
from lrat.cli.why import why
from lrat.errors import Interrupted, LratError

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
app.command()(demo)
app.command()(reproduce)
app.command(name="list")(list_)


def _show_version(wanted: bool) -> bool:
    if wanted:
        print(f"lrat {__version__}")
        raise typer.Exit
    return wanted


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
    """Entry point: an error of ours or of usage is one line and status 2, an interrupted run 130.

    Without arguments it shows the help.
    """
    try:
        with _terminated_as_interrupted():
            status = app(sys.argv[1:] or ["--help"], standalone_mode=False)
    except Interrupted as stopped:
        _fail(str(stopped), 130)
    except LratError as error:
        _fail(str(error), 2)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        _fail(f"a name is too long for this file system, choose a shorter: {error.filename}", 2)
    except Exception as error:
        # typer's own: their classes live in typer or in click, depending on typer's version.
        explain = getattr(error, "format_message", None)
        if explain is None:
            raise
        _fail(f"{explain().rstrip('.')}; {_help_hint(error)} shows what there is", 2)
    if status == 130:
        _fail("interrupted", 130)
    sys.exit(status if isinstance(status, int) else 0)


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Inside, SIGTERM does what Ctrl-C does, also where nothing is there to be saved yet: locks
    and half-written files go, and the command says why it ended."""
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _fail(message: str, status: int) -> NoReturn:
    print(f"lrat: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(status)


def _help_hint(error: Exception) -> str:
    """``lrat train --help``: the help of the command that was used wrongly."""
    context = getattr(error, "ctx", None)
    command = "" if context is None or context.parent is None else f" {context.info_name}"
    return f"`lrat{command} --help`"
