"""A probe of mini where only 4 GB of memory are to be had."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hf_layerprune import LayerStatistics

LIMIT = 4 << 30
PROBE = """
import atexit, re, resource, sys
from pathlib import Path
resource.setrlimit(resource.RLIMIT_DATA, (int(sys.argv[1]),) * 2)
def report():  # not ru_maxrss: a child begins with that of the process that forked it
    print(1024 * int(re.search(r"VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1]), file=sys.stderr)
atexit.register(report)
sys.argv[1:] = ["probe", "mini", "--samples", "2", "--no-cache", "-o", "out.safetensors", "-q"]
from hf_layerprune.cli.main import main
main()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold a process to RLIMIT_DATA")
def test_4_gb_of_memory(environment: dict[str, str], here: Path) -> None:
    """All memory that a process can write to, thread stacks included, is limited, and what it used at most is less as well."""
    command = [sys.executable, "-c", PROBE, str(LIMIT)]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert int(done.stderr.split()[-1]) < LIMIT
    assert LayerStatistics.load(here / "out.safetensors").samples.tolist() == [2] * 9


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not hold a process to RLIMIT_DATA")
def test_the_limit_bites(environment: dict[str, str], here: Path) -> None:
    """With a fortieth of it the same run fails, and leaves nothing."""
    command = [sys.executable, "-c", PROBE, str(LIMIT // 40)]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode != 0 and not list(here.iterdir())
