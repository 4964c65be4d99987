"""Outlines and centre lines of the classes of a map, as GeoParquet that any GIS opens."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import rasterio
import rasterio.features
import shapely
from numpy.typing import NDArray
from pyproj import CRS, Geod
from rasterio.transform import Affine, GCPTransformer

from finetune.areas import Place
from finetune.legend import Legend
from finetune.map import bounded_gdal, ground_control
from finetune.thinning import thin
from infra.errors import ResourceError, UsageError

Kind = Literal["polygon", "line"]
Shapes = NDArray[np.object_]
Floats = NDArray[np.float64]

STRIP = 1024
"""Rows of a map that are outlined at a time."""


@dataclass(frozen=True, slots=True)
class VectorDials:
    """How shapes are made, in pixels: tolerance of simplification, the smallest polygon, the shortest loose end."""

    simplify_px: float = 1.0
    least_area_px: int = 4
    least_spur_px: float = 8.0


def parse_wanted(text: str, legend: Legend) -> dict[str, Kind]:
    """Read ``water=polygon,road=line``. Raises UsageError for an unknown class or kind."""
    wanted: dict[str, Kind] = {}
    for part in (part.strip() for part in text.split(",") if part.strip()):
        name, _, kind = part.partition("=")
        if name not in legend.names:
            raise UsageError(f"--vectors {part}: no class {name!r}; the model knows {', '.join(legend.names)}")
        if kind == "polygon":
            wanted[name] = "polygon"
        elif kind == "line":
            wanted[name] = "line"
        else:
            raise UsageError(f"--vectors {part}: expected {name}=polygon or {name}=line")
    return wanted


def file_words(legend: Legend) -> dict[str, str]:
    """Give the part of a file's name for each class; where names differ in signs only, all have their id added."""
    words = {name: "".join(c if c.isalnum() or c in "-_" else "_" for c in name) for name in legend.names}
    if len(set(words.values())) == len(words):
        return words
    return {name: f"{id}-{words[name]}" for name, id in zip(legend.names, legend.ids, strict=True)}


