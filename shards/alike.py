"""Tiles that look alike: the same ground on another date, or processed twice. Found by their pixels, not by place.

A tile's signature is its mean level in decibels on a grid of cells, each band standardised: speckle averages out over
the thousands of pixels of a cell, so that copies under independent speckle keep a correlation near one. Candidates
come from hashing by random hyperplanes (Charikar 2002, Similarity estimation techniques from rounding algorithms) and
are then compared exactly, so that a million tiles never need all their pairs.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from shards.reader import Corpus
from shards.tile import NO_DATA

CELLS = 8
"""Cells per side of a signature."""

FEATURELESS_DB = 0.3
"""Deviation of a band's cell means below which there is nothing to compare, as on open sea."""

TABLES, BITS = 24, 16
"""Hash tables and bits of each: tiles of correlation 0.98 meet in one with probability 0.99996, of 0.95 with 0.99."""

MOST_APART = 200
"""Places in a bucket over which tiles are compared; a fuller one holds tiles that are nearly all alike."""

_AT_ONCE = 4096  # tiles in flight between the threads and their reader


def first_of_alike(
    corpus: Corpus,
    chosen: NDArray[np.bool_],
    least: float,
    *,
    threads: int = 2,
    done: Callable[[int], None] = lambda count: None,
) -> NDArray[np.bool_]:
    """Keep, of chosen tiles whose signatures correlate by at least ``least``, those with the first keys.

    A tile goes only where a tile that stays is like it. Tiles of other polarisations are never alike, and tiles
    without features stay. Reads every chosen tile once; ``done`` is told how many. Memory: 128 bytes per band and
    tile. Gives a mask over all tiles of the corpus.
    """
    keep = chosen.copy()
    kinds = pc.dictionary_encode(pc.binary_join(corpus.table["polarisations"].combine_chunks(), ",")).indices
    kind_of, keys = np.asarray(kinds), corpus.table["key"].combine_chunks()
    read = 0
    for kind in np.unique(kind_of[chosen]):
        tiles = np.flatnonzero(chosen & (kind_of == kind))
        tiles = tiles[np.asarray(pc.sort_indices(keys.take(pa.array(tiles))))]
        found = np.zeros((len(tiles), int(corpus.shape(int(tiles[0]))[0]) * CELLS**2), np.float16)
        for n, one in enumerate(_signatures(corpus, tiles, threads)):
            found[n] = one
            done(read + n + 1)
        read += len(tiles)
        keep[tiles[~first_of_like(found, least)]] = False
    return keep


def signature(pixels: NDArray[np.uint16], step_db: float) -> NDArray[np.float32]:
    """Give the signature of a tile (bands, rows, cols): (bands * 64,) of length one, or zeros without features."""
    bands = [_cell_means(band) * np.float32(step_db) for band in pixels]
    levels = np.stack([band - band.mean() for band in bands])
    deviation = levels.std(1, keepdims=True)
    if float(deviation.max()) < FEATURELESS_DB:
        return np.zeros(levels.size, np.float32)
    standard = np.where(deviation < FEATURELESS_DB, 0, levels / np.maximum(deviation, FEATURELESS_DB)).ravel()
    unit: NDArray[np.float32] = (standard / np.linalg.norm(standard)).astype(np.float32)
    return unit


def first_of_like(signatures: NDArray[np.floating], least: float, *, seed: int = 0) -> NDArray[np.bool_]:
    """Of rows (N, D) of length one, keep each that no kept row before it equals by a cosine of at least ``least``."""
    keep = np.ones(len(signatures), bool)
    pairs = np.unique(np.concatenate(list(_pairs(signatures, least, seed))), axis=0)
    for late, early in pairs.tolist():  # by the later row: what is before it is decided
        if keep[early]:
            keep[late] = False
    return keep


def _pairs(signatures: NDArray[np.floating], least: float, seed: int) -> Iterator[NDArray[np.int64]]:
    """Give (later, earlier) rows of a cosine of at least ``least``, the same pair perhaps more than once."""
    yield np.empty((0, 2), np.int64)
    rows = np.flatnonzero(np.any(signatures, axis=1))
    some = signatures[rows].astype(np.float32)
    powers = 1 << np.arange(BITS)
    for table in range(TABLES):
        planes = np.random.default_rng([seed, table]).standard_normal((some.shape[1], BITS)).astype(np.float32)
        bucket = (some @ planes > 0) @ powers
        order = np.argsort(bucket, kind="stable")
        ranked = bucket[order]
        for apart in range(1, min(MOST_APART, len(order) - 1) + 1):
            at = np.flatnonzero(ranked[apart:] == ranked[:-apart])
            if not len(at):
                break
            early, late = order[at], order[at + apart]
            like = np.einsum("nd,nd->n", some[early], some[late]) >= least
            yield np.stack([rows[late[like]], rows[early[like]]], 1)


def _signatures(corpus: Corpus, tiles: NDArray[np.int64], threads: int) -> Iterator[NDArray[np.float32]]:
    step_db = corpus.scale.step_db

    def of(i: int) -> NDArray[np.float32]:
        return signature(corpus.tile(i).pixels, step_db)

    with ThreadPoolExecutor(threads) as pool:
        for at in range(0, len(tiles), _AT_ONCE):
            yield from pool.map(of, tiles[at : at + _AT_ONCE].tolist())


def _cell_means(band: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Average codes over 8 x 8 cells (64,); a cell that is mostly without data gets the band's mean."""
    rows, cols = (np.linspace(0, n, CELLS + 1).astype(int)[:-1] for n in band.shape)
    sums = _over_cells(band, rows, cols)
    counts = _over_cells((band != NO_DATA).astype(np.uint8), rows, cols)
    area = _over_cells(np.ones(band.shape, np.uint8), rows, cols)
    whole = sums.sum() / max(counts.sum(), 1)
    means = np.where(counts * 2 >= area, sums / np.maximum(counts, 1), whole)
    return means.ravel().astype(np.float32)


def _over_cells(
    image: NDArray[np.unsignedinteger], rows: NDArray[np.int_], cols: NDArray[np.int_]
) -> NDArray[np.int64]:
    along: NDArray[np.int64] = np.add.reduceat(image, rows, axis=0, dtype=np.int64)
    return np.add.reduceat(along, cols, axis=1)
