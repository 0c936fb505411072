"""Write the pins again from the code as it is, all or those of some files: `python tests/pins/record.py [tests/pins/test_NAME.py ...]`.

Commit what changed with the reason why.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# The tables of bad input hold what they expect themselves.
FILES = [str(Path(__file__).with_name(f"test_{name}.py")) for name in ("arrays", "plans", "weights", "answers")]

if __name__ == "__main__":
    os.environ["RECORD_PINS"] = "1"
    sys.exit(pytest.main([*(sys.argv[1:] or FILES), "-q", "-n", "0"]))
