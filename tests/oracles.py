"""Programs of others that our numbers are held against."""

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import rasterio
from numpy.typing import NDArray


def orfeo(program: str) -> str:
    """Find a program of Orfeo ToolBox; without it the test is left out, but not in CI."""
    path = shutil.which(program)
    if path is None:
        reason = f"no {program} to compare with: apt-get install otb-bin"
        pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)
    return path


def orfeo_calibration(
    measurement: Path, box: tuple[int, int, int, int], lut: str, denoise: bool, out: Path
) -> NDArray[np.float32]:
    """Calibrate the (row, col, rows, cols) of a Sentinel-1 measurement in its SAFE folder with Orfeo ToolBox.

    ``lut`` is "sigma", "beta" or "gamma". OTB writes 0 where power is negative.
    """
    row, col, rows, cols = box
    command = [orfeo("otbcli_SARCalibration"), "-in", measurement, "-out", f"{out}?&box={col}:{row}:{cols}:{rows}"]
    options = ["float", "-lut", lut, "-removenoise", str(int(denoise))]
    subprocess.run([*command, *options], check=True, capture_output=True)
    with rasterio.open(out) as file:
        return np.asarray(file.read(1))
