"""Terrain correction of Sentinel-1 beside sarsen, in turn in one run: the same product and DEM in, a GeoTIFF out.

    .venv/bin/python benchmarks/bench_geocode.py SHARED_DATA [--size 1200] [--rounds 3] [--out FILE]

The product is real IW GRDH annotation with simulated pixels, the DEM the one of Rome, put on a UTM grid of 10 m of
``size`` x ``size`` pixels and mirrored to fill it. Both write beta0 (then gamma0) on that grid, nearest neighbour;
sarsen reads the DEM on it, ours takes the heights of its pixels from it.
"""

import argparse
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import rasterio
from measure import Cost, machine, median, row, save
from numpy.typing import NDArray
from rasterio.transform import Affine

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from sentinel1_products import IPF_340, unpack, write_pixels

from ingest.geocode import Geocoded
from ingest.recipe import GridRules, Pixels
from ingest.scene import Window
from ingest.sentinel1 import open_sentinel1

EAST_M, NORTH_M = 288_000.0, 4_652_000.0  # upper left corner in EPSG:32633, north-west of Rome
SPACING_M = 10.0


def write_dem(source: Path, target: Path, size: int) -> None:
    """Put the Rome DEM on the UTM grid: three pixels for one, mirrored to fill it."""
    with rasterio.open(source) as file:
        heights = file.read(1).astype(np.float32)
    fine = heights.repeat(3, axis=0).repeat(3, axis=1)
    padded = np.pad(fine, [(0, max(size - n, 0)) for n in fine.shape], mode="symmetric")[:size, :size]
    smooth = sum(np.roll(padded, (i, j), (0, 1)) for i in (-1, 0, 1) for j in (-1, 0, 1)) / 9
    with rasterio.open(
        target, "w", driver="GTiff", height=size, width=size, count=1, dtype="float32", crs="EPSG:32633",
        transform=Affine(SPACING_M, 0, EAST_M, 0, -SPACING_M, NORTH_M),
    ) as file:  # fmt: skip
        file.write(np.asarray(smooth, np.float32), 1)


def ours(product: Path, dem: Path, target: Path, size: int, flatten: bool) -> None:
    """Open everything, geocode the DEM's square and write it."""
    rules = GridRules.model_validate(
        {"kind": "utm", "dem": str(dem), "dem_datum": "ellipsoid", "resampling": "nearest", "mask": "none"}
    )
    with ExitStack() as stack:
        source = stack.enter_context(open_sentinel1(str(product), Pixels(quantity="beta0", denoise=False)))
        scene = stack.enter_context(Geocoded(source, rules, source.radar, flatten))
        grid = scene.info.grid
        assert grid is not None
        col, line = (
            round((EAST_M - grid.transform[2]) / SPACING_M),
            round((grid.transform[5] - NORTH_M) / SPACING_M),
        )
        with rasterio.open(
            target, "w", driver="GTiff", height=size, width=size, count=1, dtype="float32",
            crs=f"EPSG:{grid.epsg}", transform=Affine(SPACING_M, 0, EAST_M, 0, -SPACING_M, NORTH_M),
        ) as file:  # fmt: skip
            for top in range(0, size, 256):
                rows = min(256, size - top)
                power = scene.power(Window(line + top, col, rows, size))
                file.write(power, window=rasterio.windows.Window(0, top, size, rows))


def sarsen(product: Path, dem: Path, target: Path, flatten: bool) -> None:
    from sarsen import apps
    from sarsen.sentinel1 import Sentinel1SarProduct

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        apps.terrain_correction(
            Sentinel1SarProduct(str(product), "IW/VV"), str(dem), output_urlpath=str(target),
            correct_radiometry="gamma_bilinear" if flatten else None,
        )  # fmt: skip


def cost_of_call(call: Callable[[], object]) -> Cost:
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Cost(time.perf_counter() - wall, time.process_time() - cpu)


def read(path: Path) -> NDArray[np.float32]:
    with rasterio.open(path) as file:
        pixels: NDArray[np.float32] = file.read(1)
        return pixels[::-1] if file.transform.e > 0 else pixels


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("shared_data", type=Path)
    parser.add_argument("--size", type=int, default=1200)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/geocode.json"))
    given = parser.parse_args()
    before, results = machine(), {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        product = unpack(given.shared_data, IPF_340, folder)
        write_pixels(product, [(6656, 20480, 3072, 3072)], compress="none")
        dem = folder / "dem.tif"
        write_dem(given.shared_data / "dem" / "Rome-30m-DEM.tif", dem, given.size)
        for work, flatten in (("beta0", False), ("gamma0-terrain", True)):
            mine, theirs = folder / "ours.tif", folder / "sarsen.tif"
            ours(product, dem, mine, given.size, flatten)  # compiled kernels and the page cache, for both
            costs: dict[str, list[Cost]] = {"ours": [], "sarsen": []}
            for _ in range(given.rounds):
                costs["ours"].append(cost_of_call(lambda m=mine, f=flatten: ours(product, dem, m, given.size, f)))
                costs["sarsen"].append(cost_of_call(lambda t=theirs, f=flatten: sarsen(product, dem, t, f)))
            rows = {who: row(median(found), given.size**2 / 1e6) for who, found in costs.items()}
            both = np.isfinite(read(mine)) & np.isfinite(read(theirs)) & (read(theirs) > 0)
            rows["agreement"] = {"median ratio": round(float(np.median(read(mine)[both] / read(theirs)[both])), 4)}
            results[work] = rows
    save(given.out, before, {"size": given.size, "rounds": given.rounds, "work": results})


if __name__ == "__main__":
    main()
