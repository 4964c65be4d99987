"""Products with known truth, for tests and demonstrations: Sentinel-1 IW GRD and ALOS-2 L1.5 over simulated land."""

import csv
import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from infra.errors import UsageError
from ingest.simulate_alos2 import write_ceos
from ingest.simulate_pass import ImageGrid
from ingest.simulate_safe import write_safe
from ingest.simulate_scene import check_request
from ingest.simulate_sentinel1 import MISSIONS, SPACING_M, Acquisition
from ingest.truth import Land, Place, legend

_FIRST_SENTINEL1 = datetime(2021, 1, 19, 5, 11, 22, 594441, tzinfo=UTC)
_FIRST_ALOS2 = datetime(2021, 1, 12, 4, 33, 42, 52000, tzinfo=UTC)


def simulate_sentinel1(
    folder: Path,
    *,
    rows: int,
    cols: int,
    seed: int,
    lon: float,
    lat: float,
    polarisations: Sequence[str] = ("VV", "VH"),
    start: datetime | None = None,
    mission: str = "S1A",
    direction: str = "Descending",
    field_spread: float = 0.0,
    truth: bool = False,
) -> Path:
    """Write a Sentinel-1 IW GRDH product of simulated land; give the path of its ``.SAFE`` folder.

    ``lon``, ``lat`` (degrees) is the middle of the image; pixels are 10 m. Beside the product lie
    ``<product>_labels.tif`` (uint8 class ids, 255 on black fill) and ``legend.json``; with ``truth`` also
    ``<product>_sigma0.tif``, the speckled sigma0 that calibration and noise removal must give back up to the
    rounding of the digital numbers. Speckle has 4.4 looks. The same arguments give the same bytes. Raises UsageError.
    """
    check_request(rows, cols, seed, lon, lat, polarisations)
    if mission not in MISSIONS or direction not in ("Ascending", "Descending"):
        raise UsageError(
            f"no pass {direction} of {mission}: expected Ascending or Descending of {' or '.join(MISSIONS)}"
        )
    when = start or _FIRST_SENTINEL1 + timedelta(days=12 * (seed % 100))
    grid = ImageGrid(Place(lon, lat), rows, cols, SPACING_M, Acquisition.heading_deg(direction))
    acquisition = Acquisition(grid, _utc(when), mission, direction)
    _write_legend(folder)
    return write_safe(folder, acquisition, Land(seed, field_spread), polarisations, truth)


def simulate_alos2(
    folder: Path,
    *,
    rows: int,
    cols: int,
    seed: int,
    lon: float,
    lat: float,
    polarisations: Sequence[str] = ("HH", "HV"),
    start: datetime | None = None,
    field_spread: float = 0.0,
    truth: bool = False,
    level: str = "1.5",
) -> Path:
    """Write an ALOS-2 fine-beam product (CEOS) of simulated land; give the path of its folder.

    Levels 1.5, 2.1 and 3.1 lie on a UTM map of 6.25 m, level 1.1 is complex in slant range. Two polarisations make
    FBD, four FBQ.

    Places, labels and truth as for :func:`simulate_sentinel1`; the same seed and place show the same ground.
    Speckle has 3 looks, at level 1.1 one; the calibration factor is -83 dB. Raises UsageError.
    """
    check_request(rows, cols, seed, lon, lat, polarisations)
    when = start or _FIRST_ALOS2 + timedelta(days=14 * (seed % 100))
    _write_legend(folder)
    place = Place(lon, lat)
    land = Land(seed, field_spread)
    return write_ceos(folder, place, (rows, cols), _utc(when), land, polarisations, truth, level)


def simulate_catalog(folder: Path, *, scenes: int, rows: int, cols: int, seed: int) -> Path:
    """Write a mix of Sentinel-1 and ALOS-2 scenes of many places with labels; give the path of its ``catalog.csv``.

    Scenes come in pairs: both sensors see the same ground. Fields differ by up to 20 % from their class.
    """
    if scenes < 1:
        raise UsageError(f"a catalog needs at least one scene, got {scenes}")
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for number in range(scenes):
        pair, sensor = divmod(number, 2)
        simulate, name = ((simulate_sentinel1, "sentinel-1"), (simulate_alos2, "alos-2"))[sensor]
        product = simulate(
            folder / name,
            rows=rows,
            cols=cols,
            seed=seed + pair,
            lon=_wrapped(8.0 + 5.7 * pair),
            lat=44.0 + 5.3 * pair % 14.0,
            field_spread=0.2,
        )
        labels = product.with_name(product.name.removesuffix(".SAFE") + "_labels.tif")
        listed.append((product.relative_to(folder).as_posix(), labels.relative_to(folder).as_posix()))
    catalog = folder / "catalog.csv"
    with catalog.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("path", "labels"), *listed])
    return catalog


def _utc(time: datetime) -> datetime:
    """A time without a zone is UTC."""
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def _wrapped(lon: float) -> float:
    return (lon + 180.0) % 360.0 - 180.0


def _write_legend(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "legend.json").write_text(json.dumps(legend(), indent=2) + "\n")
