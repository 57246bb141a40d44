"""Write the golden losses anew: ``python tests/golden/renew.py``."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from golden.traces import renew

if __name__ == "__main__":
    renew()
