"""What a run consists of, as frozen values: free of torch, so that commands answer at once."""

import difflib
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from infra.errors import UsageError
from infra.record import digest


class Frozen(BaseModel):
    """A value that never changes and refuses names it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


Share = Annotated[float, Field(ge=0, le=1)]
Depth = Annotated[Literal[18, 34, 50, 101], BeforeValidator(int)]
"""Depth of a ResNet; a command line gives it as text."""


class InputSpec(Frozen):
    """How decibels become the network's input.

    ``grey = clip((dB - lo_db) / (hi_db - lo_db), 0, 1)`` and ``x = (grey - mean) / std``; no-data becomes 0.0, which
    is the mean. The defaults are the ImageNet statistics averaged over the colours.
    """

    lo_db: float = -35.0
    """Backscatter that becomes black."""
    hi_db: float = 10.0
    """Backscatter that becomes white."""
    mean: float = 0.449
    """Grey value that becomes 0."""
    std: float = Field(default=0.226, gt=0)
    """Grey step that becomes 1."""
    bands: int = Field(default=1, ge=1)
    """Bands of a tile."""


class EncoderConfig(Frozen):
    """The ResNet."""

    depth: Depth = 50
    """Layers."""
    bands: int = Field(default=1, ge=1)
    """Input bands; a single band is repeated for more."""
    weights: str | None = None
    """Local file to start from (.safetensors or .pth)."""


class Optim(Frozen):
    """The optimiser and its schedule; the defaults are DI3CL's but for the schedule, which moves every step."""

    kind: Literal["sgd", "adamw", "lars"] = "sgd"
    """Which optimiser; lars for batches of thousands."""
    lr: float = Field(default=0.03, gt=0)
    """Peak learning rate, at a global batch of lr_batch."""
    lr_batch: int | None = Field(default=256, ge=1)
    """The rate grows with batch / lr_batch; null: it does not."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum of SGD and LARS."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Of AdamW."""
    trust: float = Field(default=0.001, gt=0)
    """Of LARS: rate of a layer, relative to the length of its weights by that of its gradient."""
    weight_decay: float = Field(default=1e-4, ge=0)
    """Pull of parameters towards zero."""
    weight_decay_on: Literal["all", "weights"] = "all"
    """all: every parameter, as published; weights: not on biases and batch norm. LARS adapts what decays."""
    clip_norm: float | None = Field(default=None, gt=0)
    """Greatest length of the gradient; null: any, as published."""
    warmup_steps: int = Field(default=0, ge=0)
    """Steps of linear rise before the schedule."""
    schedule: Literal["step", "epoch", "multistep"] = "step"
    """step: half a cosine, lower at every step; epoch: lower once an epoch, as published; multistep: falls."""
    steps_per_epoch: int | None = Field(default=None, ge=1)
    """Of schedule epoch."""
    milestones: tuple[Share, ...] = (0.6, 0.8)
    """Of schedule multistep: parts of the run after which the rate falls to a tenth (MoCo's are 120 and 160 of 200)."""

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.schedule == "epoch" and self.steps_per_epoch is None:
            raise ValueError("schedule epoch needs steps_per_epoch (tiles of the corpus / batch)")
        return self

    def peak_lr(self, batch: int) -> float:
        """Give the learning rate for a global batch, before the schedule."""
        return self.lr if self.lr_batch is None else self.lr * batch / self.lr_batch


class Keeping(Frozen):
    """How often a checkpoint is written and how many are kept."""

    every: int = Field(default=500, ge=1)
    """Steps between checkpoints."""
    keep: int = Field(default=3, ge=1)
    """How many are kept: the newest."""
    keep_every: int | None = Field(default=None, ge=1)
    """Checkpoints after multiples of so many steps are kept for ever as well; null: none."""
    background: bool = True
    """Write while training goes on."""


class Reading(Frozen):
    """How tiles are read ahead. Changes no result."""

    threads: int = Field(default=2, ge=1)
    """Threads of a rank, or of a reader, that decode and draw."""
    ahead: int = Field(default=4, ge=1)
    """Batches prepared beyond the one in use."""
    connections: int | None = Field(default=None, ge=0)
    """Requests in flight to a bucket; null: 16, and files are read by the threads themselves."""
    readers: int = Field(default=0, ge=0)
    """Reader actors of a rank on the Ray cluster; 0: the rank reads in its own process."""
    reader_cpus: float = Field(default=1, ge=0)
    """CPUs of a reader."""
    reader_resources: dict[str, float] = {}
    """Further resources of a reader, to keep it on nodes that were started with them."""
    on_corrupt: Literal["fail", "skip"] = "fail"
    """A tile that stays bad when read again ends the run, or its place goes to the same other tile on every rank."""
    cache_gib: float = Field(default=0, ge=0)
    """Disk of a node for tiles of a bucket, shared by its processes; 0: none."""
    cache_folder: str | None = None
    """Where they are kept; null: ~/.cache/sarsense/tiles."""
    prometheus: str | None = None
    """Folder for a file of the feed's numbers, as of node_exporter's textfile collector; null: none."""


