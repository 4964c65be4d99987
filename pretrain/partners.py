"""Tiles that show the same ground in another scene, and pairs of views taken from both.

Two scenes share a pixel grid if they are map-projected in the same system, with the same pixel, a whole number of
pixels apart; a pixel of one is then the same ground as a pixel of the other. Other scenes have no partners: their
ground could be matched only by resampling.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import shapely
from numpy.typing import NDArray

from infra.errors import UsageError
from pretrain.pair_run import PairRun, ViewConfig
from pretrain.views import PairDraw
from shards.draw import Draw, OnCorrupt
from shards.manifest import Source
from shards.reader import Corpus, ShardCorrupt
from shards.tile import Tile

_SAME_PX = 0.01
"""Grids count as the same where their pixels are less than this apart, in pixels."""


@dataclass(frozen=True, slots=True, eq=False)
class Partners:
    """For every tile of a corpus the tiles of its ground: those of tile i are rows first[i] to first[i + 1] - 1.

    ``other`` (rows,) are tile numbers, ``offset`` (rows, 2) where their first pixel lies, down and right, from that of
    tile i. ``keys`` are the corpus's keys in sorted order and ``number`` their tiles.
    """

    first: NDArray[np.int64]
    other: NDArray[np.int64]
    offset: NDArray[np.int64]
    keys: NDArray[np.str_]
    number: NDArray[np.int64]

    @classmethod
    def of(cls, corpus: Corpus, views: ViewConfig) -> Self:
        """Find the partners that the dials ask for in a corpus's index; no shard is read."""
        pairs = _pairs(corpus, views)
        order = np.lexsort((pairs[:, 1], pairs[:, 0]))
        counts = np.bincount(pairs[:, 0], minlength=len(corpus))
        first = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        keys = np.array(corpus.table["key"].to_pylist(), dtype=np.str_)
        number = np.argsort(keys, kind="stable")
        return cls(first, pairs[order, 1], pairs[order, 2:], keys[number], number)

    def share(self) -> float:
        """Give the share of tiles that have any."""
        return float((np.diff(self.first) > 0).mean()) if len(self.first) > 1 else 0.0

    def of_tile(self, key: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Give the numbers (k,) and offsets (k, 2) of a tile's partners."""
        i = self.number[np.searchsorted(self.keys, key)]
        rows = slice(self.first[i], self.first[i + 1])
        return self.other[rows], self.offset[rows]


@dataclass(frozen=True, slots=True)
class PartnerDraw:
    """Draw pairs as ``draw`` does, but take ``share`` of the second views from a partner of the tile.

    A partner is read where the tile is drawn. One whose bytes stay bad ends the run with its name, or with
    ``on_corrupt`` "skip" both views are of the tile. Safe in threads; can be sent to other machines.
    """

    draw: PairDraw
    corpus: Corpus
    partners: Partners
    on_corrupt: OnCorrupt = "fail"

    def __call__(self, tile: Tile, generator: np.random.Generator) -> Mapping[str, NDArray[Any]]:
        """Draw from ``generator``; the same generator gives the same views."""
        chance, choice = generator.random(2)
        others, offsets = self.partners.of_tile(tile.key)
        if len(others) == 0 or chance >= self.draw.config.partner_share:
            return self.draw(tile, generator)
        k = int(choice * len(others))
        try:
            other = self.corpus.tile(int(others[k]))
        except ShardCorrupt:
            if self.on_corrupt == "fail":
                raise
            return self.draw(tile, generator)
        return self.draw.pair(tile, other, (int(offsets[k, 0]), int(offsets[k, 1])), generator)


def with_partners(draw: Draw, corpus: Corpus, config: PairRun) -> Draw:
    """Give what draws from a corpus as ``config.views`` asks: ``draw`` itself, or with partners.

    Raises UsageError where partners are asked for and no tile has one.
    """
    if not config.views.partner_share or not isinstance(draw, PairDraw):
        return draw
    partners = Partners.of(corpus, config.views)
    if not len(partners.other):
        placed = sum(source.grid is not None for source in corpus.manifest.sources)
        raise UsageError(
            f"no tile of {corpus.store.url} has a partner (--views.partner-share {config.views.partner_share},"
            f" --views.partner-kind {config.views.partner_kind}): {placed} of {len(corpus.manifest.sources)} scenes are"
            " on a map grid, and none of them shows the same ground on the same pixels; geocode scenes to one grid when"
            " they are ingested"
        )
    return PartnerDraw(draw, corpus, partners, config.reading.on_corrupt)


def _pairs(corpus: Corpus, views: ViewConfig) -> NDArray[np.int64]:
    """Give [tile, partner, down, right] of all pairs, each from both sides."""
    sources = corpus.manifest.sources
    grids: defaultdict[tuple[Any, ...], list[int]] = defaultdict(list)
    for number, source in enumerate(sources):
        if (lattice := _lattice(source)) is not None:
            grids[lattice].append(number)
    names = {source.id: number for number, source in enumerate(sources)}
    scene_of = np.array([names[name] for name in corpus.table["scene"].to_pylist()], dtype=np.int64)
    wanted = _wanted(sources, views)
    found = [_pairs_on(corpus, scene_of, members, wanted, views) for members in grids.values() if len(members) > 1]
    return np.concatenate([np.empty((0, 4), np.int64), *found])


def _lattice(source: Source) -> tuple[Any, ...] | None:
    """Name the reference system and pixel of a scene's grid; None where it has none, or a turned one."""
    if source.grid is None:
        return None
    a, b, _, d, e, _ = source.grid.transform
    return (source.grid.epsg, a, e) if b == 0 == d else None


def _wanted(sources: tuple[Source, ...], views: ViewConfig) -> Callable[[int, int], bool]:
    def fits(one: int, other: int) -> bool:
        a, b = sources[one], sources[other]
        if views.bands == "all" and a.polarisations != b.polarisations:
            return False
        if views.partner_kind == "date":
            return a.sensor == b.sensor and a.time != b.time and None not in (a.time, b.time)
        return views.partner_kind == "any" or a.sensor != b.sensor

    return fits


def _pairs_on(
    corpus: Corpus,
    scene_of: NDArray[np.int64],
    members: list[int],
    wanted: Callable[[int, int], bool],
    views: ViewConfig,
) -> NDArray[np.int64]:
    """Give the pairs among the tiles of scenes whose grids have the same pixel."""
    sources, rows = corpus.manifest.sources, corpus.rows
    tiles = np.flatnonzero(np.isin(scene_of, members))
    origin = np.zeros((len(sources), 2))
    for number in members:
        a, _, c, _, e, f = sources[number].grid.transform  # type: ignore[union-attr]
        origin[number] = f / e, c / a  # of the scene's first pixel, in pixels of the map
    start = origin[scene_of[tiles]] + np.stack([rows.window_row[tiles], rows.window_col[tiles]], 1)
    extent = np.stack([rows.window_rows[tiles], rows.window_cols[tiles]], 1)
    end = start + extent
    boxes = shapely.box(start[:, 1], start[:, 0], end[:, 1], end[:, 0])
    one, other = shapely.STRtree(boxes).query(boxes, predicate="intersects")
    apart = start[other] - start[one]
    shared = np.minimum(end[one], end[other]) - np.maximum(start[one], start[other])
    area, areas = shared.clip(0).prod(1), extent.prod(1)
    good = (scene_of[tiles[one]] != scene_of[tiles[other]]) & (np.abs(apart - np.rint(apart)) < _SAME_PX).all(1)
    good &= (area > 0) & (area >= views.partner_iou * (areas[one] + areas[other] - area))
    one, other, apart = one[good], other[good], apart[good]
    scenes = np.stack([scene_of[tiles[one]], scene_of[tiles[other]]], 1)
    kinds, which = np.unique(scenes, axis=0, return_inverse=True)
    allowed = np.array([wanted(int(a), int(b)) for a, b in kinds], dtype=bool)[which.reshape(-1)]
    pairs = np.stack([tiles[one], tiles[other], *np.rint(apart).T.astype(np.int64)], 1)
    kept: NDArray[np.int64] = pairs[allowed]
    return kept
