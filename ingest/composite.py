"""``ingest composite``: all scenes of a year over one area become seasonal means or medians on one grid.

The grid is made block by block: a worker reads what the scenes of each season and direction of flight show there,
reduces it along time and writes one shard. A block's mark, put last, names all that it was made of, so that a second
run makes only what is missing or was made of other scenes.
"""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import zarr
from numpy.typing import NDArray

from infra.cluster import each, session
from infra.errors import UsageError
from infra.record import canonical_json, digest
from infra.store import NotFound, Store, open_store
from ingest.catalog import Product, Unit
from ingest.composite_array import BLOCK, create_arrays
from ingest.composite_grid import CompositeGrid
from ingest.duplicates import Copy, copy_of, group_copies
from ingest.recipe import Recipe
from ingest.scene import SceneRejected, Window
from ingest.seasons import DIRECTIONS, SEASONS, season_of
from ingest.work import open_source
from ingest.zarr_store import ZarrObjects

Statistic = Literal["median", "mean"]
_STRIP_BYTES = 1 << 28  # of all bands and scenes of a group: what the reduction holds at a time, a few times over


@dataclass(frozen=True, slots=True)
class Request:
    """What a composite is: where it goes, its grid and year, how time is reduced, how scenes become pixels."""

    out: str
    grid: CompositeGrid
    year: int
    statistic: Statistic
    polarisations: tuple[str, ...]
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Placed:
    """A scene that counts: its group (season, direction), and where it lies in the grid (row, col, rows, cols)."""

    product: Product
    id: str
    fingerprint: str
    season: int
    direction: int
    place: Window
    copy: Copy | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did: scenes used, blocks made and blocks that were whole already, and what was set aside.

    ``copies`` are products that show an acquisition of which a newer processing was used: it counts once.
    """

    scenes: int
    made: int
    resumed: int
    rejects: tuple[dict[str, str], ...]
    copies: tuple[dict[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Look:
    product: Product
    request: Request


@dataclass(frozen=True, slots=True)
class _Block:
    window: Window
    scenes: tuple[Placed, ...]
    request: Request

    @property
    def key(self) -> str:
        return f"{self.window.row:06d}-{self.window.col:06d}.json"

    @property
    def made_of(self) -> str:
        scenes = [(scene.id, scene.fingerprint, scene.season, scene.direction) for scene in self.scenes]
        return digest({"recipe": self.request.recipe.digest, "scenes": sorted(scenes)})


def composite(
    products: Sequence[Product],
    request: Request,
    *,
    address: str | None = None,
    workers: int | None = None,
    progress: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> Outcome:
    """Make or complete a composite. ``progress`` is told what is counted, how many are done, and of how many.

    A scene that cannot be used is set aside with its reason and the blocks it was in are made without it. Scenes of
    other years are no rejects: they do not count. Raises UsageError where no scene counts, ConflictError where
    another composite lies at the place, or a storage error.
    """
    store = open_store(request.out)
    recipe = request.recipe
    settings = {
        "year": request.year,
        "statistic": request.statistic,
        "recipe": recipe.digest,
        "pixels": recipe.pixels_digest,
        "scale": recipe.pixels.scale.model_dump(),
        "quantity": recipe.pixels.quantity,
    }
    create_arrays(store, request.grid, request.polarisations, recipe.pixels.scale, settings)
    with session(address, workers) as cpus:
        slots = max(1, min(workers or cpus, cpus))
        looked, rejects = _look_at_all(products, request, slots, progress)
        _describe(store, None)  # not whole while blocks are being made
        made, resumed = 0, 0
        while True:  # again, without them, where scenes turned out to be damaged
            scenes, copies = _without_copies(looked)
            blocks = _blocks(request, scenes)
            pending = [block for block in blocks if _mark(block) != block.made_of]
            resumed = max(resumed, len(blocks) - len(pending)) if not made else resumed
            bad: dict[str, str] = {}
            for number, done in enumerate(each(_make_block, pending, slots=slots), 1):
                if done.error is not None:
                    raise done.error
                bad |= done.value or {}
                made += not done.value
                progress("blocks", number, len(pending))
            if not bad:
                break
            rejects += [_reject(name, "read", why) for name, why in sorted(bad.items())]
            looked = [scene for scene in looked if scene.id not in bad]
            if not looked:
                raise UsageError(f"none of {len(products)} products can be read" + _first(rejects))
    _describe(store, scenes)
    return Outcome(len(scenes), made, resumed, tuple(rejects), tuple(copies))


def _look_at_all(
    products: Sequence[Product], request: Request, slots: int, progress: Callable[[str, int, int], None]
) -> tuple[list[Placed], list[dict[str, str]]]:
    scenes: list[Placed] = []
    rejects: list[dict[str, str]] = []
    looks = [_Look(product, request) for product in products]
    for number, done in enumerate(each(_look, looks, slots=slots), 1):
        if isinstance(done.error, SceneRejected):
            rejects.append(_reject(done.item.product.name, "open", str(done.error)))
        elif done.error is not None:
            raise done.error
        elif done.value is not None:
            scenes.append(done.value)
        progress("scenes", number, len(looks))
    if not scenes:
        raise UsageError(
            f"none of {len(products)} products shows the area between December {request.year - 1} and November "
            f"{request.year}" + _first(rejects)
        )
    return sorted(scenes, key=lambda scene: scene.id), sorted(rejects, key=lambda reject: reject["source"])


def _first(rejects: Sequence[dict[str, str]]) -> str:
    return "".join(f"\n  {reject['source']}: {reject['reason']}" for reject in rejects[:5])


def _without_copies(scenes: Sequence[Placed]) -> tuple[list[Placed], list[dict[str, str]]]:
    """Leave one processing of each acquisition, the newest, and say which others were passed over."""
    copies = group_copies(scene.copy for scene in scenes if scene.copy is not None)
    needless = copies.needless()
    kept = [scene for scene in scenes if scene.product.name not in needless]
    return kept, list(copies.dropped({scene.product.name for scene in kept}))


def _look(look: _Look) -> Placed | None:
    """Open a scene to see whether and where it counts."""
    request = look.request
    with open_source(look.product, request.recipe) as scene:
        info = scene.info
        if info.time is None or info.orbit not in DIRECTIONS:
            raise SceneRejected(f"{info.id} states no time or direction of flight: a seasonal composite needs both")
        season = season_of(info.time, request.year)
        if season is None or not set(info.polarisations) & set(request.polarisations):
            return None
        place = Window(*request.grid.place(info), *info.shape)
        if _overlap(place, Window(0, 0, *request.grid.shape)) is None:
            return None
        copy = copy_of(Unit(look.product.name, (look.product,)), look.product, info)
        return Placed(look.product, info.id, info.fingerprint, season, DIRECTIONS.index(info.orbit), place, copy)


def _blocks(request: Request, scenes: Sequence[Placed]) -> list[_Block]:
    return [
        _Block(window, tuple(scene for scene in scenes if _overlap(scene.place, window)), request)
        for window in request.grid.blocks(BLOCK)
    ]


def _marks(request: Request) -> Store:
    """Open the place of the marks, beside the zarr store: within it they would be strangers to zarr."""
    return open_store(f"{request.out.rstrip('/')}.blocks")


def _mark(block: _Block) -> str | None:
    try:
        found = json.loads(_marks(block.request).get(block.key))["made_of"]
    except (NotFound, ValueError, KeyError, TypeError):
        return None
    return str(found)


def _make_block(block: _Block) -> dict[str, str]:
    """Make one block and its mark; or give the scenes that could not be read, with reasons, and write nothing."""
    request, window = block.request, block.window
    shape = (len(SEASONS), len(DIRECTIONS), len(request.polarisations), window.rows, window.cols)
    codes, counts = np.zeros(shape, np.uint16), np.zeros(shape, np.uint16)
    bad: dict[str, str] = {}
    for season in range(len(SEASONS)):
        for direction in range(len(DIRECTIONS)):
            group = [s for s in block.scenes if (s.season, s.direction) == (season, direction)]
            if group:
                _reduce_group(group, block, codes[season, direction], counts[season, direction], bad)
    if bad:
        return bad
    store = open_store(request.out)
    arrays = zarr.open_group(ZarrObjects(store), mode="r+")
    place = np.s_[:, :, :, window.row : window.row + window.rows, window.col : window.col + window.cols]
    for name, values in (("backscatter", codes), ("count", counts)):
        arrays[name][place] = values  # type: ignore[index]
    _marks(request).put(block.key, canonical_json({"made_of": block.made_of}))
    return {}


def _reduce_group(
    group: Sequence[Placed],
    block: _Block,
    codes: NDArray[np.uint16],
    counts: NDArray[np.uint16],
    bad: dict[str, str],
) -> None:
    """Fill (polarisations, rows, cols) of one season and direction, strip by strip."""
    request = block.request
    bands = len(request.polarisations)
    strip = max(16, _STRIP_BYTES // (4 * bands * len(group) * block.window.cols))
    with ExitStack() as stack:
        opened = []
        for placed in group:
            try:
                opened.append((placed, stack.enter_context(open_source(placed.product, request.recipe))))
            except SceneRejected as error:
                bad[placed.id] = str(error)
        for top in range(0, block.window.rows, strip):
            rows = min(strip, block.window.rows - top)
            window = Window(block.window.row + top, block.window.col, rows, block.window.cols)
            seen = np.full((len(opened), bands, rows, window.cols), np.nan, np.float32)
            for layer, (placed, scene) in zip(seen, opened, strict=True):
                try:
                    _read_into(layer, scene, placed, window, request.polarisations)
                except SceneRejected as error:
                    bad[placed.id] = str(error)
            power, count = reduce_time(seen, request.statistic)
            codes[:, top : top + rows] = request.recipe.pixels.scale.encode(power)
            counts[:, top : top + rows] = count


def _read_into(
    layer: NDArray[np.float32], scene: Any, placed: Placed, window: Window, polarisations: Sequence[str]
) -> None:
    common = _overlap(placed.place, window)
    if common is None:
        return
    row, col = common.row - placed.place.row, common.col - placed.place.col
    power = scene.power(Window(row, col, common.rows, common.cols))
    down, right = common.row - window.row, common.col - window.col
    for band, polarisation in enumerate(scene.info.polarisations):
        if polarisation in polarisations:
            target = layer[polarisations.index(polarisation)]
            target[down : down + common.rows, right : right + common.cols] = power[band]


def reduce_time(power: NDArray[np.float32], statistic: Statistic) -> tuple[NDArray[np.float32], NDArray[np.uint16]]:
    """Reduce linear power (scenes, ...) along its first axis; gives (...) float32 and how many were valid.

    NaN is no data: it does not count, and is what a pixel without any scene becomes. The median of an even number
    is the mean of the middle two. In linear power, not in dB: a mean of decibels is no mean of energy.
    """
    valid = np.isfinite(power)
    count = valid.sum(axis=0)
    if statistic == "mean":
        total = np.where(valid, power, 0).sum(axis=0, dtype=np.float64)
        value = total / np.maximum(count, 1)
    else:
        ordered = np.sort(np.where(valid, power, np.nan), axis=0)  # NaN go last
        last = np.maximum(count - 1, 0)
        low, high = (np.take_along_axis(ordered, k[None], axis=0)[0] for k in (last // 2, (last + 1) // 2))
        value = (low.astype(np.float64) + high) / 2
    return np.where(count > 0, value, np.nan).astype(np.float32), count.astype(np.uint16)


def _overlap(a: Window, b: Window) -> Window | None:
    top, left = max(a.row, b.row), max(a.col, b.col)
    rows = min(a.row + a.rows, b.row + b.rows) - top
    cols = min(a.col + a.cols, b.col + b.cols) - left
    return Window(top, left, rows, cols) if rows > 0 and cols > 0 else None


def _describe(store: Store, scenes: Sequence[Placed] | None) -> None:
    """Write down which scenes the composite is made of; a reader takes this for the sign that it is whole."""
    group = zarr.open_group(ZarrObjects(store), mode="r+")
    if scenes is None:
        group.attrs.pop("sarsense:sources", None)
        return
    sources = [
        {
            "id": scene.id,
            "fingerprint": scene.fingerprint,
            "season": SEASONS[scene.season],
            "orbit": DIRECTIONS[scene.direction],
        }
        for scene in scenes
    ]
    group.attrs["sarsense:sources"] = sources


def _reject(source: str, stage: str, reason: str) -> dict[str, str]:
    return {"source": source, "stage": stage, "kind": SceneRejected.__name__, "reason": reason}
