"""``python -m lrat``."""

from lrat.cli import main

main()
