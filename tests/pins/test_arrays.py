"""The arrays of mini's synthetic probe, in fp32 on a CPU, as they were recorded."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from tests.pins.commands import TOLERANCE, Done


def test_the_probe_of_mini(probed: tuple[Path, Done], statistics: Path) -> None:
    found, recorded = load_file(probed[0]), load_file(statistics)
    assert recorded and recorded.keys() <= found.keys()  # keys may be added
    for name, array in recorded.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype), name
        largest = max(1.0, float(np.abs(array).max()))  # CPUs add in different orders, so a sum's error grows with the sum
        np.testing.assert_allclose(found[name] / largest, array / largest, rtol=0, atol=TOLERANCE, err_msg=name)
