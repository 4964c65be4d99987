"""Calibration of real annotation against Orfeo ToolBox: every quantity, IW and EW, with and without noise."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray
from oracles import orfeo_calibration
from sentinel1_products import EW_352, IPF_331, IPF_340, Block, unpack, write_pixels

from ingest.lut import Noise, read_noise
from ingest.recipe import Pixels
from ingest.scene import Window
from ingest.sentinel1 import open_sentinel1
from ingest.xml import parse

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
Floats = NDArray[np.float64]

LUTS: dict[Literal["sigma0", "beta0", "gamma0"], str] = {"sigma0": "sigma", "beta0": "beta", "gamma0": "gamma"}
# Over the seam of two swaths and over a noise vector; the last lines.
IW_BLOCKS: dict[str, Block] = {IPF_340: (640, 8640, 64, 512), IPF_331: (16790, 8500, 64, 512)}
# Over the seam of the first two swaths and over a vector; the last lines.
EW_BLOCKS: list[Block] = [(3000, 2900, 200, 500), (10644, 7000, 64, 512)]
EW_START: Block = (130, 3200, 30, 512)
"""The first lines of the second swath, in which the noise vector before it holds zeros."""


@pytest.fixture(scope="module")
def iw(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("iw")
    found = {name: unpack(shared_data, name, folder) for name in IW_BLOCKS}
    for name, product in found.items():
        write_pixels(product, [IW_BLOCKS[name]])
    return found


@pytest.fixture(scope="module")
def ew(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The EW product under the names that its files have in the archive: OTB looks for them by these."""
    product = unpack(shared_data, EW_352, tmp_path_factory.mktemp("ew"))
    for file in [*product.glob("annotation/*ew-h?.xml"), *product.glob("annotation/calibration/*ew-h?.xml")]:
        start, _, polarisation = file.stem.rpartition("ew-")
        number = {"hh": "001", "hv": "002"}[polarisation]
        place = f"s1a-ew-grd-{polarisation}-20221130t014342-20221130t014446-046117-058549-{number}.xml"
        file.rename(file.with_name(start + place))
    write_pixels(product, [*EW_BLOCKS, EW_START])
    return product


def measurement(product: Path, polarisation: str) -> Path:
    return next((product / "measurement").glob(f"*-{polarisation.lower()}-*.tiff"))


def ours(product: Path, polarisation: str, box: Block, pixels: Pixels) -> NDArray[np.float32]:
    with open_sentinel1(str(product), pixels) as scene:
        return scene.power(Window(*box))[scene.info.polarisations.index(polarisation)]


def assert_close(found: Any, expected: Any, plain: Any) -> None:
    """Assert 1e-5; OTB writes 0 for negative power and subtracts in float32, which costs a rounding of DN^2."""
    valid = ~np.isnan(found)
    found, expected, plain = found[valid], expected[valid], plain[valid]
    error = np.abs(np.maximum(found, 0) - expected)
    assert np.all(error <= 1e-5 * np.abs(found) + 2.0**-22 * plain)
    assert np.median(error / np.maximum(expected, 1e-9)) < 3e-7


@pytest.mark.parametrize(
    ("name", "polarisation", "quantity", "denoise"),
    [
        *[(IPF_340, "VV", quantity, denoise) for quantity in LUTS for denoise in (False, True)],
        (IPF_331, "VH", "beta0", False),
        (IPF_331, "VH", "gamma0", True),
    ],
)
def test_iw(iw: dict[str, Path], tmp_path: Path, name: str, polarisation: str, quantity: Any, denoise: bool) -> None:
    product, box = iw[name], IW_BLOCKS[name]
    expected = orfeo_calibration(measurement(product, polarisation), box, LUTS[quantity], denoise, tmp_path / "otb.tif")
    found = ours(product, polarisation, box, Pixels(quantity=quantity, denoise=denoise))
    plain = ours(product, polarisation, box, Pixels(quantity=quantity, denoise=False))
    assert_close(found, expected, plain)
    assert (np.nanmin(found) < 0) == denoise
    clipped = ours(product, polarisation, box, Pixels(quantity=quantity, denoise=denoise, negative="clip"))
    np.testing.assert_array_equal(clipped, np.maximum(found, 0))  # as OTB, but for no data, which stays NaN


@pytest.mark.parametrize(
    ("box", "quantity", "polarisation"), [(EW_BLOCKS[0], "sigma0", "HV"), (EW_BLOCKS[1], "gamma0", "HH")]
)
def test_ew_where_swaths_are_on(ew: Path, tmp_path: Path, box: Block, quantity: Any, polarisation: str) -> None:
    expected = orfeo_calibration(measurement(ew, polarisation), box, LUTS[quantity], True, tmp_path / "otb.tif")
    found = ours(ew, polarisation, box, Pixels(quantity=quantity))
    plain = ours(ew, polarisation, box, Pixels(quantity=quantity, denoise=False))
    assert_close(found, expected, plain)


def test_ew_where_a_swath_starts_orfeo_toolbox_goes_by_a_vector_of_zeros(ew: Path, tmp_path: Path) -> None:
    """OTB interpolates towards the vector before the swath was on, which holds zeros; we take the swath's first alone.

    OTB also reads the values of the second vector at the pixels of the first, as it does for IPF 2.70. (Where no
    block of noise covers a pixel, the last lines before a swath starts, OTB 8.1 ends with a segmentation fault.)
    """
    row, col, rows, cols = EW_START
    expected = orfeo_calibration(measurement(ew, "HV"), EW_START, "sigma", True, tmp_path / "otb.tif")
    found = ours(ew, "HV", EW_START, Pixels()).astype(np.float64)
    plain = ours(ew, "HV", EW_START, Pixels(denoise=False)).astype(np.float64)
    path = next((ew / "annotation" / "calibration").glob("noise-*-hv-*.xml"))
    noise = read_noise(parse(path.read_bytes(), "noise"), "noise")
    zeros, first = eta(noise, row, col, rows, cols)
    seen = (expected > 0) & (plain > found)  # elsewhere it wrote 0 for power below zero
    np.testing.assert_allclose(((plain - expected) / (plain - found))[seen], (zeros / first)[seen], rtol=1e-4)
    assert zeros[0, 0] / first[0, 0] == pytest.approx(130 / 167, abs=0.05)


def eta(noise: Noise, row: int, col: int, rows: int, cols: int) -> tuple[Floats, Floats]:
    """Noise before the azimuth factor: as OTB goes from the vector of zeros to the next, and that next alone."""
    at, vectors = np.arange(col, col + cols), noise.vectors
    lines, pixels, values = vectors.lines, vectors.pixels, vectors.values
    zero, own = (np.interp(at, pixels[k], values[k]) for k in (0, 1))
    assert not zero.any()
    mixed = np.interp(at, pixels[0][: len(values[1])], values[1])
    weight = (np.arange(row, row + rows)[:, None] - lines[0]) / (lines[1] - lines[0])
    return mixed * weight, np.broadcast_to(own, (rows, cols))
