"""The command line in a process of its own that tells what it took."""

from __future__ import annotations

# The last line of stderr is a JSON object: peak, most bytes of memory; torch, which of the large libraries were imported.
MEASURED = """
import atexit, json, re, sys
from pathlib import Path
def report():  # not ru_maxrss: a child begins with that of the process that forked it
    peak = 1024 * int(re.search(r"VmHWM:\\s+([0-9]+) kB", Path("/proc/self/status").read_text())[1])
    print(json.dumps({"peak": peak, "torch": sorted({"torch", "transformers"} & set(sys.modules))}), file=sys.stderr)
atexit.register(report)
from hf_layerprune.cli.main import main
main()
"""
