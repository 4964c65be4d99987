"""A version as plain folders: a file per tile, for programs that read neither shards nor codes."""

import io
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra.errors import UsageError
from infra.record import canonical_json
from infra.store import Store
from shards.codec import encode_npy
from shards.reader import Corpus
from shards.tile import NO_DATA, DbScale

Pixels = Literal["codes", "db", "png"]
"""What a file holds: uint16 codes, float32 decibels (NaN is no-data), or 8-bit grey levels."""


@dataclass(frozen=True, slots=True)
class Grey:
    """How decibels become grey: ``low_db`` and all below is 1, ``high_db`` and all above is 255, no-data is 0."""

    low_db: float = -25.0
    high_db: float = 0.0

    def __post_init__(self) -> None:
        if not (np.isfinite([self.low_db, self.high_db]).all() and self.low_db < self.high_db):
            raise UsageError(f"grey levels from {self.low_db} to {self.high_db} dB: the first has to be the lower")

    def levels(self, codes: NDArray[np.uint16], scale: DbScale) -> NDArray[np.uint8]:
        """Give the grey levels of codes of any shape."""
        share = (np.nan_to_num(scale.decode(codes)) - self.low_db) / (self.high_db - self.low_db)
        level = 1 + np.rint(np.clip(share, 0, 1) * 254)
        return np.where(codes == NO_DATA, 0, level).astype(np.uint8)


def export_folder(
    corpus: Corpus,
    target: Store,
    pixels: Pixels = "codes",
    grey: Grey | None = None,
    *,
    threads: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> int:
    """Write every tile as files of its own in a folder for each scene; give the number of files.

    ``<scene>/<key>.npy`` holds (bands, rows, cols); as PNG every band has its file, ``<scene>/<key>_<band>.png``.
    ``<key>.label.npy`` (or ``<key>.label.png``) holds the class ids where there are any, and ``<key>.json`` all that
    is known of the tile. ``export.json`` says from which version and how; beside PNGs of equal bands, ``chips.yaml``
    lets ``ingest build-sarsense`` take them in again. Raises UsageError where two scenes would share a folder.
    """
    folders = _folders([source.id for source in corpus.manifest.sources])
    grey = grey or Grey()

    def one(i: int) -> int:
        tile = corpus.tile(i, full_meta=True)
        stem = f"{folders[tile.meta['scene']]}/{tile.key}"
        if pixels == "png":
            bands = _band_names(tile.meta["polarisations"], len(tile.pixels))
            levels = grey.levels(tile.pixels, corpus.scale)
            files = {f"{stem}_{name}.png": png(level) for name, level in zip(bands, levels, strict=True)}
        else:
            array = tile.pixels if pixels == "codes" else corpus.scale.decode(tile.pixels)
            files = {f"{stem}.npy": encode_npy(array)}
        if tile.label is not None:
            label = png(tile.label) if pixels == "png" else encode_npy(tile.label)
            files[f"{stem}.label.{'png' if pixels == 'png' else 'npy'}"] = label
        files[f"{stem}.json"] = canonical_json({**tile.meta, "key": tile.key})
        for key, data in files.items():
            target.put(key, data)
        return len(files)

    count = 1
    with ThreadPoolExecutor(threads) as pool:
        for done, files in enumerate(pool.map(one, range(len(corpus)))):
            count += files
            progress(done + 1, len(corpus))
    if pixels == "png" and (chips := _chips(corpus, grey)):
        target.put("chips.yaml", chips)
        count += 1
    target.put("export.json", (json.dumps(_about(corpus, pixels, grey), indent=1) + "\n").encode())
    return count


def png(levels: NDArray[np.uint8]) -> bytes:
    """Encode (rows, cols) grey levels, or (rows, cols, 3) colours, as PNG."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(levels)).save(buffer, format="PNG")
    return buffer.getvalue()


def _about(corpus: Corpus, pixels: Pixels, grey: Grey) -> dict[str, object]:
    manifest, scale = corpus.manifest, corpus.scale
    means = {
        "codes": f"uint16 codes: decibels are {scale.floor_db:g} + (code - 1) * {scale.step_db:g}, 0 is no-data",
        "db": "float32 decibels, NaN is no-data",
        "png": f"grey level 1 is {grey.low_db:g} dB or less, 255 is {grey.high_db:g} dB or more, 0 is no-data",
    }
    return {
        "version": manifest.digest,
        "pixels": pixels,
        "meaning": means[pixels],
        "label": "class ids of the legend, 255 is unlabelled",
        "legend": manifest.legend,
        "tiles": manifest.tiles,
        "recipe": manifest.recipe,
    }


def _chips(corpus: Corpus, grey: Grey) -> bytes | None:
    """Say to ingest what the grey levels mean; None where tiles differ in their bands."""
    import yaml

    found = pc.unique(pc.binary_join(corpus.table["polarisations"].combine_chunks(), "\0")).to_pylist()
    if len(found) != 1:
        return None
    names = found[0].split("\0")
    scale = (grey.high_db - grey.low_db) / 254
    about: dict[str, object] = {
        "image": [f"{{scene}}/{{key}}_{band}.png" for band in _band_names(names, len(names))],
        "id": "{key}",
        "polarisations": names,
        "quantity": "db",
        "scale": scale,
        "offset_db": grey.low_db - scale,
        "no_data": 0,
    }
    if (corpus.rows.label_offset >= 0).all():
        about["label"] = "{scene}/{key}.label.png"
        if corpus.manifest.legend is not None:
            about["legend"] = corpus.manifest.legend
    return yaml.safe_dump(about, sort_keys=False).encode()


def _folders(scenes: Sequence[str]) -> dict[str, str]:
    """Give each scene the name of its folder."""
    names = {scene: re.sub(r"[^A-Za-z0-9_=+-]", "_", scene) for scene in scenes}
    owner: dict[str, str] = {}
    for scene, name in names.items():
        if (other := owner.setdefault(name.lower(), scene)) != scene:
            raise UsageError(f"the scenes {other!r} and {scene!r} would share the folder {name}: export them apart")
    return names


def _band_names(polarisations: Sequence[str], count: int) -> list[str]:
    names = [re.sub(r"[^A-Za-z0-9+-]", "-", name) for name in polarisations]
    return names if len(set(names)) == count == len(names) else [f"band{n}" for n in range(count)]
