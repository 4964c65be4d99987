"""The model card: what a fine-tuned model is, for people, filled in from the run."""

from collections.abc import Mapping, Sequence
from typing import Any

from finetune.model import RESNET, ModelCard
from shards.manifest import Manifest, Source

_TASKS = {
    "segmentation": "the land class of every pixel",
    "classification": "the commonest land class of a tile",
    "multilabel": "every land class of a tile",
    "regression": "a number",
    "change": "what has changed between two dates",
}
_CLASS_SCORES = ("precision", "recall", "f1", "iou", "ap")
_PERCENT = ("oa", "kappa", "miou", "mf1", "f1", "ap", "precision", "recall", "iou")


def card_text(card: ModelCard, record: Mapping[str, Any], manifest: Manifest) -> str:
    """Give the text of a model card, Markdown, from the card in the model, its scores.json and its corpus."""
    parts = [
        f"# {_title(card)}",
        "## What it does",
        _does(card),
        "## Scores on scenes that it never saw",
        _scores(card, record),
        "## Encoder",
        _encoder(card),
        "## Data",
        _data(card, manifest),
        "## Training",
        _training(card, record),
        "## Intended use",
        _use(card),
        "## Limits",
        _limits(card, record),
        "## Licence",
        _licence(manifest.sources),
    ]
    return "\n\n".join(parts) + "\n"


def _title(card: ModelCard) -> str:
    level = "tiles" if card.task.tiles else "pixels"
    return f"SAR {card.task.kind} of {level}, {_network(card)}, run {card.run_digest[:12]}"


def _network(card: ModelCard) -> str:
    return f"ResNet-{card.encoder.depth}" if card.encoder_kind == RESNET else card.encoder_kind


def _does(card: ModelCard) -> str:
    classes = ", ".join(card.legend.names)
    lines = [f"From calibrated radar backscatter it finds {_TASKS[card.task.kind]}. Classes: {classes}."]
    if card.legend.background is not None:
        lines.append(f"Background: {card.legend.names[card.legend.ids.index(card.legend.background)]}.")
    target = card.task.target
    if card.task.kind == "regression":
        how = {"values": target.values, "share_of": list(target.share_of), "linear": target.linear, "unit": target.unit}
        lines.append("The number: " + ", ".join(f"{name} {value}" for name, value in how.items() if value) + ".")
    if card.task.tiles:
        lines.append(f"Tiles with less than {card.task.labelled_share:.0%} of labelled pixels had no answer.")
    return " ".join(lines)


def _scores(card: ModelCard, record: Mapping[str, Any]) -> str:
    summary: Mapping[str, Mapping[str, Any]] = record["summary"]
    seeds = len(record["seeds"])
    head = f"Held out: {', '.join(card.held_out)}. Mean ± sample standard deviation over {_count(seeds, 'seed')}."
    overall = [(name, _cell(name, value)) for name, value in summary.items() if "/" not in name]
    kinds = [kind for kind in _CLASS_SCORES if any(name.startswith(f"{kind}/") for name in summary)]
    parts = [head, _table(("score", "value"), overall)]
    if kinds:
        rows = [(c, *(_cell(kind, summary[f"{kind}/{c}"]) for kind in kinds)) for c in card.legend.names]
        parts.append(_table(("class", *kinds), rows))
    parts.append(f"The weights beside this card are those of seed {card.seed}; nothing was chosen by these scenes.")
    if card.validated_on:
        parts.append(_chosen(card, record))
    return "\n\n".join(parts)


def _chosen(card: ModelCard, record: Mapping[str, Any]) -> str:
    metric, tried = record["chosen_by"], record["tried"]
    head = f"Chosen by {metric} on {', '.join(card.validated_on)}, among {_count(len(tried), 'run')}:"
    rows = [
        (f"{name} (chosen)" if name == record["chosen"] else name, _cell(metric, {"mean": value, "std": None}))
        for name, value in tried.items()
    ]
    return f"{head}\n\n{_table(('run', metric), rows)}"


def _cell(name: str, spread: Mapping[str, Any]) -> str:
    if spread["mean"] is None:
        return "-"
    percent = name.split("_")[0] in _PERCENT
    factor, unit = (100, " %") if percent else (1, "")
    deviation = "" if spread["std"] is None else f" ± {factor * spread['std']:.4g}"
    return f"{factor * spread['mean']:.4g}{deviation}{unit}"


