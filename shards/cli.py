"""The command ``shards``: look into a corpus, and check that it is whole."""

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from infra.command import command_app, run
from shards import cli_exchange, cli_versions

if TYPE_CHECKING:
    from shards.manifest import Manifest
    from shards.reader import Corpus
    from shards.verify import Report

app = command_app("shards", "Look into a corpus of radar tiles, and check that it is whole.")

cli_versions.add_to(app)
cli_exchange.add_to(app)

Url = Annotated[str, Parameter(help="A corpus (folder, file://, s3://) or one version's manifests/DIGEST.json.")]
Json = Annotated[bool, Parameter("--json", negative="", show_default=False, help="Print JSON for programs.")]
Deep = Annotated[
    bool, Parameter(negative="", show_default=False, help="Read all bytes: SHA-256, tar structure, CRC, JSON.")
]
Urls = Annotated[
    bool, Parameter(negative="", show_default=False, help="Print only each shard's full URL, for other tools.")
]
Key = Annotated[str | None, Parameter(help="A tile's key: show this tile instead.")]


@app.command
def ls(url: Url, /, *, urls: Urls = False) -> None:
    """List the shards of a corpus: tiles, bytes and key of each."""
    from shards.manifest import read_manifest
    from shards.members import shard_url

    store, manifest = read_manifest(url)
    if urls:
        _print(*(shard_url(store, shard.key) for shard in manifest.shards))
        return
    _print(f"{'tiles':>8} {'MB':>10}  shard")
    _print(*(f"{s.tiles:>8} {s.bytes / 1e6:>10.3f}  {s.key}" for s in manifest.shards))
    _print(f"{manifest.tiles:>8} {manifest.bytes / 1e6:>10.3f}  in {len(manifest.shards)} shards")


@app.command
def show(url: Url, key: Key = None, /, *, json_: Json = False) -> None:
    """Show what a corpus is and from which scenes, or what is known of one tile."""
    from shards.manifest import read_manifest

    if key is not None:
        _show_tile(url, key, json_)
        return
    store, manifest = read_manifest(url)
    if json_:
        _print_json({"url": store.url, "digest": manifest.digest, **manifest.model_dump(mode="json")})
    else:
        _print(*_summary(store.url, manifest))


@app.command
def verify(url: Url, /, *, deep: Deep = False, json_: Json = False) -> int:
    """Check that a corpus is whole; exit code 1 and the name of every bad shard if not.

    Manifest and index are checked by their digests, shards by presence, size and layout; with --deep by content.
    """
    from shards.reader import Corpus
    from shards.verify import verify as check

    corpus = Corpus.open(url)
    report = check(corpus, deep, progress=_counter(len(corpus.manifest.shards)))
    if json_:
        _print_json(_report_json(report, corpus))
    else:
        _print(*_report_lines(report, corpus))
    return 0 if report.ok else 1


def main() -> None:
    """Run the command line."""
    run(app)


def _show_tile(url: str, key: str, as_json: bool) -> None:
    from shards.reader import Corpus

    corpus = Corpus.open(url)
    i = corpus.find(key)
    tile = corpus.tile(i, full_meta=True)
    rows = corpus.rows
    place = {
        "shard": corpus.manifest.shards[rows.shard[i]].key,
        "offset": int(rows.offset[i]),
        "length": int(rows.length[i]),
        "crc32c": f"{rows.crc32c[i]:08x}",
        "shape": list(tile.pixels.shape),
        "label": tile.label is not None,
    }
    shown = {"key": key, **place, **tile.meta}
    if as_json:
        _print_json(shown)
    else:
        _print(*(f"{name:<14} {_text(value)}" for name, value in shown.items()))


def _summary(url: str, manifest: "Manifest") -> list[str]:
    scale = manifest.scale
    head = {
        "corpus": url,
        "digest": manifest.digest,
        "recipe": manifest.recipe_digest,
        "pixels": f"{manifest.pixels_digest} (uint16 dB from {scale.floor_db:g} by {scale.step_db:g})",
        "codec": manifest.codec,
        "tiles": f"{manifest.tiles} in {len(manifest.shards)} shards, {manifest.bytes / 1e6:.3f} MB",
        "legend": "none" if manifest.legend is None else _text(manifest.legend),
    }
    lines = [f"{name:<8} {value}" for name, value in head.items()]
    lines += ["", f"{'tiles':>8} {'sensor':<11} {'bands':<8} {'rows x cols':>15} {'time':<20} scene"]
    for s in manifest.sources:
        size = f"{s.shape[0]} x {s.shape[1]}"
        bands = "+".join(s.polarisations)
        lines.append(f"{s.tiles:>8} {s.sensor:<11} {bands:<8} {size:>15} {(s.time or '-')[:19]:<20} {s.id}")
        lines += [f"{'':>8} warning: {warning}" for warning in s.warnings]
    return [*lines, "", "recipe", *(f"  {line}" for line in json.dumps(manifest.recipe, indent=2).splitlines())]


def _report_lines(report: "Report", corpus: "Corpus") -> list[str]:
    how = "deep" if report.deep else "shallow"
    counts = f"{report.shards} shards, {report.tiles} tiles, {report.bytes} bytes"
    bad = len({fault.shard for fault in report.faults})
    end = "whole" if report.ok else f"{len(report.faults)} faults in {bad} shards"
    return [*(f"BAD {fault}" for fault in report.faults), f"{corpus.store.url} ({how}): {counts}: {end}"]


def _report_json(report: "Report", corpus: "Corpus") -> dict[str, Any]:
    faults = [{"shard": f.shard, "tile": f.tile, "found": f.found} for f in report.faults]
    counts = {"shards": report.shards, "tiles": report.tiles, "bytes": report.bytes}
    return {"url": corpus.store.url, "digest": report.digest, "deep": report.deep, **counts, "faults": faults}


def _counter(total: int) -> Any:
    def show(done: int) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"\r{done} of {total} shards" + ("\n" if done == total else ""))

    return show


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _print(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)


def _print_json(value: Any) -> None:
    _print(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False))
