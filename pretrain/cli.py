"""The ``pretrain`` command."""

import json
from typing import Annotated, Literal

from cyclopts import Parameter

from infra.command import command_app, run, say
from infra.errors import PartialError
from pretrain.config import named_runs, resolve
from pretrain.di3cl_run import DI3CLRun

app = command_app("pretrain", "Self-supervised pre-training of encoders on a corpus of radar tiles.")

_DIALS = "Dials (options beat --config beats --run beats these defaults)"


@app.command
def di3cl(
    *,
    data: str,
    out: str,
    run: str | None = None,
    config: str | None = None,
    ranks: int = 1,
    ray_address: Annotated[str | None, Parameter(env_var="RAY_ADDRESS", show_env_var=False)] = None,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    threads: int | None = None,
    max_failures: int = 3,
    dials: Annotated[DI3CLRun | None, Parameter(name="*", group=_DIALS, negative_iterable=(), negative_none=())] = None,
) -> None:
    """Pre-train an encoder with DI3CL (Ren et al., arXiv 2511.07808).

    pretrain di3cl --data s3://bucket/corpus --out s3://bucket/run --run di3cl_laptop

    Started again with the same options it continues from the newest checkpoint in --out, at the same numbers.

    Args:
        data: corpus to read: its root URL or one version's manifest.
        out: where checkpoints, logs and encoder.safetensors go.
        run: a named run: di3cl_paper or di3cl_laptop.
        config: YAML file with dials.
        ranks: processes that train together; several run under Ray.
        ray_address: Ray cluster for several ranks (default: RAY_ADDRESS, or this machine).
        device: where tensors live.
        threads: CPU threads of a rank; default: its part of the cores.
        max_failures: how often a gang of ranks is started again.
        dials: what the run is made of.
    """
    resolved = resolve(DI3CLRun, run=run, config=config, options=dials)

    from pretrain.launch import Job, default_threads, launch

    job = Job("di3cl", resolved, data, out, device, threads or default_threads(ranks))
    summary = launch(job, ranks=ranks, address=ray_address if ranks > 1 else None, max_failures=max_failures)
    if summary is not None and not summary.finished:
        raise PartialError(
            f"stopped at step {summary.step} of {resolved.steps}, the checkpoint is in {out};"
            " the same command continues from there"
        )
    say(f"{out.rstrip('/')}/encoder.safetensors")


@app.command
def runs() -> None:
    """List the named runs that come with the package."""
    say(*named_runs())


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
