"""The one door to products: what lies at a path is recognised and opened as a scene."""

from pathlib import Path
from typing import Literal

from ingest.alos2 import alos2_parts, is_alos2, open_alos2
from ingest.composite_scene import is_composite, open_composite
from ingest.href import place_of, split_part
from ingest.recipe import Pixels
from ingest.scene import Scene, SceneRejected
from ingest.sentinel1 import open_sentinel1
from ingest.sentinel1 import parts_of as sentinel1_parts

Sensor = Literal["sentinel-1", "alos-2", "composite"]


def sensor_of(path: Path | str) -> Sensor | None:
    """Tell from names alone which sensor's product a path, or an ``s3://`` URI as a string, is, if any.

    The path may name a part of a product (``X.SAFE#IW2``).
    """
    whole, _ = split_part(str(path))
    if (place := place_of(whole)) == "remote":
        return None
    if is_composite(whole):
        return "composite"
    if place == "s3":
        return _sensor_named(whole.rstrip("/").rpartition("/")[2].upper())
    path = Path(whole)
    if path.is_dir():
        if path.name.upper().endswith(".SAFE") or (path / "manifest.safe").is_file():
            return "sentinel-1"
    elif path.suffix.lower() == ".zip" and path.name.upper().startswith("S1"):
        return "sentinel-1"
    return "alos-2" if is_alos2(path) else None


def parts_of(path: str) -> tuple[str, ...]:
    """List the scenes of a product, each as a path of its own: sub-swaths, imagettes or scans, or the product itself.

    A path that names a part already is its own only part.
    """
    sensor = sensor_of(path)
    if sensor == "alos-2" and place_of(path) == "local":
        return alos2_parts(path)
    if sensor == "sentinel-1" and _may_hold_several(path):
        try:
            return sentinel1_parts(path)
        except SceneRejected:
            return (path,)  # it says what is wrong when it is opened
    return (path,)


def _may_hold_several(path: str) -> bool:
    """Tell from a Sentinel-1 product's name whether it is worth a look inside, which in S3 costs requests."""
    name = path.rpartition("/")[2].upper()
    return "_SLC_" in name or (place_of(path) == "local" and "_GRD" not in name)


def open_scene(path: str, pixels: Pixels) -> Scene:
    """Open a product of any sensor as the recipe wants its pixels. Raises SceneRejected where it cannot be used."""
    sensor = sensor_of(path)
    if sensor == "sentinel-1":
        return open_sentinel1(path, pixels)
    if sensor == "alos-2":
        return open_alos2(path, pixels)
    if sensor == "composite":
        return open_composite(path, pixels)
    raise SceneRejected(f"{path}: {what_is_wrong(path)}")


def what_is_wrong(path: str) -> str:
    """Say why no scene can be opened at a path that :func:`sensor_of` does not know."""
    whole, _ = split_part(path)
    place = place_of(whole)
    if place == "remote":
        return "is neither on this machine nor in S3: download it first and name the path where it lies"
    if place == "local" and not Path(whole).exists():
        return "no such file or folder"
    return "neither a Sentinel-1 nor an ALOS-2 product, nor a composite (NAME.zarr)"


def _sensor_named(name: str) -> Sensor | None:
    """Tell the sensor from a product's name in capitals, where looking inside would cost a request."""
    if name.startswith(("S1A_", "S1B_", "S1C_", "S1D_")):
        return "sentinel-1"
    return "alos-2" if name.startswith("ALOS2") else None
