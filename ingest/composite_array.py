"""The zarr group of a composite: sharded arrays, with the attributes by which other tools find place and meaning."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from pyproj import CRS
from zarr.codecs import BloscCodec

from infra.errors import ConflictError
from infra.store import NotFound, Store
from ingest.composite_grid import CompositeGrid
from ingest.seasons import DIRECTIONS, SEASONS
from ingest.zarr_store import ZarrObjects
from shards.tile import NO_DATA, DbScale

CHUNK = 256
BLOCK = 1024
"""Side of a shard in pixels: what one worker makes at a time, and no two workers touch."""

FORMAT = "sarsense-composite-1"
_DIMENSIONS = ("season", "orbit", "polarisation", "y", "x")
# Registered conventions for zarr attributes: github.com/zarr-conventions.
_CONVENTIONS = [
    {"name": "proj:", "uuid": "f17cb550-5864-4468-aeb7-f3180cfb622f"},
    {"name": "spatial:", "uuid": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4"},
]


def create_arrays(
    store: Store, grid: CompositeGrid, polarisations: Sequence[str], scale: DbScale, settings: Mapping[str, Any]
) -> None:
    """Lay out ``backscatter`` (season, orbit, polarisation, y, x) and ``count``, or find them as they must be.

    Backscatter is uint16 codes of ``scale``, which CF readers decode to dB; count is how many scenes a pixel saw.
    Raises ConflictError where another composite lies at this place.
    """
    made = dict(settings) | {"format": FORMAT, "grid": grid.record(), "polarisations": list(polarisations)}
    if found := _found(store):
        if found != made:
            differing = sorted(key for key in made if found.get(key) != made[key])
            raise ConflictError(
                f"{store.url} holds another composite, which differs in {', '.join(differing)}: "
                "give another place, or remove it first"
            )
        return
    group = zarr.create_group(ZarrObjects(store), zarr_format=3, attributes=_attributes(grid))
    side = (1, 1, 1, CHUNK, CHUNK), (1, 1, 1, BLOCK, BLOCK)
    shape = (len(SEASONS), len(DIRECTIONS), len(polarisations), *grid.shape)
    for name, attributes in (("backscatter", _decibels(scale)), ("count", {"long_name": "number of scenes"})):
        group.create_array(
            name,
            shape=shape,
            dtype="uint16",
            chunks=side[0],
            shards=side[1],
            fill_value=NO_DATA,
            compressors=BloscCodec(cname="zstd", clevel=1, shuffle="shuffle"),
            dimension_names=_DIMENSIONS,
            attributes={**attributes, "grid_mapping": "spatial_ref", "coordinates": "season orbit polarisation"},
        )
    _coordinates(group, grid, polarisations)
    group.attrs["sarsense:composite"] = made  # last: a group without it was never finished


def _found(store: Store) -> dict[str, Any] | None:
    """Read the settings of the composite at a place, if one is there."""
    try:
        store.info("zarr.json")
    except NotFound:
        return None
    made = zarr.open_group(ZarrObjects(store, read_only=True), mode="r").attrs.get("sarsense:composite")
    return dict(made) if isinstance(made, Mapping) else None


def _attributes(grid: CompositeGrid) -> dict[str, Any]:
    rows, cols = grid.shape
    return {
        "Conventions": "CF-1.12",
        "zarr_conventions": _CONVENTIONS,
        "proj:code": f"EPSG:{grid.epsg}",
        "spatial:dimensions": ["y", "x"],
        "spatial:shape": [rows, cols],
        "spatial:transform": list(grid.map_grid.transform),
    }


def _decibels(scale: DbScale) -> dict[str, Any]:
    """Say in CF's words how codes become dB: code 1 is the floor."""
    return {
        "long_name": "radar backscatter",
        "units": "dB",
        "scale_factor": scale.step_db,
        "add_offset": scale.floor_db - scale.step_db,
        "_FillValue": NO_DATA,
    }


def _coordinates(group: zarr.Group, grid: CompositeGrid, polarisations: Sequence[str]) -> None:
    rows, cols = grid.shape
    x = grid.left_m + grid.spacing_m * (np.arange(cols) + 0.5)
    y = grid.top_m - grid.spacing_m * (np.arange(rows) + 0.5)
    for name, values in (("x", x), ("y", y)):
        attributes: Any = {"standard_name": f"projection_{name}_coordinate", "units": "m", "axis": name.upper()}
        group.create_array(name, data=values, chunks=(len(values),), dimension_names=(name,), attributes=attributes)
    for name, labels in (("season", SEASONS), ("orbit", DIRECTIONS), ("polarisation", tuple(polarisations))):
        codes = np.arange(len(labels), dtype=np.uint8)
        # Numbers with CF flag meanings: the string types of zarr 3 are not settled yet.
        meanings: Any = {"flag_values": codes.tolist(), "flag_meanings": " ".join(labels), "long_name": name}
        group.create_array(name, data=codes, chunks=(len(codes),), dimension_names=(name,), attributes=meanings)
    crs = CRS.from_epsg(grid.epsg)
    a, b, c, d, e, f = grid.map_grid.transform
    made: Any = {**crs.to_cf(), "spatial_ref": crs.to_wkt(), "GeoTransform": f"{c} {a} {b} {f} {d} {e}"}
    group.create_array("spatial_ref", data=np.array(0, np.int32), attributes=made, dimension_names=())
