"""The commands that take corpora in and give them out: export, import, report."""

import datetime
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from infra.command import say
from infra.errors import UsageError
from infra.log import Steps
from shards.cli_versions import Flag, Json, Tag, Url

if TYPE_CHECKING:
    from infra.store import Store
    from shards.foreign import Meaning
    from shards.reader import Corpus

Threads = Annotated[int, Parameter(validator=Number(gte=1), help="Files at a time.")]


def export(
    url: Url,
    out: str,
    /,
    *,
    as_: Annotated[Literal["folder", "huggingface", "dali", "wids"], Parameter("--as")] = "folder",
    db: Annotated[bool, Flag] = False,
    png: Annotated[bool, Flag] = False,
    low: float = -25.0,
    high: float = 0.0,
    split: Annotated[tuple[str, ...], Parameter(negative="")] = (),
    dali_index: Annotated[bool, Flag] = False,
    name: str = "SARSense tiles",
    license_: Annotated[str, Parameter("--license")] = "other",
    creator: str | None = None,
    cite: str | None = None,
    home: str | None = None,
    date: str | None = None,
    threads: Threads = 4,
    json_: Json = False,
) -> None:
    """Write a version in a form that other programs read.

    folder: a folder for each scene with <key>.npy (uint16 codes), labels and JSON. huggingface: the shards unchanged
    with data card, Croissant and index, ready for `hf upload`. dali, wids: only the index files that these readers
    want, for the shards where they are.

    Args:
        out: a folder, file:///... or s3://bucket/prefix.
        as_: which form.
        db: folder: decibels as float32, NaN where there is no data, instead of codes.
        png: folder: 8-bit grey levels, a PNG for each band, 0 where there is no data.
        low: decibels of grey level 1.
        high: decibels of grey level 255.
        split: huggingface: NAME=CORPUS@VERSION of a further split; give it once for each. URL itself is then `train`
            unless one of them is named so.
        dali_index: huggingface: an index file for NVIDIA DALI beside each shard too.
        name: huggingface: the data set's name on its card.
        license_: huggingface: an identifier of the hub such as cc-by-4.0, or a name or URL.
        creator: huggingface: who publishes it.
        cite: huggingface: how to cite it.
        home: huggingface: URL of its page.
        date: huggingface: day of publication, YYYY-MM-DD; today if not given.
    """
    from infra.store import open_store
    from shards.reader import Corpus

    if db and png:
        raise UsageError("--db or --png: a file holds one of both")
    corpus, target = Corpus.open(url), open_store(out)
    if as_ == "huggingface":
        from shards.croissant import About
        from shards.huggingface import export_huggingface

        day = date or datetime.datetime.now(datetime.UTC).date().isoformat()
        about = About(name, license_, day, home, creator, cite)
        splits = _splits(corpus, split)
        with Steps("export", 0, 1) as bar:
            made = export_huggingface(
                splits, target, about, dali=dali_index, threads=threads, progress=lambda n, of: bar.update(n, total=of)
            )
        result: dict[str, Any] = {"out": target.url, **{n: f"{m.tiles} tiles, {m.digest}" for n, m in made.items()}}
    elif as_ == "folder":
        from shards.export import Grey, export_folder

        kind: Literal["codes", "db", "png"] = "db" if db else "png" if png else "codes"
        with Steps("export", 0, len(corpus)) as bar:
            grey = Grey(low, high)
            files = export_folder(corpus, target, kind, grey, threads=threads, progress=lambda n, _: bar.update(n))
        result = {"out": target.url, "tiles": len(corpus), "files": files}
    else:
        result = {"out": target.url, "files": _index_files(corpus, target, as_)}
    say(json.dumps(result) if json_ else "\n".join(f"{key:8} {value}" for key, value in result.items()))


def _index_files(corpus: "Corpus", target: "Store", kind: str) -> int:
    from shards.sidecars import dali_index, index_key, wids_index

    if kind == "wids":
        target.put("wids.json", wids_index(corpus))
        return 1
    for n, shard in enumerate(corpus.manifest.shards):
        target.put(index_key(shard), dali_index(corpus, n))
    return len(corpus.manifest.shards)


def _splits(corpus: "Corpus", named: tuple[str, ...]) -> dict[str, "Corpus"]:
    from shards.reader import Corpus

    pairs = [text.partition("=") for text in named]
    if wrong := [text for text, (name, mark, url) in zip(named, pairs, strict=True) if not (name and mark and url)]:
        raise UsageError(f"--split {wrong[0]!r}: expected NAME=CORPUS@VERSION")
    splits = {name: Corpus.open(url) for name, _, url in pairs}
    if len(splits) < len(pairs):
        raise UsageError("--split: a name is given twice")
    return splits if "train" in splits else {"train": corpus, **splits}


