"""Products made of another by changing names and texts: many in little time."""

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import rasterio


def copy_product(product: Path, folder: Path, changes: Mapping[str, str]) -> Path:
    """Copy a product's folder with strings replaced in the names and contents of its files; equal files are linked."""
    target = folder / _changed(product.name, changes)
    for file in sorted(product.rglob("*")):
        if not file.is_file():
            continue
        copy = target / _changed(file.relative_to(product).as_posix(), changes)
        copy.parent.mkdir(parents=True, exist_ok=True)
        data = file.read_bytes()
        new = data
        if file.suffix != ".tiff":
            for old, wanted in changes.items():
                new = new.replace(old.encode(), wanted.encode())
        if new == data:
            os.link(file, copy)
        else:
            copy.write_bytes(new)
    return target


def spoil(file: Path, data: bytes) -> None:
    """Give a file other bytes, without touching the copies that it is linked to."""
    file.unlink()
    file.write_bytes(data)


def blacken(raster: Path) -> None:
    """Make all pixels of a uint16 GeoTIFF zero, without touching its linked copies."""
    spoil(raster, raster.read_bytes())
    with rasterio.open(raster, "r+", driver="GTiff") as file:
        file.write(np.zeros((file.height, file.width), np.uint16), 1)


def _changed(text: str, changes: Mapping[str, str]) -> str:
    for old, wanted in changes.items():
        text = text.replace(old, wanted)
    return text
