"""Makes one catalog of the real inputs: ``python tests/real_inputs.py SHARED_DATA FOLDER``.

Real pixels: 48 Sentinel-1 VH tiles and one reduced VV/VH scene (uncalibrated amplitude, placed near sigma0 by a
nominal constant). Real metadata with simulated land behind it: Sentinel-1 of IPF 3.31 and 3.40, ALOS-2 level 1.5.
A second catalog in ``FOLDER/water`` lists the Sen1Floods11 chips; it is never part of pretraining.
"""

import struct
import sys
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
from alos2_products import DESCRIPTOR_BYTES, LINES, PIXELS, PREFIX_BYTES, PRODUCT, full_size
from numpy.typing import NDArray
from rasterio.windows import Window as RasterWindow
from sentinel1_products import IPF_331, IPF_340, images, shape_of, unpack, write_pixels

from ingest.calibrate import Calibration
from ingest.lut import read_calibration, read_noise
from ingest.scene import Window
from ingest.truth import Land, speckle

SENTINEL1_BLOCK = Window(4096, 8192, 2048, 2560)
ALOS2_BLOCK = Window(1024, 4096, 1536, 2560)
VH_TILES = """\
name: los-angeles
folder: {folder}
image: "*.tif"
polarisations: [VH]
quantity: amplitude
offset_db: -53.0  # 8-bit amplitude: a nominal constant, the product's own is lost
no_data: 0
product: IW GRDH
mode: IW
time: 2020-11-07T13:52:41
looks: 4.4
"""
REDUCED = """\
name: reduced-iw
folder: {folder}
image: ["measurement/*-vv.tiff", "measurement/*-vh.tiff"]
polarisations: [VV, VH]
quantity: amplitude
offset_db: -55.6  # digital numbers without their annotation: the usual gain of IW GRDH, about 600
no_data: 0
product: IW GRDH
mode: IW
time: 2018-07-16T00:40:42
"""
FLOODS = """\
name: sen1floods11
folder: {folder}
image: "*_S1Hand.tif"
label: "{{stem}}_LabelHand.tif"
polarisations: [VV, VH]
quantity: db
label_ignore: [-1]
looks: 4.4
legend:
  classes:
    - {{id: 0, name: land, colour: "#b9a878"}}
    - {{id: 1, name: water, colour: "#1f6fd0"}}
  background: 0
"""


def land_numbers(calibration: Calibration, window: Window, seed: int, polarisation: str) -> NDArray[np.uint16]:
    """Digital numbers that the product's own LUTs turn back into simulated land: sqrt(sigma0 A^2 + eta)."""
    shape = (window.rows, window.cols)
    low, high = (calibration.power(window, np.full(shape, n, np.uint16)).astype(np.float64) for n in (100, 20_000))
    gain = (20_000.0**2 - 100.0**2) / (high - low)
    eta = 100.0**2 - low * gain
    power = sigma0(seed, "C", polarisation, shape, 10.0, 4.4) * gain + eta
    return np.clip(np.rint(np.sqrt(power)), 1, 65535).astype(np.uint16)


def sigma0(seed: int, band: str, polarisation: str, shape: tuple[int, int], spacing_m: float, looks: float):
    row, col = np.meshgrid(*(np.arange(n, dtype=np.float32) * spacing_m for n in shape), indexing="ij")
    ground = Land(seed, 0.2).at(col, -row)
    return ground.sigma0(band, polarisation) * speckle(seed, band, polarisation, 0, looks, shape)


def sentinel1(shared_data: Path, folder: Path, name: str, seed: int) -> None:
    product = unpack(shared_data, name, folder)
    write_pixels(product, blocks=())
    for annotation in images(product):
        side = annotation.parent / "calibration"
        gain = read_calibration(ElementTree.parse(side / f"calibration-{annotation.name}").getroot(), "")
        noise = read_noise(ElementTree.parse(side / f"noise-{annotation.name}").getroot(), "")
        calibration = Calibration.of(shape_of(annotation), gain, noise)
        polarisation = annotation.name.split("-")[3].upper()
        pixels = land_numbers(calibration, SENTINEL1_BLOCK, seed, polarisation)
        row, col, rows, cols = SENTINEL1_BLOCK
        with rasterio.open(product / "measurement" / f"{annotation.stem}.tiff", "r+") as file:
            file.write(pixels, 1, window=RasterWindow(col, row, cols, rows))


def alos2(shared_data: Path, folder: Path, seed: int) -> None:
    product = full_size(shared_data, folder / PRODUCT, ())
    row, col, rows, cols = ALOS2_BLOCK
    line_bytes = PREFIX_BYTES + 2 * PIXELS
    for polarisation in ("HH", "HV"):
        power = sigma0(seed, "L", polarisation, (rows, cols), 6.25, 3.0)
        numbers = np.clip(np.rint(np.sqrt(power * 10.0**8.3)), 1, 65535).astype(">u2")
        with (product / f"IMG-{polarisation}-{PRODUCT}").open("r+b") as file:
            for line in range(LINES):
                file.seek(DESCRIPTOR_BYTES + line * line_bytes)
                file.write(struct.pack(">IBBBBI", line + 2, 50, 11, 18, 20, line_bytes).ljust(PREFIX_BYTES, b"\0"))
                if row <= line < row + rows:
                    file.seek(2 * col, 1)
                    file.write(numbers[line - row].tobytes())


def make(shared_data: Path, folder: Path) -> None:
    for name, text, place in (
        ("los-angeles", VH_TILES, "sentinel1_iw_vh_tiles"),
        ("reduced-iw", REDUCED, "sentinel1/S1A_IW_GRDH_1SDV_20180716T004042_20180716T004107_022812_02792A_FD5B"),
        ("water", FLOODS, "water/sen1floods11"),
    ):
        target = folder / ("water" if name == "water" else f"radar/{name}")
        target.mkdir(parents=True)
        (target / "chips.yaml").write_text(text.format(folder=shared_data.resolve() / place))
    sentinel1(shared_data, folder / "radar", IPF_331, 331)
    sentinel1(shared_data, folder / "radar", IPF_340, 340)
    alos2(shared_data, folder / "radar", 15)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
