"""The ``pretrain`` command."""

import json
from collections.abc import Callable
from typing import Annotated, Literal

from cyclopts import Group, Parameter
from pydantic import Field

from infra.command import command_app, run, say
from infra.errors import PartialError
from pretrain.cli_report import export, report
from pretrain.config import Frozen, named_runs, resolve
from pretrain.methods import RUNS, TITLES, check_method, describe_run, method_of
from pretrain.pair_run import PairRun

app = command_app("pretrain", "Self-supervised pre-training of encoders on a corpus of radar tiles.")

_METHODS = Group("Methods", sort_key=0)
_DIALS = Parameter(
    name="*",
    group="Dials (options beat --config beats --run beats these defaults)",
    negative_iterable=(),
    negative_none=(),
)


class Start(Frozen):
    """What every method's command takes beside its dials."""

    data: str
    """Corpus to read: its root URL or one version's manifest."""
    out: str
    """Where checkpoints, logs and encoder.safetensors go."""
    run: str | None = None
    """A named run of this method; `pretrain runs` lists them."""
    config: str | None = None
    """YAML file with dials."""
    ranks: str = "1"
    """Processes that train together, under Ray where there are several: 4, or 2..4 as there is room."""
    ray_address: Annotated[str | None, Parameter(env_var="RAY_ADDRESS", show_env_var=False)] = None
    """Ray cluster for several ranks (default: RAY_ADDRESS, or this machine)."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where tensors live."""
    threads: int | None = None
    """CPU threads of a rank; default: its part of the cores."""
    max_failures: int = Field(default=3, ge=0)
    """How often a gang of ranks is started again."""
    timeout_s: float = Field(default=120, gt=0)
    """A rank that waits longer than this for the others gives them up."""


def _command(method: str) -> Callable[..., None]:
    """Make a method's command: all differ in their dials only."""

    def train(*, start: Annotated[Start, Parameter(name="*", negative_none=())], dials: PairRun | None = None) -> None:
        _train(method, start, dials)

    train.__annotations__["dials"] = Annotated[RUNS[method] | None, _DIALS]
    train.__doc__ = f"""Pre-train with {TITLES[method]}.

    pretrain {method} --data s3://bucket/corpus --out s3://bucket/run --run {method}_laptop

    Started again with the same options it continues from the newest checkpoint in --out, at the same numbers.
    """
    return train


def _train(method: str, start: Start, dials: PairRun | None) -> None:
    check_method(method, start.run)
    resolved = resolve(RUNS[method], run=start.run, config=start.config, options=dials)

    from pretrain.launch import Job, default_threads, launch

    threads = start.threads or default_threads(start.ranks)
    job = Job(method, resolved, start.data, start.out, start.device, threads)
    summary = launch(
        job,
        ranks=start.ranks,
        address=None if start.ranks == "1" else start.ray_address,
        max_failures=start.max_failures,
        timeout_s=start.timeout_s,
    )
    if summary is not None and not summary.finished:
        raise PartialError(
            f"stopped at step {summary.step} of {resolved.steps}, the checkpoint is in {start.out};"
            " the same command continues from there"
        )
    say(f"{start.out.rstrip('/')}/encoder.safetensors")


for _method in RUNS:
    app.command(_command(_method), name=_method, group=_METHODS)


@app.command
def runs() -> None:
    """List the named runs that come with the package: name, method, and what each is."""
    names = named_runs()
    wide, method = max(map(len, names)), max(map(len, RUNS))
    say(*(f"{name:<{wide}}  {method_of(name):<{method}}  {describe_run(name)}" for name in names))


app.command(report)
app.command(export)


@app.command
def show(run_url: str, /, *, as_json: Annotated[bool, Parameter(name="--json", negative=())] = False) -> None:
    """Show what a run is and how far it has come.

    Args:
        run_url: what was given to --out.
        as_json: print JSON.
    """
    from pretrain.run_folder import read_run

    found = read_run(run_url)
    say(json.dumps(found.plain(), indent=1) if as_json else found.text())


def main() -> None:
    """Run the ``pretrain`` command."""
    run(app)
