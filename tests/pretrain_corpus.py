"""A small corpus of made-up ground: every tile its own fields, with gamma speckle of four looks."""

from collections.abc import Iterator

import numpy as np

from infra.store import open_store
from shards.index import put_index
from shards.manifest import Manifest, Source, publish
from shards.tile import DbScale, Tile
from shards.writer import write_unit


def ground_tile(number: int, size: int, bands: int = 1) -> Tile:
    """Give fields of random level and direction, some strips of no-data in every fourth tile."""
    rng = np.random.default_rng((7, number))
    rows, columns = np.mgrid[0:size, 0:size]
    level_db = np.full((size, size), rng.uniform(-25, -5))
    for _ in range(6):
        a, b = rng.normal(size=2)
        side = a * (rows - rng.uniform(0, size)) + b * (columns - rng.uniform(0, size)) > 0
        level_db += np.where(side, rng.uniform(-4, 4), 0)
    speckle = rng.gamma(4, 0.25, (bands, size, size))
    power = (10 ** (level_db / 10) * speckle).astype(np.float32)
    if number % 4 == 0:
        power[:, :, : size // 8] = np.nan
    pixels = DbScale().encode(power)
    meta = {
        "scene": "ground",
        "sensor": "chip",
        "polarisations": ["VV", "VH"][:bands],
        "window": [0, number * size, size, size],
        "footprint": None,
        "time": None,
        "valid_share": float((pixels[0] != 0).mean()),
        "mean_db": [float(np.nanmean(DbScale().decode(band))) for band in pixels],
    }
    return Tile(f"tile-{number:04d}", pixels, meta)


def make_corpus(url: str, tiles: int = 24, size: int = 64, bands: int = 1) -> Manifest:
    """Write and publish a corpus of ``tiles`` tiles in two or more shards."""
    store = open_store(url)

    def cut() -> Iterator[Tile]:
        return (ground_tile(number, size, bands) for number in range(tiles))

    per_tile = 2 * bands * size * size + 4096
    unit = write_unit(store, "ground", cut(), "npy", max_bytes=per_tile * max(1, tiles // 3))
    manifest = Manifest(
        format="sarsense-manifest-1",
        recipe={},
        recipe_digest="0" * 64,
        pixels_digest="1" * 64,
        scale=DbScale(),
        codec="npy",
        legend=None,
        shards=tuple(unit.shards),
        index=put_index(store, unit.rows),
        sources=(_source(tiles, size, bands),),
        tiles=tiles,
        bytes=sum(s.bytes for s in unit.shards),
    )
    publish(store, manifest)
    return manifest


def _source(tiles: int, size: int, bands: int) -> Source:
    return Source(
        id="ground", sensor="chip", product="chip", mode="made up", polarisations=("VV", "VH")[:bands],
        shape=(size, tiles * size), spacing_m=None, time=None, orbit=None, fingerprint="2" * 64, footprint=None,
        tiles=tiles,
    )  # fmt: skip
