"""What a data card says, filled in from manifests and their indexes."""

import json
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from shards.croissant import About
from shards.manifest import Manifest, Source

MOST_SOURCES = 200

_QUANTITIES = {
    "sigma0": "sigma nought (backscatter for each area of ground ellipsoid)",
    "beta0": "beta nought (radar brightness, for each area of slant range)",
    "gamma0": "gamma nought (for each area of the plane at right angles to the line of sight, on the ellipsoid)",
    "gamma0-terrain": "gamma nought, flattened by a terrain model",
}


def description_of(manifests: Mapping[str, Manifest]) -> str:
    """Say in two sentences what a data set is."""
    all_ = list(manifests.values())
    sources = [source for manifest in all_ for source in manifest.sources]
    tiles, sensors = sum(m.tiles for m in all_), sorted({source.sensor for source in sources})
    scenes = len({source.id for source in sources})
    labels = " Labels of the classes in legend.json go with them." if all_[0].legend else ""
    return (
        f"{tiles:,} calibrated radar tiles of {scenes:,} scenes of {_and(sensors)}, as uint16 codes of decibels in "
        f"WebDataset shards with a GeoParquet index.{labels}"
    )


def card_text(about: About, splits: Mapping[str, tuple[Manifest, pa.Table]]) -> str:
    """Give the text of a data card, Markdown."""
    manifests = {name: manifest for name, (manifest, _) in splits.items()}
    first = next(iter(manifests.values()))
    parts = [
        f"# {about.name}",
        description_of(manifests),
        "## What is in it",
        _counts(splits),
        "## What a pixel means",
        _pixels(first, [table for _, table in splits.values()]),
        "## How to read it",
        _reading(manifests),
        "## How it was made",
        _recipe(manifests),
        "## Sources",
        _sources([source for manifest in manifests.values() for source in manifest.sources]),
        "## Limits",
        _limits(splits),
        "## Licence and citation",
        f"{about.license}. {about.cite or f'Please name {about.name} and the version digest above.'}",
    ]
    return "\n\n".join(parts) + "\n"


def _counts(splits: Mapping[str, tuple[Manifest, pa.Table]]) -> str:
    rows = []
    for name, (manifest, table) in splits.items():
        sensors = _and(sorted({s.sensor for s in manifest.sources}))
        labelled = int((table["label_offset"].to_numpy() >= 0).sum())
        size = f"{manifest.bytes / 1e6:,.1f} MB"
        rows.append((name, f"{manifest.tiles:,}", f"{labelled:,}", len(manifest.sources), sensors, size, _sizes(table)))
    head = ("split", "tiles", "with label", "scenes", "sensors", "size", "bands x rows x cols")
    return _table(head, rows)


def _sizes(table: pa.Table) -> str:
    kinds = table.group_by(["bands", "rows", "cols"]).aggregate([]).sort_by([(n, "ascending") for n in _SHAPE])
    return ", ".join(" x ".join(str(row[name]) for name in _SHAPE) for row in kinds.to_pylist()[:4])


_SHAPE = ("bands", "rows", "cols")


def _pixels(manifest: Manifest, tables: Sequence[pa.Table]) -> str:
    scale = manifest.scale
    found = sorted({q for table in tables for q in pc.unique(table["quantity"]).to_pylist() if q})
    what = "; ".join(f"`{name}`: {_QUANTITIES.get(name, name)}" for name in found) or "backscatter (see the recipe)"
    decode = f"db = {scale.floor_db:g} + (code.astype('float32') - 1) * {scale.step_db:g}   # where code > 0"
    text = [
        "A tile is a (bands, rows, cols) array of uint16 codes. Code 0 is no data; any other is a level in decibels "
        f"of {what}:",
        f"```python\n{decode}\n```",
        "Bands are in the order of `polarisations` in each tile's JSON and in the index. A label, where there is one, "
        "is a (rows, cols) uint8 array of class ids; 255 is unlabelled.",
    ]
    classes = (manifest.legend or {}).get("classes", [])
    if isinstance(classes, list) and classes and all(isinstance(c, dict) for c in classes):
        text.append(_table(("id", "class"), [(c.get("id", ""), c.get("name", "")) for c in classes]))
    return "\n\n".join(text)


