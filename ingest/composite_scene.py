"""A finished composite as a scene: its seasons, directions and polarisations become the bands of tiles."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import zarr
from numpy.typing import NDArray

from infra.errors import UsageError
from infra.record import digest
from infra.store import Corrupt, NotFound, open_store
from ingest.composite_array import FORMAT
from ingest.composite_grid import CompositeGrid
from ingest.href import split_part
from ingest.mapgrid import MapPlace
from ingest.recipe import Pixels
from ingest.scene import SceneInfo, SceneRejected, Window
from ingest.seasons import DIRECTIONS, SEASONS
from ingest.zarr_store import ZarrObjects
from shards.tile import DbScale


@dataclass(frozen=True, slots=True)
class _Band:
    """One band: indices into the array, and of the polarisation that it is divided by, where it is a ratio."""

    name: str
    season: int
    orbit: int
    polarisation: int
    over: int | None = None


class CompositeScene:
    """A composite opened for reading; see :class:`ingest.scene.Scene`.

    Bands are season x direction x polarisation in that nesting ("winter-ascending-VV", ...): 16 for VV and VH, fewer
    where a season has no pass of a direction. With ``layout="12"`` they are the ascending passes' VV/VH ratio, VV and
    VH, four seasons each (Phi-lab, "SSL for SAR", the input of its masked autoencoder). Raises SceneRejected for what
    is no finished composite, or lacks a season of the layout.
    """

    def __init__(self, url: str, layout: str = "") -> None:
        store = open_store(url)
        try:
            store.info("zarr.json")
            group = zarr.open_group(ZarrObjects(store, read_only=True), mode="r")
            made: Any = group.attrs["sarsense:composite"]
            if made["format"] != FORMAT:
                raise SceneRejected(f"{url} is of the format {made['format']!r}, expected {FORMAT}")
            sources: Any = group.attrs["sarsense:sources"]
            seen = {(source["season"], source["orbit"]) for source in sources}
            grid = CompositeGrid.of_record(made["grid"])
            self._scale = DbScale(**made["scale"])
            codes: Any = group["backscatter"]
            shape = (len(SEASONS), len(DIRECTIONS), len(made["polarisations"]), *grid.shape)
            if (codes.shape, codes.dtype) != (shape, np.uint16):
                found = f"{codes.shape} {codes.dtype}"
                raise SceneRejected(f"{url} has backscatter of {found}, its attributes say {shape} uint16: remake it")
        except (NotFound, KeyError, TypeError, ValueError, AttributeError) as error:
            raise SceneRejected(f"{url} is no finished composite: run `ingest composite` again ({error!r})") from error
        self._url, self._codes, self._bands = url, codes, _bands(made["polarisations"], seen, layout, url)
        map_grid = grid.map_grid
        self._place = MapPlace(grid.epsg, map_grid.transform, grid.shape, url)
        content = digest({"made": made, "sources": sources, "layout": layout})
        self._info = SceneInfo(
            id=f"{url.rstrip('/').rpartition('/')[2].removesuffix('.zarr')}{f'-{layout}' if layout else ''}",
            sensor="composite",
            product=f"{made['statistic']}-{made['year']}",
            mode="composite",
            polarisations=tuple(band.name for band in self._bands),
            shape=grid.shape,
            spacing_m=(grid.spacing_m, grid.spacing_m),
            looks=1.0,
            time=f"{made['year'] - 1}-12-01T00:00:00Z",
            orbit=None,
            fingerprint=content,
            footprint=self._place.footprint,
            grid=map_grid,
            quantity=made["quantity"],
        )

    @property
    def info(self) -> SceneInfo:
        """What is known without reading pixels."""
        return self._info

    def power(self, window: Window) -> NDArray[np.float32]:
        """Read linear power, (bands, rows, cols) float32; NaN where no scene of the season saw the ground.

        Raises SceneRejected where a shard is damaged, and StoreError where the store fails.
        """
        rows, cols = self._info.shape
        if min(window) < 0 or window.row + window.rows > rows or window.col + window.cols > cols:
            raise ValueError(f"{window} is not within the {rows} x {cols} pixels of {self._info.id}")
        inside = slice(window.row, window.row + window.rows), slice(window.col, window.col + window.cols)
        try:
            codes = np.asarray(self._codes[(slice(None), slice(None), slice(None), *inside)])
        except (Corrupt, ValueError, RuntimeError) as error:  # checksums of zarr's, decompression of blosc's
            raise SceneRejected(
                f"{self._url} has pixels that cannot be read ({window}): {error}; remove it and make it again"
            ) from error
        out = np.empty((len(self._bands), window.rows, window.cols), np.float32)
        for layer, band in zip(out, self._bands, strict=True):
            level_db = self._scale.decode(codes[band.season, band.orbit, band.polarisation])
            if band.over is not None:
                level_db -= self._scale.decode(codes[band.season, band.orbit, band.over])
            layer[:] = 10.0 ** (level_db / np.float32(10.0))
        return out

    def label(self, window: Window) -> None:
        """Give None: a composite has no labels."""
        return None

    def locate(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give (n, 2) longitude and latitude in degrees of pixel centres."""
        return self._place.locate(rows, cols)

    def incidence_deg(self, rows: NDArray[np.float64], cols: NDArray[np.float64]) -> None:
        """Give None: many passes saw each pixel."""
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass


def is_composite(url: str) -> bool:
    """Tell from its name whether a path or URL (without ``#layout``) is a composite."""
    return url.rstrip("/").endswith(".zarr")


def open_composite(path: str, pixels: Pixels) -> CompositeScene:
    """Open ``URL`` or ``URL#12``. Raises SceneRejected, also where its power is not the quantity that is wanted."""
    url, layout = split_part(path)
    try:
        scene = CompositeScene(url, layout or "")
    except UsageError as error:
        raise SceneRejected(str(error)) from error
    if scene.info.quantity != pixels.quantity:
        raise SceneRejected(
            f"{path} is a composite of {scene.info.quantity}, the recipe wants {pixels.quantity}: make the composite "
            "with this recipe"
        )
    return scene


def _bands(polarisations: list[str], groups: set[tuple[str, str]], layout: str, url: str) -> list[_Band]:
    """Give the bands of a layout; ``groups`` are the (season, direction) that have scenes."""
    if layout == "":
        return [
            _Band(f"{season}-{orbit}-{polarisation}", s, o, p)
            for s, season in enumerate(SEASONS)
            for o, orbit in enumerate(DIRECTIONS)
            for p, polarisation in enumerate(polarisations)
            if (season, orbit) in groups
        ]
    if layout != "12" or not {"VV", "VH"} <= set(polarisations):
        raise SceneRejected(
            f"{url}#{layout}: the only other layout is #12, of VV and VH; this one has {', '.join(polarisations)}"
        )
    if lacking := [season for season in SEASONS if (season, "ascending") not in groups]:
        raise SceneRejected(
            f"{url}#12 lacks ascending passes in {', '.join(lacking)}: add scenes, or list it without #12"
        )
    vv, vh = polarisations.index("VV"), polarisations.index("VH")
    kinds = (("VV/VH", vv, vh), ("VV", vv, None), ("VH", vh, None))
    return [
        _Band(f"{season}-ascending-{name}", s, 0, p, over)
        for name, p, over in kinds
        for s, season in enumerate(SEASONS)
    ]
