"""Makes one catalog of the real inputs: ``python tests/real_inputs.py SHARED_DATA FOLDER``.

Real pixels: 48 Sentinel-1 VH tiles and one reduced VV/VH scene (uncalibrated amplitude, placed near sigma0 by a
nominal constant). Real metadata with simulated land behind it: Sentinel-1 of IPF 3.31 and 3.40, ALOS-2 level 1.5.
Catalogs of their own, never part of pretraining: ``FOLDER/water`` lists the Sen1Floods11 chips, ``FOLDER/land-cover``
blocks of the Flevoland image of AIRSAR with whole fields as labels.
"""

import struct
import sys
import warnings
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import rasterio
from alos2_products import DESCRIPTOR_BYTES, LINES, PIXELS, PREFIX_BYTES, PRODUCT, full_size
from numpy.typing import NDArray
from rasterio.windows import Window as RasterWindow
from scipy import ndimage
from sentinel1_products import IPF_331, IPF_340, images, shape_of, unpack, write_pixels

from ingest.calibrate import Calibration
from ingest.lut import read_calibration, read_noise
from ingest.scene import Window
from ingest.truth import Land, speckle

T3 = ("T11", "T22", "T33", "T12_real")
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

FIELDS = """\
name: flevoland
folder: {folder}
image: "*_L.tif"
label: "{{stem}}_label.tif"
polarisations: [HH, HV, VV]
quantity: power
offset_db: 11.0  # not calibrated: a nominal constant that puts fields near their usual L-band level
product: AIRSAR
time: 1989-08-16T00:00:00
looks: 16
legend:
  classes:
{classes}
"""
CROPS = {
    "stem beans": 0xFF0000, "peas": 0x8000FF, "forest": 0x008000, "lucerne": 0x00FFFF, "wheat": 0xFF80FF,
    "beet": 0x800080, "potatoes": 0xFFFF00, "grass": 0x00FF00, "rapeseed": 0xFF8000, "wheat 2": 0x8080FF,
    "wheat 3": 0x80FF80, "water": 0x0000FF, "buildings": 0xFFC880,
}  # fmt: skip
"""Classes of Flevoland with fields in two blocks or more; bare soil and barley lie in one, and cannot be held out."""
FLEVOLAND_GRID, FOLDS, LEAST_FIELD_PX = (5, 5), 4, 64


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


def flevoland(shared_data: Path, folder: Path) -> None:
    """Cut the image into blocks that share no pixel; a field is labelled only in the block that has most of it.

    Names sort such that dealing them in turn to four folds leaves every class with fields in two folds or more.
    """
    source = shared_data / "land_cover/flevoland_airsar"
    t11, t22, t33, t12 = (np.fromfile(source / f"{n}.bin", "<f4").reshape(736, 1024) for n in T3)
    power = np.stack([(t11 + t22) / 2 + t12, t33 / 2, (t11 + t22) / 2 - t12])
    with warnings.catch_warnings(action="ignore"), rasterio.open(source / "F15_GroundTruth.png") as file:
        red, green, blue = file.read().astype(np.int64)
    colours = red << 16 | green << 8 | blue
    rows, cols = (np.arange(n) * parts // n for n, parts in zip(colours.shape, FLEVOLAND_GRID, strict=True))
    block = rows[:, None] * FLEVOLAND_GRID[1] + cols
    label = np.full(colours.shape, 255, np.uint8)
    for number, colour in enumerate(CROPS.values()):
        fields, found = ndimage.label(colours == colour)
        for field in range(1, found + 1):
            shares = np.bincount(block[fields == field])
            if shares.max() >= LEAST_FIELD_PX:
                label[(fields == field) & (block == shares.argmax())] = number
    target = folder / "land-cover"
    target.mkdir(parents=True)
    for name, number in deal(block, label).items():
        inside = np.ix_(rows == number // FLEVOLAND_GRID[1], cols == number % FLEVOLAND_GRID[1])
        for kind, bands in (("L", power), ("label", label[None])):
            cut = bands[:, *inside]
            size = {"count": len(cut), "height": cut.shape[1], "width": cut.shape[2], "dtype": cut.dtype}
            with (
                warnings.catch_warnings(action="ignore"),
                rasterio.open(target / f"{name}_{kind}.tif", "w", driver="GTiff", **size) as file,
            ):
                file.write(cut)
    classes = "\n".join(f'    - {{id: {n}, name: {c}, colour: "#{v:06x}"}}' for n, (c, v) in enumerate(CROPS.items()))
    (target / "chips.yaml").write_text(FIELDS.format(folder=target.resolve(), classes=classes))


def deal(block: NDArray[np.int64], label: NDArray[np.uint8]) -> dict[str, int]:
    """Name the labelled blocks ``<turn>-<fold>``: the first of fixed random deals that leaves no class to one fold."""
    has = np.stack([np.bincount(block[label == n], minlength=block.max() + 1) > 0 for n in range(len(CROPS))], 1)
    labelled = np.flatnonzero(has.any(1))
    rng = np.random.default_rng(0)
    while True:
        dealt = rng.permutation(labelled)
        folds = np.stack([has[dealt[fold::FOLDS]].any(0) for fold in range(FOLDS)])
        if (folds.sum(0) > 1).all():
            return {f"{n // FOLDS}-{n % FOLDS}": int(number) for n, number in enumerate(dealt)}


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
    flevoland(shared_data, folder)


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]))
