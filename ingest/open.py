"""The one door to products: what lies at a path is recognised and opened as a scene."""

from pathlib import Path
from typing import Literal

from ingest.alos2 import open_alos2
from ingest.recipe import Pixels
from ingest.scene import Scene, SceneRejected
from ingest.sentinel1 import open_sentinel1

Sensor = Literal["sentinel-1", "alos-2"]


def sensor_of(path: Path) -> Sensor | None:
    """Tell from names alone which sensor's product a path is, if any."""
    if path.is_dir():
        if path.name.upper().endswith(".SAFE") or (path / "manifest.safe").is_file():
            return "sentinel-1"
        if any(path.glob("VOL-ALOS2*")) or any(path.glob("IMG-*-ALOS2*")):
            return "alos-2"
    elif path.suffix.lower() == ".zip" and path.name.upper().startswith("S1"):
        return "sentinel-1"
    return None


def open_scene(path: str, pixels: Pixels) -> Scene:
    """Open a product of any sensor as the recipe wants its pixels. Raises SceneRejected where it cannot be used."""
    sensor = sensor_of(Path(path))
    if sensor == "sentinel-1":
        return open_sentinel1(path, pixels)
    if sensor == "alos-2":
        return open_alos2(path, pixels)
    found = "no such file or folder" if not Path(path).exists() else "neither a Sentinel-1 nor an ALOS-2 product"
    raise SceneRejected(f"{path}: {found}")