def write_vectors(
    path: Path, map_path: Path, class_id: int, name: str, kind: Kind, place: Place, dials: VectorDials | None = None
) -> int:
    """Write the polygons or centre lines of one class of a written map, and give how many there are.

    Shapes lie in the map's projection, or in WGS 84 where the scene has ground points; without a place in pixels
    (x right, y down). Columns: ``class_id``, ``class``, ``area_m2`` or ``length_m`` (NaN without a place),
    ``geometry`` as WKB. GeoParquet 1.1. Raises ResourceError where the file cannot be written.
    """
    dials = dials or VectorDials()
    shapes = outlines(map_path, class_id, dials) if kind == "polygon" else centre_lines(map_path, class_id, dials)
    placed, sizes = on_ground(shapes, place), sizes_m(shapes, place, kind)
    measure = "area_m2" if kind == "polygon" else "length_m"
    columns = {
        "class_id": pa.array([class_id] * len(placed), pa.int32()),
        "class": pa.array([name] * len(placed), pa.string()),
        measure: pa.array(sizes, pa.float64()),
        "geometry": pa.array(list(shapely.to_wkb(placed)), pa.binary()),
    }
    rows = pa.table(columns).replace_schema_metadata({"geo": json.dumps(_geo(placed, place, kind), sort_keys=True)})
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(rows, part, compression="zstd")
        os.replace(part, path)
    except OSError as error:
        raise ResourceError(f"vectors {path} cannot be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)
    return len(placed)


def outlines(map_path: Path, class_id: int, dials: VectorDials) -> Shapes:
    """Give the polygons of a class in pixel coordinates (corner of the first pixel is 0, 0), 4-connected.

    The map is read strip by strip; what touches the edge of a strip is joined to what continues it.
    """
    whole: list[Any] = []
    cut: list[Any] = []
    for top, rows, ids in _strips(map_path):
        for polygon in _polygons(ids == class_id, top):
            _, low, _, high = polygon.bounds
            (cut if low == top or high == top + rows else whole).append(polygon)
    joined = shapely.get_parts(shapely.union_all(cut)) if cut else []
    shapes = np.array([*whole, *joined], dtype=object)
    shapes = shapes[shapely.area(shapes) >= dials.least_area_px] if len(shapes) else shapes
    return _ordered(shapely.simplify(shapes, dials.simplify_px) if dials.simplify_px else shapes)


def _strips(map_path: Path) -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    with bounded_gdal(), rasterio.open(map_path) as file:
        for top in range(0, file.height, STRIP):
            rows = min(STRIP, file.height - top)
            yield top, rows, file.read(1, window=((top, top + rows), (0, file.width)))


def _polygons(mask: NDArray[np.bool_], top: int) -> Iterator[Any]:
    move = Affine.translation(0, top)
    found = rasterio.features.shapes(mask.astype(np.uint8), mask=mask, connectivity=4, transform=move)
    # Not shapely.polygons, which takes the holes as one array: they need not have as many corners.
    return (shapely.Polygon(shape["coordinates"][0], shape["coordinates"][1:]) for shape, _ in found)


def centre_lines(map_path: Path, class_id: int, dials: VectorDials) -> Shapes:
    """Give the centre lines of a class in pixel coordinates (centre of the first pixel is 0.5, 0.5).

    Lines run from junction to junction or to an end. Thinning looks at a whole scene: one byte for each pixel.
    """
    mask = np.vstack([ids == class_id for _, _, ids in _strips(map_path)])
    lines = skeleton_lines(thin(mask), dials.least_spur_px)
    return _ordered(shapely.simplify(lines, dials.simplify_px) if dials.simplify_px else lines)


def skeleton_lines(skeleton: NDArray[np.bool_], least_spur_px: float = 0) -> Shapes:
    """Trace a skeleton into lines, and leave out loose ends that are shorter than ``least_spur_px``.

    Neighbours by a corner are joined only where no side leads the same way round, so that no junction is a triangle.
    """
    pairs = [_side_pairs(skeleton, 0, 1), _side_pairs(skeleton, 1, 0)]
    pairs += [_corner_pairs(skeleton, 1), _corner_pairs(skeleton, -1)]
    steps = np.concatenate(pairs)  # (n, 2 ends, row and col)
    if not len(steps):
        return np.zeros(0, object)
    lines = _merged(shapely.linestrings(steps[..., ::-1] + 0.5))
    return lines if least_spur_px <= 0 else _merged(lines[~_spurs(lines, least_spur_px)])


def _side_pairs(skeleton: NDArray[np.bool_], down: int, right: int) -> NDArray[np.int64]:
    rows, cols = skeleton.shape
    at = np.argwhere(skeleton[: rows - down, : cols - right] & skeleton[down:, right:])
    return np.stack([at, at + np.array([down, right])], 1)


def _corner_pairs(skeleton: NDArray[np.bool_], right: int) -> NDArray[np.int64]:
    """Give pairs of pixels that touch by a corner only, down to the right (1) or to the left (-1)."""
    first, second = (slice(None, -1), slice(1, None))[::right]
    ends = skeleton[:-1, first] & skeleton[1:, second]
    at = np.argwhere(ends & ~skeleton[:-1, second] & ~skeleton[1:, first])
    at = at + np.array([0, 0 if right == 1 else 1])
    return np.stack([at, at + np.array([1, right])], 1)


def _merged(lines: Shapes) -> Shapes:
    if not len(lines):
        return np.zeros(0, object)
    merged = shapely.line_merge(shapely.multilinestrings(lines))
    return np.array(shapely.get_parts(merged), dtype=object)


def _spurs(lines: Shapes, least: float) -> NDArray[np.bool_]:
    """Tell which short lines have one end that leads on to others and one that does not."""
    ends = np.stack([shapely.get_coordinates(shapely.get_point(lines, n)) for n in (0, -1)], 1)
    flat = ends.reshape(-1, 2)
    _, which, counts = np.unique(flat, axis=0, return_inverse=True, return_counts=True)
    degree = counts[which].reshape(-1, 2)
    loose: NDArray[np.bool_] = (degree == 1).any(1) & (degree > 1).any(1) & (shapely.length(lines) < least)
    return loose


def on_ground(shapes: Shapes, place: Place) -> Shapes:
    """Move shapes from pixels to the map's projection, to WGS 84 (lon, lat), or leave them where there is no place."""
    if not len(shapes) or not place.known:
        return shapes
    if place.transform is not None and place.epsg is not None:
        a, b, c, d, e, f = place.transform
        return _moved(
            shapes, lambda xy: np.stack([a * xy[:, 0] + b * xy[:, 1] + c, d * xy[:, 0] + e * xy[:, 1] + f], 1)
        )
    with GCPTransformer(ground_control(place.ground), tps=True) as transformer:

        def by_points(xy: Floats) -> Floats:
            # The transformer counts rows and columns from the corner, and would add half a pixel for a centre.
            x, y = transformer.xy(xy[:, 1], xy[:, 0], offset="ul")
            return np.stack([np.asarray(x), np.asarray(y)], 1)

        return _within_180(_moved(shapes, by_points))


def _moved(shapes: Shapes, move: Any) -> Shapes:
    moved: Shapes = shapely.transform(shapes, move)
    return moved


def _within_180(shapes: Shapes) -> Shapes:
    """Turn back shapes that lie wholly beyond 180 degrees; those across it keep longitudes above 180."""
    west = shapely.bounds(shapes)[:, 0]
    turned = shapely.transform(shapes, lambda xy: xy - (360.0, 0.0))
    return np.where(west >= 180, turned, shapes)


def sizes_m(shapes: Shapes, place: Place, kind: Kind) -> Floats:
    """Give areas in square metres or lengths in metres; on the ellipsoid where the coordinates are degrees."""
    if not len(shapes) or not place.known:
        return np.full(len(shapes), np.nan)
    placed = on_ground(shapes, place)
    crs = CRS.from_epsg(place.epsg) if place.epsg is not None and place.transform is not None else CRS.from_epsg(4326)
    if crs.is_geographic:
        geod = Geod(ellps="WGS84")
        if kind == "polygon":
            return np.array([abs(geod.geometry_area_perimeter(shape)[0]) for shape in placed])
        return np.array([geod.geometry_length(shape) for shape in placed])
    unit = float(crs.axis_info[0].unit_conversion_factor)
    sizes: Floats = shapely.area(placed) * unit**2 if kind == "polygon" else shapely.length(placed) * unit
    return sizes


def _ordered(shapes: Shapes) -> Shapes:
    """Put shapes from top to bottom and left to right, so that a map gives the same file every time."""
    if not len(shapes):
        return np.zeros(0, object)
    bounds = shapely.bounds(shapes)
    return np.asarray(shapely.normalize(shapes), dtype=object)[np.lexsort(bounds.T[[2, 3, 0, 1]])]


def _geo(placed: Shapes, place: Place, kind: Kind) -> Mapping[str, Any]:
    column: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": ["Polygon" if kind == "polygon" else "LineString"] if len(placed) else [],
    }
    if place.transform is not None and place.epsg is not None:
        column["crs"] = CRS.from_epsg(place.epsg).to_json_dict()
    elif not place.known:
        column["crs"] = None
    if len(placed):
        column["bbox"] = _bounds(placed)
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _bounds(shapes: Shapes) -> Sequence[float]:
    return [float(v) for v in shapely.total_bounds(shapes)]
