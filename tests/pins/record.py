"""Write the pins again, from the code as it is: `python tests/pins/record.py`. Commit them with the reason why they change."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    os.environ["RECORD_PINS"] = "1"
    sys.exit(pytest.main([str(Path(__file__).parent), "-q", "-n", "0"]))
