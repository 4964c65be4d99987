"""Small labelled corpora with known truth: smooth patches of land and water under speckle."""

from dataclasses import dataclass, replace

import numpy as np

from infra.store import open_store
from shards.index import join_units, put_index
from shards.manifest import Manifest, Source, SourceGrid, publish
from shards.reader import Corpus
from shards.tile import DbScale, Tile
from shards.writer import write_unit

SCALE = DbScale()
LEGEND = {
    "classes": [
        {"id": 0, "name": "land", "colour": [196, 176, 120]},
        {"id": 1, "name": "water", "colour": [30, 100, 210]},
    ],
    "background": 0,
}
PIXELS_DIGEST = "a" * 64


@dataclass(frozen=True)
class Scene:
    """A scene of the corpus: class levels in dB per band, and where it lies."""

    id: str
    seed: int
    shape: tuple[int, int] = (96, 128)
    bands: tuple[str, ...] = ("VV", "VH")
    labelled: bool = True
    placed: str = "grid"
    place: int | None = None  # where it lies, if not where its seed says: several dates of one place

    @property
    def truth(self) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 1])
        y, x = np.mgrid[: self.shape[0], : self.shape[1]]
        phase = rng.uniform(0, 6, 4)
        field = np.sin(x / 17 + phase[0]) + np.sin(y / 13 + phase[1]) + np.sin((x + y) / 23 + phase[2])
        return (field > 0.4).astype(np.uint8)

    @property
    def codes(self) -> np.ndarray:
        rng = np.random.default_rng([self.seed, 2])
        truth = self.truth
        power = [
            10 ** (np.array([-9.0 - 6 * b, -18.0 - 6 * b])[truth] / 10) * rng.gamma(4.4, 1 / 4.4, truth.shape)
            for b in range(len(self.bands))
        ]
        return SCALE.encode(np.stack(power).astype(np.float32))

    @property
    def label(self) -> np.ndarray:
        label = self.truth.copy()
        label[:3] = 255
        return label


SCENES = (Scene("alpha", 1), Scene("beta", 2), Scene("gamma", 3, placed="ground"), Scene("delta-held", 4))


def build(
    url: str,
    scenes: tuple[Scene, ...] = SCENES,
    tile: int = 64,
    legend: dict | None = LEGEND,
    pixels_digest: str = PIXELS_DIGEST,
) -> Corpus:
    """Write scenes as a corpus the way ingest does, and open it."""
    store = open_store(url)
    units = join_units([write_unit(store, s.id, list(_tiles(s, tile)), "npy", 10**8) for s in scenes])
    counts = np.bincount(units.rows["shard"].to_numpy(), minlength=len(units.shards))
    manifest = Manifest(
        recipe={},
        recipe_digest="b" * 64,
        pixels_digest=pixels_digest,
        scale=SCALE,
        codec="npy",
        legend=legend,
        shards=tuple(units.shards),
        index=put_index(store, units.rows),
        sources=tuple(_source(s, int(n)) for s, n in zip(scenes, counts, strict=True)),
        tiles=int(counts.sum()),
        bytes=sum(s.bytes for s in units.shards),
    )
    publish(store, manifest)
    return Corpus.open(url)


def one_band(scene: Scene) -> Scene:
    return replace(scene, bands=scene.bands[:1])


def _tiles(scene: Scene, size: int):
    rows, cols = scene.shape
    codes, label = scene.codes, scene.label
    for r in [*range(0, rows - size, size), rows - size]:
        for c in [*range(0, cols - size, size), cols - size]:
            cut = (slice(r, r + size), slice(c, c + size))
            meta = {
                "scene": scene.id,
                "sensor": "sentinel-1",
                "polarisations": list(scene.bands),
                "window": [r, c, size, size],
                "footprint": None,
                "time": None,
                "valid_share": 1.0,
                "mean_db": [-10.0] * len(scene.bands),
            }
            yield Tile(
                f"{scene.id}-{r}-{c}", codes[:, *cut].copy(), meta, label[cut].copy() if scene.labelled else None
            )


def _source(scene: Scene, tiles: int) -> Source:
    rows, cols = scene.shape
    place = scene.seed if scene.place is None else scene.place
    west = 10.0 + place
    ground = tuple(
        (float(r), float(c), west + c * 1e-4, 50.0 - r * 1e-4)
        for r in np.linspace(0, rows - 1, 4)
        for c in np.linspace(0, cols - 1, 4)
    )
    grid = SourceGrid(epsg=32632, transform=(10.0, 0.0, 5e5 + 1e4 * place, 0.0, -10.0, 5.5e6))
    corners = ((west, 50.0), (west + 0.01, 50.0), (west + 0.01, 49.99), (west, 49.99))
    return Source(
        id=scene.id,
        sensor="sentinel-1",
        product="GRD",
        mode="IW",
        polarisations=scene.bands,
        shape=scene.shape,
        spacing_m=(10.0, 10.0),
        time="2020-01-01T00:00:00Z",
        orbit=None,
        fingerprint=f"{scene.seed:064x}",
        footprint=corners,
        grid=grid if scene.placed == "grid" else None,
        ground=ground if scene.placed == "ground" else (),
        tiles=tiles,
    )
