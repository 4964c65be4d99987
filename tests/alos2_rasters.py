"""Writes ALOS-2 products made of rasters: a mosaic tile, a level 2.2 ScanSAR scene, and GeoTIFF products."""

import io
import tarfile
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.transform import Affine

TILE = "N23W161_20"


def numbers(shape: tuple[int, int], seed: int) -> NDArray[np.uint16]:
    """Give amplitudes of 100 to 30,000."""
    return np.random.default_rng(seed).integers(100, 30_000, shape).astype(np.uint16)


def write(path: Path, pixels: NDArray[np.generic], transform: Affine | None, epsg: int | None) -> None:
    """Write one band."""
    map_of = {"crs": f"EPSG:{epsg}", "transform": transform} if epsg and transform else {}
    profile = {"driver": "GTiff", "height": pixels.shape[0], "width": pixels.shape[1], "count": 1, **map_of}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", dtype=pixels.dtype, **profile) as out:
            out.write(pixels, 1)


def mosaic(folder: Path, layers: Mapping[str, NDArray[np.generic]], tile: str = TILE, west: int = -161) -> Path:
    """Write a tile of one degree; ``layers`` maps sl_HH, mask, date, linci, ... to pixels of one shape."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, pixels in layers.items():
        transform = Affine(1 / pixels.shape[1], 0, west, 0, -1 / pixels.shape[0], 23)
        write(folder / f"{tile}_{name}_F02DAR.tif", pixels, transform, 4326)
    return folder


def archive(path: Path, members: Mapping[str, bytes]) -> Path:
    """Pack members into a tar.gz under the names given."""
    with tarfile.open(path, "w:gz") as out:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
    return path
