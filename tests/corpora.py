"""Small corpora for the tests of shards and of those who read them."""

from collections.abc import Iterator, Sequence

import numpy as np

from infra.record import digest
from infra.store import Store, open_store
from shards.index import join_units, put_index
from shards.manifest import Manifest, Source, publish
from shards.tile import DbScale, Tile
from shards.writer import write_unit

SQUARE = [[10.0, 50.0], [10.1, 50.0], [10.1, 49.9], [10.0, 49.9]]


def make_tile(key, scene="scene-a", size=16, bands=2, label=False, footprint=SQUARE, seed=None, **meta) -> Tile:
    rng = np.random.default_rng(abs(hash_of(key)) if seed is None else seed)
    pixels = rng.integers(20000, 24000, (bands, size, size), dtype=np.uint16)
    classes = rng.integers(0, 4, (size, size), dtype=np.uint8) if label else None
    known = {
        "scene": scene,
        "sensor": "sentinel-1",
        "polarisations": ["VV", "VH"][:bands],
        "window": [32, 64, size, size],
        "footprint": footprint,
        "time": "2024-05-06T07:08:09Z",
        "valid_share": 0.75,
        "mean_db": [-10.5, -17.25][:bands],
    }
    return Tile(key, pixels, known | meta, classes)


def hash_of(text: str) -> int:
    return int(digest(text)[:8], 16)


def scene_tiles(scene: str, count: int, **options) -> Iterator[Tile]:
    return (make_tile(f"{scene}-{n:04d}", scene, **options) for n in range(count))


def make_source(scene: str, tiles: int) -> Source:
    return Source(
        id=scene,
        sensor="sentinel-1",
        product="GRD",
        mode="IW",
        polarisations=("VV", "VH"),
        shape=(1000, 2000),
        spacing_m=(10.0, 10.0),
        time="2024-05-06T07:08:09Z",
        orbit=None,
        fingerprint=digest(scene),
        footprint=None,
        tiles=tiles,
    )


def make_corpus(
    url: str,
    counts: Sequence[int] = (7, 4, 9),
    codec="npy",
    max_bytes=8192,
    rows_per_part=1_000_000,
    tiles=scene_tiles,
    **options,
) -> tuple[Store, Manifest]:
    """Write scenes of so many tiles each, made by ``tiles``, and publish them."""
    store = open_store(url)
    scenes = {f"scene-{n}": count for n, count in enumerate(counts)}
    units = [write_unit(store, name, tiles(name, count, **options), codec, max_bytes) for name, count in scenes.items()]
    corpus = join_units(units)
    recipe = {"tiles": {"size": options.get("size", 16)}}
    manifest = Manifest(
        recipe=recipe,
        recipe_digest=digest(recipe),
        pixels_digest=digest("pixels"),
        scale=DbScale(),
        codec=codec,
        shards=tuple(corpus.shards),
        index=put_index(store, corpus.rows, rows_per_part),
        sources=tuple(make_source(name, count) for name, count in scenes.items()),
        tiles=sum(counts),
        bytes=sum(shard.bytes for shard in corpus.shards),
    )
    publish(store, manifest)
    return store, manifest