def _encoder(card: ModelCard) -> str:
    encoder = card.encoder
    origin = "random weights" if card.encoder_url == "random" else f"{card.encoder_url} (SHA-256 {card.encoder_digest})"
    reads = f"{_count(encoder.bands, 'band')} from {encoder.input.lo_db:g} to {encoder.input.hi_db:g} dB"
    lines = [f"{_network(card)}, method {encoder.method}, started from {origin}. It reads {reads}."]
    if encoder.run_digest:
        lines.append(
            f"Pretraining run {encoder.run_digest}, {encoder.step} steps, on manifest {encoder.manifest_digest}."
        )
    return " ".join(lines)


def _data(card: ModelCard, manifest: Manifest) -> str:
    roles = dict.fromkeys(card.trained_on, "training")
    roles |= dict.fromkeys(card.validated_on, "validation") | dict.fromkeys(card.held_out, "held out")
    rows = [
        (s.id, s.sensor, " ".join(s.polarisations), s.time or "", roles[s.id])
        for s in manifest.sources
        if s.id in roles
    ]
    return "\n\n".join(
        [
            f"Manifest {card.manifest_digest}, recipe {manifest.recipe_digest}, pixels {card.pixels_digest}.",
            _table(("scene", "sensor", "polarisations", "time", "role"), rows),
        ]
    )


def _training(card: ModelCard, record: Mapping[str, Any]) -> str:
    run = record["run"]
    decoder, optim, loss = run["decoder"], run["optim"], run["loss"]
    head = f"{decoder['pool']} probe" if card.task.tiles else f"{decoder['kind']}, {decoder['channels']} channels"
    terms = [f"{loss[name]:g} x {name}" for name in ("cross_entropy", "focal", "dice") if loss[name]]
    labels = record.get("data", {}).get("labels")
    kept = (
        f" {labels['percent']:g} % of the labels ({labels['tiles']} of {labels['of_tiles']} tiles)." if labels else ""
    )
    lost = f"{loss['regression']}" if card.task.kind == "regression" else " + ".join(terms)
    return (
        f"Run {card.run_digest}: {run['steps']} steps of {run['batch']} crops of {card.crop_px} pixels; head: {head};"
        f" loss: {lost}, class weights {run['class_weights']}; {optim['kind']}, learning rate {optim['lr']:g}, weight"
        f" decay {optim['weight_decay']:g}, encoder's rate x {run['encoder_lr_factor']:g}. Seeds:"
        f" {', '.join(str(one['seed']) for one in record['seeds'])}.{kept}"
    )


def _use(card: ModelCard) -> str:
    return (
        f"Scenes of the same sensor, mode and polarisations, ingested with the same recipe (pixels"
        f" {card.pixels_digest[:12]}; others are refused), over land like that of the training scenes. Check some of"
        " the result by eye or with reference data before it decides anything."
    )


def _limits(card: ModelCard, record: Mapping[str, Any]) -> str:
    lines = [
        f"- It was scored on {_count(len(card.held_out), 'scene')}; other regions, seasons and"
        " incidence angles were not tested.",
        "- Layover, shadow, wind on water, wet snow and rain change backscatter and so the answer.",
        "- The labels' own errors are part of the scores.",
    ]
    if len(record["seeds"]) < 5:
        lines.append(f"- {len(record['seeds'])} of 5 recommended seeds: small differences mean nothing.")
    if missing := [
        name for name, value in record["summary"].items() if name.startswith("f1/") and value["mean"] is None
    ]:
        lines.append(f"- Not in the held-out scenes: {', '.join(name.removeprefix('f1/') for name in missing)}.")
    return "\n".join(lines)


def _licence(sources: Sequence[Source]) -> str:
    sensors = ", ".join(sorted({source.sensor for source in sources}))
    return (
        f"To be filled in by whoever publishes it. The model derives from scenes of {sensors}, from their labels, and"
        " from the encoder's weights: the terms of all three apply."
    )


def _count(number: int, what: str) -> str:
    return f"{number} {what}" + ("" if number == 1 else "s")


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