_DECODERS = {
    "npy": "numpy.load(io.BytesIO(sample['npy']))",
    "blosc2": "numpy.frombuffer(blosc2.decompress2(sample['blosc2']), meta['dtype']).reshape(meta['shape'])",
}


def _reading(manifests: Mapping[str, Manifest]) -> str:
    name, manifest = next(iter(manifests.items()))
    folder, codec = manifest.shards[0].key.rpartition("/")[0], manifest.codec
    loaded = "codes = numpy.asarray(sample['npy'], 'uint16')" if codec == "npy" else f"codes = {_DECODERS[codec]}"
    return "\n\n".join(
        [
            f"Each tile is `<key>.{codec}`, `<key>.label.npy` (if labelled) and `<key>.json` in a tar file.",
            f"""```python
# one line to decode a tile's bytes; meta is its JSON
codes = {_DECODERS[codec]}
```""",
            f"""```python
# Hugging Face datasets
from datasets import load_dataset
tiles = load_dataset("FOLDER_OR_REPOSITORY", split="{name}", streaming=True)   # {loaded}
```""",
            f"""```python
# the index: place, time, statistics of each tile
import pandas
index = pandas.read_parquet("{manifest.index[0].key}")
```""",
            f"""```python
# webdataset
import glob, webdataset
for sample in webdataset.WebDataset(sorted(glob.glob("{folder}/*.tar")), shardshuffle=False): ...
```""",
            f"""```python
# SARSense: any tile by number, checksums checked, exact order and resume
from shards.reader import Corpus
tile = Corpus.open("FOLDER@{name}").tile(0)
```""",
        ]
    )


def _recipe(manifests: Mapping[str, Manifest]) -> str:
    rows = [(name, f"`{m.digest}`", _lineage(m)) for name, m in manifests.items()]
    first = next(iter(manifests.values()))
    recipe = json.dumps(first.recipe, indent=1, ensure_ascii=False)
    return "\n\n".join(
        [
            _table(("split", "version (SHA-256 of the manifest)", "made by"), rows),
            f"Recipe `{first.recipe_digest}`, pixels `{first.pixels_digest}`:",
            f"```json\n{recipe}\n```",
        ]
    )


def _lineage(manifest: Manifest) -> str:
    if manifest.lineage is None:
        return "a build from scenes"
    parents = ", ".join(f"`{parent[:16]}`" for parent in manifest.lineage.parents)
    return f"{manifest.lineage.made_by} of {parents}" if parents else manifest.lineage.made_by


def _sources(sources: Sequence[Source]) -> str:
    tiles: dict[str, int] = {}
    for source in sources:
        tiles[source.id] = tiles.get(source.id, 0) + source.tiles
    scenes = list({source.id: source for source in sources}.values())
    rows = [
        (
            f"`{s.id}`",
            s.sensor,
            s.product,
            s.mode,
            "+".join(s.polarisations),
            (s.time or "")[:10],
            s.orbit or "",
            tiles[s.id],
        )
        for s in scenes[:MOST_SOURCES]
    ]
    table = _table(("scene", "sensor", "product", "mode", "polarisations", "date", "orbit", "tiles"), rows)
    more = len(scenes) - len(rows)
    return table + (f"\n\n{more:,} more scenes are in the manifest." if more else "")


def _limits(splits: Mapping[str, tuple[Manifest, pa.Table]]) -> str:
    unplaced = sum(table["footprint"].null_count for _, table in splits.values())
    texts = [
        "- Speckle is part of the signal: neighbouring pixels are not independent after multilooking or resampling.",
        "- Levels depend on the angle of incidence (column `incidence_deg`) unless the terrain was flattened.",
    ]
    if unplaced:
        texts.append(f"- {unplaced:,} tiles do not know their place on the ground.")
    if len(splits) > 1:
        texts.append(
            "- No tile is in two splits. Whether splits share ground depends on how they were made: see above."
        )
    return "\n".join(texts)


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)
