"""Training on one part of a corpus, choosing on a second, testing on a third: nothing is chosen by what tests."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import yaml

from finetune.card import card_text
from finetune.config import FinetuneRun, TaskConfig
from finetune.evaluate import Result, Scorer, scored_scenes
from finetune.fit import CARD_TEXT, MODEL, SCORES, fit
from finetune.fractions import label_counts, label_fraction
from finetune.legend import read_legend
from finetune.metrics import over_seeds
from finetune.model import ModelCard, Network, check_bands, model_bytes, model_of
from finetune.predict import source_of
from finetune.splits import SameGround, split_corpus
from finetune.start import Say, Start, Task
from infra.errors import UsageError
from infra.store import open_store
from infra.world import World
from pretrain.config import validate
from pretrain.reading import open_corpus
from shards.reader import Corpus

CHOOSE_BY = {
    "segmentation": "miou_no_background",
    "change": "miou_no_background",
    "classification": "oa",
    "multilabel": "ap_macro",
    "regression": "rmse",
}
"""The score by which models are compared on the validation scenes, by task; of errors the smaller is better."""

ERRORS = ("rmse", "mae")


@dataclass(frozen=True, slots=True)
class Experiment:
    """A corpus with its parts: ``task`` learns and is scored on the test scenes; ``validate`` may be empty.

    ``source`` is the corpus as it was opened, ``facts`` what was done to it, for the record.
    """

    task: Task
    validate: tuple[str, ...]
    source: Corpus
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def choosing(self) -> Task:
        """The task that is scored on the validation scenes instead."""
        return replace(self.task, held_out=self.validate)


def open_experiment(
    data: str,
    run: FinetuneRun,
    say: Say,
    *,
    hold_out: str,
    validate: str = "",
    same_ground: SameGround = "refuse",
    label_percent: float = 100.0,
    label_seed: int = 0,
) -> Experiment:
    """Open a corpus, divide it (see ``finetune.splits``), and keep a share of the training labels.

    Raises UsageError where that makes no sense.
    """
    corpus = open_corpus(data, run.reading)
    legend = read_legend(corpus.manifest.legend, data)
    split = split_corpus(corpus, hold_out, validate, same_ground)
    for line in split.notes:
        say(f"warning: {line}")
    named = (*split.train, *split.validate, *split.test)
    bands = {scene: tuple(source_of(split.corpus, scene).polarisations) for scene in named}
    check_bands(len(bands[split.train[0]]), bands, f"a model of scene {split.train[0]}")
    task = Task(split.corpus, legend, split.train, split.test)
    facts: dict[str, Any] = {"manifest": corpus.manifest.digest, "same_ground": same_ground, "notes": split.notes}
    if label_percent != 100:
        task, labels = few_labels(task, run.task, label_percent, label_seed, say)
        facts["labels"] = labels
    return Experiment(task, split.validate, corpus, facts)


def few_labels(task: Task, config: TaskConfig, percent: float, seed: int, say: Say) -> tuple[Task, dict[str, Any]]:
    """Keep a share of the labelled tiles to learn from; give the task of them and what was kept."""
    tiles = task.training_tiles()
    counts = label_counts(task.corpus, tiles, task.legend, config)
    found = label_fraction([task.corpus.key(int(n)) for n in tiles], counts, percent / 100, seed)
    say(f"{percent:g} % of the labels: {found.text(task.legend.names)}")
    facts = {"percent": percent, "seed": seed, "tiles": len(found.chosen), "of_tiles": len(tiles), "share": found.share}
    return replace(task, tiles=tiles[found.chosen]), facts


def candidates(run: FinetuneRun, tries: Sequence[str]) -> dict[str, FinetuneRun]:
    """Make the runs to choose from: every combination of ``optim.lr=0.001,0.0003`` and further such dials.

    Raises UsageError for a dial or value that a run does not have.
    """
    grids = [_grid(text) for text in tries]
    made = {}
    for values in itertools.product(*(grid[1] for grid in grids)):
        plain = run.model_dump(mode="json")
        for (path, _), value in zip(grids, values, strict=True):
            _put(plain, path, value)
        name = "-".join(f"{path}={value}" for (path, _), value in zip(grids, values, strict=True)) or "as-given"
        made[name] = validate(FinetuneRun, plain, f"--try {name}")
    return made


def _grid(text: str) -> tuple[str, list[Any]]:
    path, mark, values = text.partition("=")
    if not mark or not path or not values:
        raise UsageError(f"--try {text!r}: expected a dial and values, such as optim.lr=0.001,0.0003")
    return path.replace("-", "_"), [_number(part) for part in values.split(",")]


def _number(text: str) -> Any:
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except ValueError:
        return text


def _put(plain: dict[str, Any], path: str, value: Any) -> None:
    *folders, name = path.split(".")
    for folder in folders:
        inner = plain.get(folder)
        if not isinstance(inner, dict):
            raise UsageError(f"--try {path}: a run has no {folder!r} with dials in it")
        plain = inner
    plain[name] = value


def choose_and_test(
    experiment: Experiment,
    start: Start,
    runs: Mapping[str, FinetuneRun],
    out: str,
    world: World,
    seeds: int,
    say: Say,
    choose_by: str | None = None,
) -> dict[str, Any]:
    """Train every candidate for every seed, choose one by its mean validation score, and test only that one.

    Candidates lie under ``out``/try/<name> with their validation scores; ``scores.json``, ``model_card.md`` and the
    models under ``out`` are the chosen one's, scored on the test scenes. Gives what is in scores.json. Started again,
    it continues.
    """
    task = experiment.choosing
    tried = {
        name: fit(task, start, run, f"{out.rstrip('/')}/try/{name}", world, seeds, say, final=False)
        for name, run in runs.items()
    }
    kind = next(iter(runs.values())).task.kind
    metric = choose_by or CHOOSE_BY[kind]
    found = {name: _mean(record, metric) for name, record in tried.items()}
    best = (min if metric.removesuffix("_macro") in ERRORS else max)(found, key=lambda name: found[name])
    for name, value in found.items():
        say(f"validation {metric} {value:.4f}  {name}{'  <- chosen' if name == best and len(found) > 1 else ''}")
    first, record = _test(experiment, tried[best], f"{out.rstrip('/')}/try/{best}", out, world)
    record |= {
        "validated_on": list(experiment.validate),
        "chosen_by": metric,
        "chosen": best,
        "tried": {name: value for name, value in found.items()},
    }
    if world.lead:
        store = open_store(out)
        store.put(SCORES, json.dumps(record, indent=1, allow_nan=False).encode())
        store.put(CARD_TEXT, card_text(first, record, experiment.task.corpus.manifest).encode())
    return record


def _mean(record: Mapping[str, Any], metric: str) -> float:
    summary = record["summary"]
    if metric not in summary:
        raise UsageError(f"no score {metric!r} to choose by: there are {', '.join(sorted(summary))}")
    value = summary[metric]["mean"]
    if value is None:
        raise UsageError(f"{metric} is not defined on the validation scenes: choose by another score")
    return float(value)


def _test(
    experiment: Experiment, record: Mapping[str, Any], made: str, out: str, world: World
) -> tuple[ModelCard, dict[str, Any]]:
    """Score the chosen run's models on the test scenes, and put them under ``out``; gives the first one's card."""
    results: list[tuple[int, Result, dict[str, Result]]] = []
    cards: list[ModelCard] = []
    store = open_store(out)
    for n, entry in enumerate(record["seeds"]):
        seed = entry["seed"]
        key = f"seed-{seed}/{MODEL}"
        network, card = model_of(open_store(made).get(key), f"{made}/{key}")
        overall, by_scene = score_network(network, card, experiment.task, world)
        results.append((seed, overall, by_scene))
        parts = {"held_out": experiment.task.held_out, "validated_on": experiment.validate}
        cards.append(card.model_copy(update={**parts, "scores": overall.flat()}))
        if world.lead:
            for name in (key, *([MODEL] if n == 0 else [])):
                store.put(name, model_bytes(network, cards[-1]))
    return cards[0], tested_record(record, experiment, results)


def score_network(network: Network, card: ModelCard, task: Task, world: World) -> tuple[Result, dict[str, Result]]:
    """Score a model of any task on the held-out scenes of a task: all together, and each by itself."""
    scorer = Scorer(network, card.task, card.legend, task.legend, card.crop_px, world.device)
    return scorer.score(scored_scenes(task.corpus, card.task, task.held_out))


def tested_record(
    record: Mapping[str, Any], experiment: Experiment, results: Sequence[tuple[int, Result, dict[str, Result]]]
) -> dict[str, Any]:
    """Give the record of a chosen run with the scores of its test instead of those of its validation."""
    spread = over_seeds([overall.flat() for _, overall, _ in results])
    return {
        **record,
        "held_out": list(experiment.task.held_out),
        "data": experiment.facts,
        "validation": record["summary"],
        "seeds": [
            {"seed": seed, "scores": overall.flat(), "scenes": {s: one.flat() for s, one in by_scene.items()}}
            for seed, overall, by_scene in results
        ],
        "summary": {name: asdict(value) for name, value in spread.items()},
    }
