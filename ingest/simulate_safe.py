"""Writes a simulated Sentinel-1 acquisition as a SAFE folder with its label raster beside it."""

import binascii
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint

from infra.errors import UsageError
from ingest.simulate_annotation import annotation, calibration, ground_points, noise
from ingest.simulate_manifest import IPF_VERSION, Member, manifest
from ingest.simulate_scene import Strip, TruthRasters, strips
from ingest.simulate_sentinel1 import LOOKS, Acquisition, Detector
from ingest.truth import Land

_CHANNELS = {
    ("VV", "VH"): "DV",
    ("HH", "HV"): "DH",
    ("VV",): "SV",
    ("HH",): "SH",
    ("VH",): "VH",
    ("HV",): "HV",
}


def write_safe(folder: Path, of: Acquisition, land: Land, polarisations: Sequence[str], truth: bool) -> Path:
    """Write the product and its rasters of truth into ``folder``; give the path of the ``.SAFE`` folder."""
    if tuple(polarisations) not in _CHANNELS:
        raise UsageError(
            f"polarisations {list(polarisations)}: Sentinel-1 delivers {', '.join('+'.join(c) for c in _CHANNELS)}"
        )
    with tempfile.TemporaryDirectory(dir=folder, prefix=".simulated-") as name:
        work = Path(name)
        images = _write_files(work, of, land, polarisations, truth)
        content = manifest(of, work / "safe", polarisations, images)
        (work / "safe" / "manifest.safe").write_bytes(content)
        product = _product_name(of, polarisations, content)
        for raster in sorted(work.glob("truth_*.tif")):
            raster.replace(folder / f"{product}{raster.name.removeprefix('truth')}")
        target = folder / f"{product}.SAFE"
        shutil.rmtree(target, ignore_errors=True)
        (work / "safe").replace(target)
    return target


def _product_name(of: Acquisition, polarisations: Sequence[str], content: bytes) -> str:
    """Name the product as ESA does; the last four digits are the CRC-16 of its manifest."""
    channels, crc = _CHANNELS[tuple(polarisations)], binascii.crc_hqx(content, 0xFFFF)
    return f"{of.mission}_IW_GRDH_1S{channels}_{_span(of, '_')}_{of.absolute_orbit:06d}_{of.data_take:06X}_{crc:04X}"


def _span(of: Acquisition, separator: str) -> str:
    return separator.join(time.strftime("%Y%m%dT%H%M%S") for time in (of.start, of.stop))


def _write_files(
    work: Path, of: Acquisition, land: Land, polarisations: Sequence[str], truth: bool
) -> list[list[Member]]:
    safe = work / "safe"
    for part in ("measurement", "annotation/calibration"):
        (safe / part).mkdir(parents=True)
    images = [_members(of, name, number) for number, name in enumerate(polarisations, start=1)]
    georeference = {"gcps": _control_points(of), "crs": "EPSG:4326"}
    shape = (of.grid.rows, of.grid.cols)
    with ExitStack() as files:
        rasters = files.enter_context(TruthRasters(work / "truth", shape, georeference, polarisations if truth else ()))
        measured = {
            name: files.enter_context(_Measurement(safe / members[-1].path, of, name, georeference))
            for name, members in zip(polarisations, images, strict=True)
        }
        for strip in strips(land, of.grid, _valid(of), "C", polarisations, LOOKS):
            rasters.write(strip)
            for name in polarisations:
                measured[name].write(strip)
    for number, (name, members) in enumerate(zip(polarisations, images, strict=True), start=1):
        texts = (
            annotation(of, name, number, *measured[name].statistics()),
            noise(of, name, number),
            calibration(of, name, number),
        )
        for member, text in zip(members, texts, strict=False):
            (safe / member.path).write_bytes(text)
    return images


def _members(of: Acquisition, polarisation: str, number: int) -> list[Member]:
    stem = (
        f"{of.mission}-iw-grd-{polarisation}-{_span(of, '-')}-{of.absolute_orbit:06d}-{of.data_take:06x}-{number:03d}"
    ).lower()
    return [
        Member("product", f"annotation/{stem}.xml"),
        Member("noise", f"annotation/calibration/noise-{stem}.xml"),
        Member("calibration", f"annotation/calibration/calibration-{stem}.xml"),
        Member("", f"measurement/{stem}.tiff"),
    ]


def _control_points(of: Acquisition) -> list[GroundControlPoint]:
    line, pixel = ground_points(of)
    lon, lat = of.grid.lonlat(line, pixel)
    places = zip(line.tolist(), pixel.tolist(), lon.tolist(), lat.tolist(), strict=True)
    return [GroundControlPoint(r, c, x, y, 0.0, id=str(i)) for i, (r, c, x, y) in enumerate(places, start=1)]


def _valid(of: Acquisition) -> Any:
    def valid(row: NDArray[np.float64], col: NDArray[np.float64]) -> NDArray[np.bool_]:
        return (col >= of.near_border(row)) & (col < of.far_border(row))

    return valid


class _Measurement:
    """The pixels of one polarisation on their way to disk."""

    def __init__(self, path: Path, of: Acquisition, polarisation: str, georeference: Mapping[str, Any]) -> None:
        self._polarisation = polarisation
        self._detector = Detector(of, polarisation)
        self._sums = np.zeros(2)
        self._pixels = of.grid.rows * of.grid.cols
        size = {"height": of.grid.rows, "width": of.grid.cols}
        self._raster = rasterio.open(path, "w", driver="GTiff", count=1, dtype="uint16", **size, **georeference)
        self._raster.update_tags(
            TIFFTAG_IMAGEDESCRIPTION=f"Sentinel-{of.mission[1:]} IW GRD HR L1",
            TIFFTAG_SOFTWARE=f"Sentinel-1 IPF {IPF_VERSION}",
            TIFFTAG_DATETIME=of.stop.strftime("%Y:%m:%d %H:%M:%S"),
        )

    def write(self, strip: Strip) -> None:
        numbers = self._detector.numbers(strip.power[self._polarisation], strip.row)
        self._sums += numbers.sum(dtype=np.float64), np.square(numbers, dtype=np.float64).sum()
        self._raster.write(numbers, 1, window=((strip.row, strip.row + len(numbers)), (0, numbers.shape[1])))

    def statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of the digital numbers."""
        mean, square = self._sums / self._pixels
        return float(mean), float(np.sqrt(square - mean**2))

    def __enter__(self) -> "_Measurement":
        return self

    def __exit__(self, *exc: object) -> None:
        self._raster.close()