def import_(
    source: str,
    /,
    *,
    out: str,
    like: str | None = None,
    floor_db: float = -60.0,
    step_db: float = 0.002,
    quantity: str = "unknown",
    polarisations: str = "",
    sensor: str = "chip",
    legend: Path | None = None,
    tag: Tag = None,
    threads: Threads = 2,
    json_: Json = False,
) -> None:
    """Make an existing WebDataset a corpus: tar files get an index and a manifest, no pixel is written again.

    A sample is <key>.npy with uint16 codes (bands, rows, cols), and <key>.json and <key>.label.npy if there are any.
    Files under OUT stay where they are, others are copied byte for byte. Pictures and other types of pixels go
    through `ingest build-sarsense`.

    Args:
        source: a folder or prefix with tar files, one tar file, or a pattern such as data/train-*.tar.
        out: where the corpus goes: a folder, file:///..., or s3://bucket/prefix.
        like: a corpus whose pixels mean the same: scale, recipe and legend are taken from it.
        floor_db: decibels of code 1.
        step_db: decibels from one code to the next.
        quantity: what the decibels are of, such as sigma0.
        polarisations: names of the bands in order, VV,VH, for samples whose JSON does not say.
        sensor: for samples whose JSON does not say.
        legend: JSON file of the labels' classes: {"classes": [{"id": 0, "name": ..., "colour": [r, g, b]}]}.
    """
    from infra.store import open_store
    from shards.heads import set_tag
    from shards.imports import import_webdataset

    store = open_store(out)
    names = tuple(name.strip() for name in polarisations.split(",") if name.strip())
    meaning = _meaning(like, floor_db, step_db, quantity, legend, sensor, names)
    with Steps("import", 0, 1) as bar:
        done = import_webdataset(
            source, store, meaning, threads=threads, progress=lambda n, of: bar.update(n, total=of)
        )
    if tag:
        set_tag(store, tag, done.manifest.digest, move=True)
    result = {
        "corpus": store.url,
        "digest": done.manifest.digest,
        "tiles": done.manifest.tiles,
        "shards": len(done.manifest.shards),
        "in place": done.in_place,
        "copied": done.copied,
        "packed anew": done.packed,
        "left out": ", ".join(f".{suffix}" for suffix in done.left_out) or "nothing",
    }
    say(json.dumps(result) if json_ else "\n".join(f"{key:12} {value}" for key, value in result.items()))


def _meaning(
    like: str | None,
    floor_db: float,
    step_db: float,
    quantity: str,
    legend: Path | None,
    sensor: str,
    polarisations: tuple[str, ...],
) -> "Meaning":
    from pydantic import ValidationError

    from infra.record import digest
    from shards.foreign import Meaning
    from shards.manifest import read_manifest
    from shards.tile import DbScale

    if like is not None:
        known = read_manifest(like)[1]
        return Meaning(known.scale, known.pixels_digest, known.recipe, known.legend, sensor, polarisations)
    try:
        scale = DbScale(floor_db=floor_db, step_db=step_db)
        classes = None if legend is None else json.loads(legend.read_bytes())
    except (ValidationError, ValueError) as error:
        raise UsageError(f"--floor-db, --step-db or --legend: {error}") from error
    pixels = {"scale": scale.model_dump(mode="json"), "quantity": quantity}
    return Meaning(scale, digest(pixels), {"imported": pixels}, classes, sensor, polarisations)


def report(
    url: Url,
    other: str | None = None,
    /,
    *,
    out: Path = Path("report.html"),
    seed: int = 0,
    tiles: Annotated[int, Parameter(validator=Number(gte=0, lte=500))] = 18,
) -> None:
    """Make one HTML page of a version: where, what, when, how bright, some tiles, lineage; or of two side by side.

    Args:
        other: a second version, or one of another corpus, to be set beside the first.
        out: the file to write.
        seed: decides which tiles are shown.
        tiles: how many of each version.
    """
    from shards.reader import Corpus
    from shards.report import report as make

    urls = [url, *([other] if other else [])]
    data = make([Corpus.open(each) for each in urls], urls, seed=seed, tiles=tiles)
    out.write_bytes(data)
    say(f"{out} ({len(data) / 1e6:.1f} MB)")


def add_to(app: App) -> None:
    """Add the commands to the ``shards`` command."""
    app.command(export)
    app.command(import_, name="import")
    app.command(report)
