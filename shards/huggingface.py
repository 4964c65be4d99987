"""A version, or several as splits, as a data set on Hugging Face: shards, index, card, Croissant; a corpus still."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import yaml

from infra.errors import ConflictError, UsageError
from infra.store import Store
from shards.card import card_text, description_of
from shards.croissant import About, croissant
from shards.heads import set_tag
from shards.manifest import Manifest, publish
from shards.reader import Corpus
from shards.sidecars import dali_index, index_key
from shards.stand_alone import stand_alone

_SPLIT = re.compile(r"[a-z][a-z0-9]{0,30}(_[a-z0-9]{1,30})*")


def export_huggingface(
    splits: Mapping[str, Corpus],
    target: Store,
    about: About,
    *,
    dali: bool = False,
    threads: int = 4,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Manifest]:
    """Write splits, in this order, to a place that ``datasets.load_dataset`` reads; give what stands there for each.

    ``README.md`` is the data card (one configuration, ``tiles``: the hub reads a repository in one format only),
    ``croissant.json`` describes the same for machines. The place is a corpus as well: each split has its tag, the
    first is the current version. Shards are copied unchanged where a split has all their tiles. With ``dali``, each
    shard gets its index file.
    Raises UsageError for a split's name, ConflictError where splits share tiles or differ in what a pixel means.
    """
    _check(splits)
    alone = len(splits) == 1
    made: dict[str, Manifest] = {}
    tables: dict[str, tuple[Manifest, pa.Table]] = {}
    for name, corpus in splits.items():
        made[name] = stand_alone(corpus, target, "shards" if alone else name, threads=threads, progress=progress)
    _refuse_strays(target, made)
    first = next(iter(made.values()))
    publish(target, first)
    for name, manifest in made.items():
        set_tag(target, name, manifest.digest, move=True)
        written = Corpus.open(f"{target.url}@{manifest.digest}")
        tables[name] = (manifest, written.table)
        for n, shard in enumerate(manifest.shards if dali else ()):
            target.put(index_key(shard), dali_index(written, n))
    if first.legend is not None:
        target.put("legend.json", (json.dumps(first.legend, indent=1) + "\n").encode())
    target.put("croissant.json", croissant(about, tables, description_of(made)))
    target.put("README.md", readme(about, tables).encode())
    return made


def readme(about: About, splits: Mapping[str, tuple[Manifest, pa.Table]]) -> str:
    """Give the data card: YAML for the hub, then text for people."""
    front = yaml.safe_dump(_front_matter(about, splits), sort_keys=False, allow_unicode=True, width=1000)
    return f"---\n{front}---\n\n{card_text(about, splits)}"


def _front_matter(about: About, splits: Mapping[str, tuple[Manifest, pa.Table]]) -> dict[str, Any]:
    total = sum(manifest.tiles for manifest, _ in splits.values())
    labelled = any((table["label_offset"].to_numpy() >= 0).any() for _, table in splits.values())
    known = re.fullmatch(r"[a-z0-9][a-z0-9.-]*", about.license)
    terms = {"license": about.license} if known else {"license": "other", "license_name": about.license}
    return {
        "pretty_name": about.name,
        **terms,
        "task_categories": ["image-segmentation" if labelled else "image-feature-extraction"],
        "size_categories": [_size_category(total)],
        "tags": ["synthetic-aperture-radar", "sar", "earth-observation", "remote-sensing", "webdataset", "croissant"],
        "configs": [
            {
                "config_name": "tiles",
                "default": True,
                "data_files": [{"split": name, "path": _folders(manifest)} for name, (manifest, _) in splits.items()],
            },
        ],
    }


def _refuse_strays(target: Store, made: Mapping[str, Manifest]) -> None:
    """Refuse a place with tar files that no split has: a reader of whole folders would take them too."""
    for name, manifest in made.items():
        known = {shard.key for shard in manifest.shards}
        for folder in sorted({key.rpartition("/")[0] for key in known}):
            strays = [o.key for o in target.list(f"{folder}/") if o.key.endswith(".tar") and o.key not in known]
            if strays:
                raise ConflictError(
                    f"{target.url} holds {len(strays)} tar files that are not of {name}, first {strays[0]}: export to "
                    "an empty place, since readers take all files of the folder; nothing was published"
                )


def _folders(manifest: Manifest) -> list[str]:
    return sorted({f"{shard.key.rpartition('/')[0]}/*.tar" for shard in manifest.shards})


def _size_category(count: int) -> str:
    """Name a number of samples as the hub does."""
    steps = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"), (10**7, "1M<n<10M")]
    more = [(10**8, "10M<n<100M"), (10**9, "100M<n<1B"), (10**10, "1B<n<10B")]
    return next((name for limit, name in [*steps, *more] if count < limit), "10B<n<100B")


def _check(splits: Mapping[str, Corpus]) -> None:
    owner: dict[str, str] = {}
    first_name, first = next(iter(splits.items()))
    for name, corpus in splits.items():
        if not _SPLIT.fullmatch(name) or name in ("shards", "index", "manifests", "heads", "tags", "units"):
            raise UsageError(f"{name!r} is no name for a split: expected train, validation, test, ... in small letters")
        for what in ("pixels_digest", "scale", "codec", "legend"):
            if getattr(corpus.manifest, what) != getattr(first.manifest, what):
                raise ConflictError(f"{first_name} and {name} differ in {what}: publish them as two data sets")
        for key in corpus.table["key"].to_pylist():
            if (other := owner.setdefault(key, name)) != name:
                raise ConflictError(f"the tile {key} is in {other} and in {name}: splits may not share tiles")