class LoopConfig(Frozen):
    """What the loop needs of every run."""

    steps: int = Field(default=1000, ge=1)
    """Optimiser steps in all."""
    batch: int = Field(default=256, ge=1)
    """Global batch: the tiles of all ranks together."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Of weights, order of tiles and views."""
    optim: Optim = Optim()
    accumulate: int = Field(default=1, ge=1)
    """Parts in which a rank takes its share of a batch, to save memory; batch norm sees a part at a time."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """auto: bf16 on a GPU, fp32 on a CPU."""
    batch_norm: Literal["local", "sync", "split"] = "local"
    """Statistics of a rank's samples, of all ranks' samples, or of each group of a rank's samples."""
    batch_norm_groups: int = Field(default=8, ge=2)
    """Groups of batch_norm split; each is normalised as if it were a rank."""
    memory_format: Literal["auto", "contiguous", "channels_last"] = "auto"
    """Order of convolution weights in memory; auto: channels_last, the faster one, but contiguous with fsdp."""
    compile: bool = False
    """Compile the network with torch.compile: minutes at the start, faster steps."""
    sharding: Literal["none", "fsdp"] = "none"
    """fsdp: every rank holds a part of the parameters, for encoders that do not fit a device."""
    max_bad_steps: int = Field(default=10, ge=1)
    """Steps without finite gradients until the run ends."""
    check_ranks_every: int = Field(default=500, ge=1)
    """Steps between two checks that all ranks hold the same numbers."""
    log_every: int = Field(default=10, ge=1)
    """Steps between two lines of the log."""
    peak_tflops: float | None = Field(default=None, gt=0)
    """Peak of a rank's device, for the share of it that is used; null: known for some GPUs in bf16."""
    checkpoint: Keeping = Keeping()

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.sharding == "fsdp" and self.memory_format == "channels_last":
            raise ValueError("sharding fsdp takes contiguous weights only: leave memory_format at auto")
        return self

    def identity(self) -> dict[str, Any]:
        """Give what decides the result: everything but how it is read, computed, logged and saved."""
        return self.model_dump(mode="json", exclude=NO_RESULT)


NO_RESULT = {
    "reading", "memory_format", "compile", "sharding", "check_ranks_every", "log_every", "peak_tflops", "checkpoint",
    "watch",
}  # fmt: skip
"""Dials that change the result by rounding at most."""

Model = TypeVar("Model", bound=BaseModel)


def named_runs(package: str = "pretrain.runs") -> list[str]:
    """Give the names of the runs that come with a package."""
    files = resources.files(package).iterdir()
    return sorted(f.name.removesuffix(".yaml") for f in files if f.name.endswith(".yaml"))


def resolve(
    kind: type[Model],
    *,
    run: str | None = None,
    config: str | None = None,
    options: BaseModel | None = None,
    package: str = "pretrain.runs",
) -> Model:
    """Make a run: options given by the user over the file ``config`` over the named ``run`` over the defaults.

    Raises UsageError that names every wrong field, with the nearest right one.
    """
    values: dict[str, Any] = {}
    if run is not None:
        if run not in named_runs(package):
            known = ", ".join(named_runs(package))
            raise UsageError(f"no run {run!r}{_nearest(run, named_runs(package))}: the named runs are {known}")
        text = resources.files(package).joinpath(f"{run}.yaml").read_text()
        values = _merge(values, _parse(text, f"run {run}"))
    if config is not None:
        if not Path(config).is_file():
            raise UsageError(f"no configuration file {config}: expected a YAML file")
        values = _merge(values, _parse(Path(config).read_text(), config))
    if options is not None:
        values = _merge(values, options.model_dump(mode="json", exclude_unset=True))
    return validate(kind, values, config or run or "options")


def validate(kind: type[Model], values: Mapping[str, Any], name: str) -> Model:
    """Check plain values against a model. Raises UsageError with every fault."""
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        faults = "; ".join(_fault(kind, e["type"], e["loc"], e["msg"]) for e in error.errors())
        raise UsageError(f"{name}: {faults}") from error


def run_digest(run: Mapping[str, Any]) -> str:
    """Name a run: SHA-256 of everything in it that decides its result."""
    return digest(dict(run))


def _fault(kind: type[BaseModel], what: str, where: tuple[int | str, ...], message: str) -> str:
    path = ".".join(map(str, where))
    if what != "extra_forbidden":
        return f"{path}: {message}"
    return f"{path}: no such field{_nearest(str(where[-1]), _siblings(kind, where[:-1]))}"


def _siblings(kind: Any, where: tuple[int | str, ...]) -> list[str]:
    for name in where:
        field = getattr(kind, "model_fields", {}).get(str(name))
        kind = field.annotation if field else None
    return list(getattr(kind, "model_fields", {}))


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _parse(text: str, name: str) -> dict[str, Any]:
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{name} is not YAML: {error}") from error
    if not isinstance(data or {}, dict):
        raise UsageError(f"{name}: expected names and values, found {type(data).__name__}")
    return data or {}


def _merge(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(under)
    for name, value in over.items():
        below = merged.get(name)
        merged[name] = _merge(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged
