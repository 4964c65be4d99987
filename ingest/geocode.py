"""A scene on a UTM map: each pixel of the map asks where it lies in the image, and takes the power from there."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pyproj import Transformer

from infra.errors import UsageError
from infra.record import digest
from ingest.dem import Datum, Dem, Heights, NodeHeights, check_dem
from ingest.lattice import Lattice
from ingest.orbit import find_orbit, read_eof
from ingest.range_doppler import RadarGrid
from ingest.recipe import GridRules, Recipe
from ingest.resample import resample_labels, resample_power, window_around
from ingest.scene import MapGrid, Scene, SceneInfo, SceneRejected, Window
from ingest.sentinel1 import Sentinel1Scene
from ingest.terrain import Terrain

Floats = NDArray[np.float64]

_BLOCK = (256, 1024)
"""So much of the map is resampled at a time: what it needs of a turned image stays small."""
_UNLABELLED = 255
_NEEDED = "flattening takes a Sentinel-1 GRD or SLC product and a recipe with grid.kind utm and grid.dem"


class Geocoded:
    """A scene resampled to the UTM zone of its middle; see :class:`ingest.scene.Scene`.

    ``radar`` is the geometry of a scene in radar coordinates: its pixels are placed by range-Doppler over the DEM of
    the rules, or over heights of its own annotation, with the orbit of the rules' folder or its own. A scene that lies
    on a map already (``info.grid``) is resampled only. ``flatten`` turns beta0 into terrain-flattened gamma0. Pixels
    where the DEM has no height are no data. Raises SceneRejected for a scene that cannot be placed, UsageError for a
    DEM that cannot serve any scene.
    """

    def __init__(self, scene: Scene, rules: GridRules, radar: RadarGrid | None, flatten: bool = False) -> None:
        self._scene, self._rules, self._flatten = scene, rules, flatten
        name = scene.info.id
        self._radar = None if radar is None else _with_orbit(radar, rules)
        if flatten and (self._radar is None or rules.dem is None):
            lacking = "the scene has no orbit model" if self._radar is None else "the recipe names no DEM"
            raise SceneRejected(f"{name} cannot be flattened to gamma0-terrain, {lacking}: {_NEEDED}")
        self._lattice = Lattice.around(*_outline(scene.info, self._radar), rules.spacing_m, rules.epsg, name)
        self._heights: Heights | None = None
        if self._radar is not None and rules.dem is not None:
            self._heights = Dem(*_named_dem(rules), self._lattice)
        self._info = replace(
            scene.info,
            shape=self._lattice.shape,
            spacing_m=(rules.spacing_m, rules.spacing_m),
            grid=self._lattice.grid,
            ground=(),
            fingerprint=self._fingerprint(),
            quantity="gamma0-terrain" if flatten else scene.info.quantity,
        )

    def _fingerprint(self) -> str:
        """Another orbit makes another scene; the DEM is part of the recipe."""
        if self._radar is None or self._rules.orbits is None:
            return self._scene.info.fingerprint
        return digest([self._scene.info.fingerprint, Path(self._radar.orbit.source).name])

    @property
    def info(self) -> SceneInfo:
        """What is known of the scene on its map. The fingerprint is that of the scene and an orbit file."""
        return self._info

    def power(self, window: Window) -> NDArray[np.float32]:
        """Read linear power of the map's pixels, (bands, rows, cols) float32, NaN where there is no data."""
        bands = len(self._info.polarisations)
        out = np.full((bands, window.rows, window.cols), np.nan, np.float32)
        for inside, rows, cols in self._blocks(window):
            line, sample = self._image(rows, cols)
            if self._terrain is not None:
                line[self._terrain.hidden(rows, cols)] = np.nan
            around = window_around(line, sample, self._scene.info.shape)
            if around is None:
                continue
            power = self._scene.power(around)
            if self._flatten and self._terrain is not None:
                line[self._terrain.beside_gap(rows, cols)] = np.nan
                power = self._terrain.flattened(power, around)
            resample_power(power, around, line, sample, self._rules.resampling, out[:, *inside])
        return out

    def label(self, window: Window) -> NDArray[np.uint8] | None:
        """Read the scene's own class ids, the nearest of each pixel; 255 outside the scene. None without labels."""
        if self._scene.label(Window(0, 0, 1, 1)) is None:
            return None
        out = np.full((window.rows, window.cols), _UNLABELLED, np.uint8)
        for inside, rows, cols in self._blocks(window):
            line, sample = self._image(rows, cols)
            around = window_around(line, sample, self._scene.info.shape)
            labels = None if around is None else self._scene.label(around)
            if around is not None and labels is not None:
                resample_labels(labels, around, line, sample, out[inside])
        return out

    def locate(self, rows: Floats, cols: Floats) -> Floats:
        """Give (n, 2) longitude and latitude in degrees; longitudes are those next to the map's middle."""
        to_degrees = Transformer.from_crs(self._lattice.grid.epsg, 4326, always_xy=True)
        lon, lat = to_degrees.transform(*self._lattice.map_xy(rows, cols))
        middle = self._lattice.lonlat[self._lattice.lonlat.shape[0] // 2, self._lattice.lonlat.shape[1] // 2, 0]
        return np.stack([lon + 360.0 * np.round((middle - lon) / 360.0), lat], axis=-1)

    def incidence_deg(self, rows: Floats, cols: Floats) -> Floats | None:
        """Give the incidence angle as the scene does where the pixel lies in it."""
        nodes = self._node_incidence
        return None if nodes is None else self._lattice.at_points(nodes[:, :, None], rows, cols)[:, 0]

    @cached_property
    def _node_incidence(self) -> Floats | None:
        heights = np.zeros(self._lattice.nodes[0].shape) if self._radar is None else self._annotated_heights
        line, sample = _evaluate(self._solved, heights)
        angles = self._scene.incidence_deg(line.ravel(), sample.ravel())
        return None if angles is None else angles.reshape(line.shape)

    @cached_property
    def _solved(self) -> Floats:
        """Where the nodes lie in the image, as polynomials of height; see :meth:`Lattice.solve`."""
        if self._radar is not None:
            return self._lattice.solve(self._radar.locate)
        solved = np.zeros((*self._lattice.nodes[0].shape, 6))
        solved[:, :, 0], solved[:, :, 3] = _on_map(self._scene.info.grid, self._lattice)
        return solved

    @cached_property
    def _annotated_heights(self) -> Floats:
        """The annotation's heights at the nodes: a node's height says where in the image it lies, and the reverse."""
        heights = np.zeros(self._lattice.nodes[0].shape)
        if self._radar is None or self._radar.ground.height is None:
            return heights
        ground = self._radar.ground
        for _ in range(6):
            line, sample = _evaluate(self._solved, heights)
            # Outside the image the outermost heights go on level.
            line = np.clip(line, ground.lines[0], ground.lines[-1])
            sample = np.clip(sample, ground.pixels[0], ground.pixels[-1])
            heights = np.asarray(ground.height_m(line.ravel(), sample.ravel())).reshape(heights.shape)
        return heights

    def _image(self, rows: Floats, cols: Floats) -> tuple[Floats, Floats]:
        if self._heights is None:
            self._heights = NodeHeights(self._lattice, self._annotated_heights)
        return self._lattice.image(self._solved, rows, cols, self._heights.at(rows, cols))

    @cached_property
    def _terrain(self) -> Terrain | None:
        """What slopes do to the image; None without a DEM."""
        if self._radar is None or not isinstance(self._heights, Dem):
            return None
        if not self._flatten and self._rules.mask == "none":
            return None
        return Terrain(self._lattice, self._solved, self._heights, self._radar, self._rules)

    @staticmethod
    def _blocks(window: Window) -> Iterator[tuple[tuple[slice, slice], Floats, Floats]]:
        """Cut a window into blocks: where each lies in the window, and its rows and columns on the map."""
        for row in range(0, window.rows, _BLOCK[0]):
            for col in range(0, window.cols, _BLOCK[1]):
                end_row, end_col = min(row + _BLOCK[0], window.rows), min(col + _BLOCK[1], window.cols)
                rows = np.arange(window.row + row, window.row + end_row, dtype=np.float64)
                cols = np.arange(window.col + col, window.col + end_col, dtype=np.float64)
                yield (slice(row, end_row), slice(col, end_col)), rows, cols

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if self._heights is not None:
            self._heights.close()
        self._scene.__exit__(*exc)


def placed(scene: Scene, product: Scene, recipe: Recipe) -> Scene:
    """Put a scene, which may be labelled or filtered, of an open product on the grid of the recipe.

    Raises SceneRejected where the product gives no terrain-flattened power and cannot be flattened either.
    """
    flatten = recipe.pixels.quantity == "gamma0-terrain" and scene.info.quantity != "gamma0-terrain"
    if recipe.grid.kind == "utm":
        radar = product.radar if isinstance(product, Sentinel1Scene) else None
        return Geocoded(scene, recipe.grid, radar, flatten)
    if flatten:
        raise SceneRejected(f"{scene.info.id} cannot be flattened to gamma0-terrain in its own geometry: {_NEEDED}")
    return scene


def check_grid(rules: GridRules) -> None:
    """Raise UsageError for rules whose DEM or orbits could serve no scene."""
    if rules.dem is not None:
        check_dem(*_named_dem(rules))
    if rules.orbits is not None and not Path(rules.orbits).is_dir():
        raise UsageError(f"grid.orbits {rules.orbits}: no such folder; expected one of orbit files (EOF)")


def _named_dem(rules: GridRules) -> tuple[str, Datum]:
    if rules.dem is None or rules.dem.path is None or rules.dem_datum is None:
        raise UsageError("grid.dem is known by its fingerprint only: name the file that has it (grid.dem.path)")
    return rules.dem.path, rules.dem_datum


def _with_orbit(radar: RadarGrid, rules: GridRules) -> RadarGrid:
    """Take the orbit of the rules' folder that fits the scene, if they name one."""
    if rules.orbits is None:
        return radar
    first, last = radar.row_times[0], radar.row_times[-1]
    path = find_orbit(rules.orbits, radar.platform, first, last)
    return radar.with_orbit(read_eof(path, radar.platform, first, last))


def _outline(info: SceneInfo, radar: RadarGrid | None) -> tuple[Floats, Floats]:
    """Give longitudes and latitudes that lie around a scene."""
    if radar is not None:
        return radar.ground.lon, radar.ground.lat
    if info.grid is None or info.footprint is None:
        raise SceneRejected(
            f"{info.id} cannot be laid on a UTM map: it has neither an orbit model nor a map projection; "
            "use a recipe with grid.kind native"
        )
    lon, lat = np.array(info.footprint).T
    return lon, lat


def _on_map(grid: MapGrid | None, lattice: Lattice) -> tuple[Floats, Floats]:
    """Give rows and columns of pixel centres on a scene's own map of the nodes."""
    if grid is None:
        raise ValueError("a scene without a map has no pixels on it")
    a, b, c, d, e, f = grid.transform
    x, y = lattice.map_xy(*lattice.nodes)
    if grid.epsg != lattice.grid.epsg:
        x, y = Transformer.from_crs(lattice.grid.epsg, grid.epsg, always_xy=True).transform(x, y)
    right, down = np.linalg.solve(np.array([[a, b], [d, e]]), np.stack([(x - c).ravel(), (y - f).ravel()]))
    return down.reshape(x.shape) - 0.5, right.reshape(x.shape) - 0.5


def _evaluate(solved: Floats, heights: Floats) -> tuple[Floats, Floats]:
    """Give image rows and columns of the nodes at heights in metres."""
    h = heights / 1000
    line, sample = (solved[..., k] + h * (solved[..., k + 1] + h * solved[..., k + 2]) for k in (0, 3))
    return line, sample
