"""What a run is and how it went, on one page that needs nothing else; also of a run that is still going."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from infra.errors import SarsenseError, UsageError
from infra.log import read_lines
from infra.report import figure, note, page, section, table
from infra.store import Store, StoreError, open_store
from pretrain.environment import read_starts
from pretrain.report_figures import answers, curves
from pretrain.run_folder import METRICS, Progress, checkpoint_keys, checkpoint_name, read_run
from pretrain.watch_picture import VIEWS

if TYPE_CHECKING:
    from pretrain.encoder import ResNet
    from pretrain.export import EncoderCard
    from shards.reader import Corpus

MOST_TILE_PX = 512


def report(url: str, *, data: str | None = None, pictures: int = 4, tiles: int = 3) -> bytes:
    """Make the self-contained HTML page of the run at ``url``.

    The last ``pictures`` pictures of views are shown, and what the encoder (as exported, else of the newest
    checkpoint) answers to ``tiles`` tiles of the corpus ``data`` (default: the run's own). What is missing is said.
    Raises UsageError where no run is at ``url``.
    """
    store = open_store(url)
    try:
        found, lines = read_run(url), read_lines(store, METRICS)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"the record of {url} cannot be read ({error}): expected what pretrain writes") from error
    starts = read_starts(store)
    data = data or next((str(s["data"]) for s in reversed(starts) if s.get("data")), None)
    drawn = curves(lines)
    parts = [
        section("Summary", table(("", ""), _summary(found, lines, data))),
        section("Curves", figure(drawn, "Every line of the log.") if drawn else note("Nothing is logged yet.")),
        section("Last numbers", table(("number", "value"), _last(lines))),
        section("Views", _views(store, pictures)),
        section("What the stages answer to", _activations(found, store, data, tiles)),
        section("Environment", _environment(starts)),
        section("Dials", table(("dial", "value"), _dials(found.run.get("dials", {})))),
        section("Checkpoints", _checkpoints(store)),
    ]
    state = f"{_done(lines)} of {found.steps} steps"
    return page(f"{found.method} {found.digest[:12]}", f"{state} · run {found.digest}", parts)


def _done(lines: Sequence[Mapping[str, Any]]) -> int:
    return int(lines[-1]["step"]) + 1 if lines else 0


def _summary(found: Progress, lines: Sequence[Mapping[str, Any]], data: str | None) -> list[tuple[str, Any]]:
    rates = [line["images_per_s"] for line in lines if "images_per_s" in line]
    waits = [line["data_wait_share"] for line in lines if "data_wait_share" in line]
    bad = sum(1 for line in lines if line.get("grad_norm") != line.get("grad_norm"))
    done = _done(lines)
    rows: list[tuple[str, Any]] = [
        ("method", found.method),
        ("steps", f"{done} of {found.steps}, {'finished' if done >= found.steps else 'not finished'}"),
        ("encoder", "exported" if found.encoder else "not yet: it is left at the end"),
        ("run digest", found.digest),
        ("manifest", found.run.get("manifest", "?")),
        ("pixels", found.run.get("pixels", "?")),
        ("corpus", data or "not recorded"),
        ("logged lines without finite gradients", str(bad)),
    ]
    if rates:
        rows.append(("images per second", f"{sum(rates) / len(rates):.4g} in the mean of the log's lines"))
        rows.append(("waiting for data", f"{sum(waits) / max(1, len(waits)):.2%} of the time"))
    return rows


def _last(lines: Sequence[Mapping[str, Any]]) -> list[tuple[str, float]]:
    """Give the last value of every number, some of which are not in every line."""
    last = {name: value for line in lines for name, value in line.items() if name != "step"}
    return sorted((name, float(value)) for name, value in last.items() if isinstance(value, int | float))


def _views(store: Store, count: int) -> str:
    keys = sorted(o.key for o in store.list(f"{VIEWS}/") if o.key.endswith(".png"))
    if not keys or not count:
        return note("No picture of views: give --watch.every, the steps between two.")
    shown = keys[-count:]
    text = "Two views of each tile as the encoder got them; boxes of one colour and number show the same ground."
    return note(text) + "".join(figure(store.get(key), f"after step {_number(key)}") for key in shown)


def _number(key: str) -> str:
    digits = "".join(c for c in key.rpartition("/")[2] if c.isdigit())
    return f"{int(digits):,}" if digits else key


def _activations(found: Progress, store: Store, data: str | None, count: int) -> str:
    if data is None or not count:
        return note("No corpus is known to draw tiles from: give --data.")
    from shards.reader import Corpus

    try:
        corpus = Corpus.open(data)
        encoder, card, name = _encoder(found, store, corpus)
        chosen = [round((i + 0.5) * len(corpus) / count) for i in range(min(count, len(corpus)))]
        drawn = [_answer(encoder, card, corpus, min(i, len(corpus) - 1)) for i in chosen]
    except (SarsenseError, StoreError, ValueError, KeyError, RuntimeError, OSError) as error:
        return note(f"Not shown: {error}")
    return note(f"Length of the feature vector of each cell; {name}.") + "".join(drawn)


def _encoder(found: Progress, store: Store, corpus: "Corpus") -> tuple["ResNet", "EncoderCard", str]:
    """Load what the run exported, or the encoder of its newest checkpoint."""
    from pretrain.export import EncoderCard, encoder_of

    if found.encoder:
        encoder, card = encoder_of(store.get("encoder.safetensors"), f"{found.url}/encoder.safetensors")
        return encoder, card, "the exported encoder"
    from infra.world import World
    from pretrain import checkpoint
    from pretrain.config import validate
    from pretrain.learners import LEARNERS
    from pretrain.methods import RUNS

    newest = checkpoint.latest(store, found.digest)
    if newest is None:
        raise SarsenseError("there is no checkpoint yet")
    config = validate(RUNS[found.method], found.run["dials"], "run.json")
    config = config.model_copy(update={"encoder": config.encoder.model_copy(update={"weights": None})})
    learner = LEARNERS[found.method](config, corpus.scale, World())
    state = {n.removeprefix("module."): t for n, t in newest.tensors.items() if n.startswith("module.")}
    learner.module.load_state_dict(state)
    card = EncoderCard(
        method=found.method, depth=config.encoder.depth, bands=config.encoder.bands, input=config.input,
        scale=corpus.scale, pixels_digest="", manifest_digest="", run_digest=found.digest, step=newest.step,
    )  # fmt: skip
    return learner.encoder.eval(), card, f"the encoder after {newest.step:,} steps"


def _answer(encoder: "ResNet", card: "EncoderCard", corpus: "Corpus", i: int) -> str:
    import torch

    from pretrain.encoder import match_bands, to_grey, to_input

    tile = corpus.tile(i)
    bands = slice(0, 1) if encoder.bands != len(tile.pixels) else slice(None)
    codes = torch.from_numpy(tile.pixels[None, bands, :MOST_TILE_PX, :MOST_TILE_PX].copy())
    with torch.no_grad():
        maps = encoder(match_bands(to_input(codes, corpus.scale, card.input), encoder.bands))
    grey, valid = to_grey(codes[0, 0], corpus.scale, card.input)
    lengths = [features[0].norm(dim=0).numpy() for features in maps]
    names = "+".join(tile.meta["polarisations"])
    return figure(answers(grey.numpy(), ~valid.numpy(), lengths), f"{tile.key} · {tile.meta['sensor']} · {names}")


def _environment(starts: Sequence[Mapping[str, Any]]) -> str:
    if not starts:
        return note("Not recorded.")
    rows = [
        (
            str(s.get("at", "?")),
            str(s.get("place", "?")),
            _versions(s),
            f"{s.get('cpu', '?')}, {s.get('cores', '?')} cores, {s.get('threads', '?')} threads,"
            f" {s.get('memory_gib', '?')} GiB, {_listed(s.get('gpus')) or 'no GPU'}; {s.get('system', '?')}",
            str(s.get("commit") or "not a checkout"),
            _listed(s.get("command"), " "),
        )
        for s in starts[-10:]
    ]
    told = note(f"The last 10 of {len(starts)} starts.") if len(starts) > 10 else ""
    return told + table(("start (UTC)", "process", "versions", "machine", "commit", "command"), rows)


def _listed(values: Any, between: str = ", ") -> str:
    return between.join(map(str, values)) if isinstance(values, list) else ""


def _versions(start: Mapping[str, Any]) -> str:
    versions = start.get("versions")
    known = versions if isinstance(versions, dict) else {}
    return ", ".join([f"Python {start.get('python', '?')}", *(f"{n} {v}" for n, v in known.items())])


def _dials(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    from pretrain.trackers import flat

    return [(name, str(value)) for name, value in sorted(flat(values).items())]


def _checkpoints(store: Store) -> str:
    sizes = {o.key: o.size for o in store.list("checkpoints/")}
    rows = [
        (named[0], sizes.get(key, 0) / 1e6, key) for key in checkpoint_keys(store) if (named := checkpoint_name(key))
    ]
    return table(("steps done", "MB", "object"), rows) if rows else note("None yet.")
