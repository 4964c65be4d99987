"""What an evaluation is made of, as plain values: encoders, data sets, units, and jobs that travel to workers."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from finetune.config import FinetuneRun
from finetune.splits import SameGround
from finetune.start import RANDOM
from infra.errors import UsageError
from infra.store import absolute

FORMAT = "sarsense-bench-1"
SEED = "{seed}"
"""What stands in an encoder's URL for the seed."""

FROZEN, FINETUNE = ("knn", "linear"), "finetune"
USES = {
    "segmentation": (*FROZEN, FINETUNE),
    "classification": (*FROZEN, FINETUNE),
    "multilabel": (FINETUNE,),
    "regression": (FINETUNE,),
    "change": (),
}
"""How an encoder can be used for each kind of task."""


@dataclass(frozen=True, slots=True)
class Named:
    """An encoder or a data set under its short name."""

    name: str
    url: str

    def of_seed(self, seed: int) -> str:
        """Give the URL of an encoder for a seed."""
        return self.url.replace(SEED, str(seed))


@dataclass(frozen=True, slots=True)
class Probing:
    """How frozen features are looked at; fixed beforehand, equal for every encoder.

    Every stage (1..4) answers for the same cells of ``cell_px`` pixels. At most ``most_cells`` cells teach, and at
    most as many are scored. ``l2`` is the strength of the logistic regression: mean cross-entropy + l2 / 2 |w|^2 on
    standardised features.
    """

    stages: tuple[int, ...] = (1, 2, 3, 4)
    cell_px: int = 16
    most_cells: int = 20_000
    neighbours: int = 20
    l2: float = 1e-2


@dataclass(frozen=True, slots=True)
class Bench:
    """What is asked for."""

    encoders: tuple[Named, ...]
    data: tuple[Named, ...]
    out: str
    run: FinetuneRun
    fractions: tuple[float, ...] = (0.01, 0.1, 1.0)
    seeds: int = 5
    folds: int = 4
    all_folds: bool = False
    hold_out: str = ""
    same_ground: SameGround = "refuse"
    uses: tuple[str, ...] = (*FROZEN, FINETUNE)
    probing: Probing = Probing()
    reference: str = RANDOM
    keep_models: bool = False

    @property
    def seed_numbers(self) -> range:
        """The seeds in order."""
        return range(self.run.seed, self.run.seed + self.seeds)


@dataclass(frozen=True, slots=True)
class Fold:
    """Scenes that are held out together, as ``split_corpus`` takes them."""

    name: str
    held_out: str


@dataclass(frozen=True, slots=True)
class Unit:
    """One number asked for, with its digest: the name of everything that decides it. ``stage`` 0 is fine-tuning.

    ``pictures`` asks for a map or an embedding beside the number.
    """

    data: str
    encoder: str
    use: str
    stage: int
    fraction: float
    seed: int
    fold: str
    digest: str
    pictures: bool = field(default=False, compare=False)

    @property
    def task(self) -> str:
        """How the encoder was used, in one word."""
        return f"{self.use}-{self.stage}" if self.stage else self.use

    @property
    def key(self) -> str:
        """The object of its result."""
        return f"units/{self.digest}.json"


@dataclass(frozen=True, slots=True)
class Setting:
    """What all jobs of an evaluation share. Plain data: it travels to another machine."""

    out: str
    run: FinetuneRun
    probing: Probing
    same_ground: SameGround
    keep_models: bool
    device: str


@dataclass(frozen=True, slots=True)
class Job:
    """Units that are done together: one fine-tuning, or all probes of one set of frozen features."""

    setting: Setting
    data: str
    manifest: str
    held_out: str
    encoder: str
    encoder_digest: str
    units: tuple[Unit, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What is kept of an encoder that could be opened; its weights are read again where they are needed."""

    digest: str
    depth: int


@dataclass(slots=True)
class Plan:
    """All units in the order of the tables, the jobs that make them, and what is known of encoders and data.

    ``failed`` has the units whose encoder could not be opened, with the reason.
    """

    bench: Bench
    units: list[Unit]
    jobs: list[Job]
    failed: dict[str, str]
    data: dict[str, dict[str, Any]]
    encoders: dict[str, dict[str, Any]]


def named(texts: Sequence[str], what: str) -> tuple[Named, ...]:
    """Read ``NAME=URL`` or ``URL``, whose name is then made of its last parts. Raises UsageError for a name twice."""
    made: list[Named] = []
    for text in texts:
        given = re.match(r"([A-Za-z0-9_.+-]+)=(.+)", text)
        name, url = (given[1], given[2]) if given else ("", text)
        url = url if url == RANDOM else absolute(url)
        made.append(Named(name or _short(url, {one.name for one in made}), url))
    names = [one.name for one in made]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"{what} name {', '.join(twice)} is given twice: give each its own, as in NAME=URL")
    return tuple(made)


def _short(url: str, taken: set[str]) -> str:
    """Give the last part of a URL that says something, with the one before it where that is taken."""
    parts = [part for part in urlsplit(url).path.split("/") if part] or [url]
    parts[-1] = re.sub(r"\.(safetensors|pth|pt|bin|json)$", "", parts[-1])
    if len(parts) > 1 and parts[-1] in ("encoder", "model", "manifest"):
        parts.pop()
    known = [re.sub(r"[^A-Za-z0-9_.+-]+", "", "-".join(parts[-n:])) for n in (1, 2, 3)]
    return next((name for name in known if name and name not in taken), f"{known[0] or 'encoder'}-{len(taken) + 1}")
