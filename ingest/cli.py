"""The ``ingest`` command: from products to a corpus."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from infra.command import command_app, run, say
from infra.errors import PartialError, SarsenseError
from ingest.cli_composite import composite
from ingest.cli_despeckle import despeckle
from ingest.cli_search import inspect, search

if TYPE_CHECKING:
    from ingest.catalog import Catalog
    from ingest.recipe import Recipe

app = command_app("ingest", "From raw radar products to calibrated tiles in shards.")
app.command(composite)
app.command(despeckle)
app.command(inspect)
app.command(search)


@app.command(name="build-sarsense")
def build_sarsense(
    catalog: Path,
    /,
    *,
    out: str | None = None,
    recipe: str = "sarsense",
    ray_address: str | None = None,
    workers: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    max_failures: str | None = None,
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    json_out: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Build a corpus from a catalog: shards, patch index, manifest and report.

    A product that cannot be used is set aside with its reason and the others go on (exit code 3). A second run
    takes up what an interrupted one left and tries again what was set aside.

    Args:
        catalog: a folder, a product, or a .csv (column path), GeoJSON / STAC item collection or stac-geoparquet file.
        out: where the corpus goes: a folder, file:///..., or s3://bucket/prefix.
        recipe: a named recipe or a YAML file.
        ray_address: a running Ray cluster (default: RAY_ADDRESS, or this machine).
        workers: how many units of work at once (default: all CPUs).
        max_failures: how many sources may be rejected, a number or a share (5%): up to that many the build counts as
            whole (exit code 0), with more it ends and publishes nothing (exit code 1).
        dry_run: show the plan and touch nothing.
        json_out: print the result as JSON.
    """
    from infra.errors import UsageError
    from ingest.catalog import read_catalog
    from ingest.recipe import load_recipe

    rules = load_recipe(recipe)
    listed = read_catalog(catalog, rules.shards.chips_per_unit)
    if dry_run:
        _show_plan(listed, rules, json_out)
        return
    if out is None:
        raise UsageError("--out says where the corpus goes: a folder, file:///..., or s3://bucket/prefix")
    _build(listed, out, rules, ray_address, workers, max_failures, json_out)


def _build(
    listed: "Catalog",
    url: str,
    rules: "Recipe",
    address: str | None,
    workers: int | None,
    max_failures: str | None,
    json_out: bool,
) -> None:
    from infra.log import Steps
    from ingest.build import build
    from ingest.quarantine import log_rejects

    with Steps("build", 0, len(listed.units)) as bar:
        outcome = build(
            listed,
            url,
            rules,
            address=address,
            workers=workers,
            max_failures=max_failures,
            progress=lambda done, tiles, bad: bar.update(done, f"{tiles:,} tiles, {bad} rejected"),
        )
    result = {
        "manifest": outcome.digest,
        "tiles": outcome.tiles,
        "units": outcome.units,
        "resumed": outcome.resumed,
        "rejects": len(outcome.rejects),
        "left_out": len(outcome.left_out),
        "report": f"{url.rstrip('/')}/report.html" if outcome.digest else None,
    }
    say(json.dumps(result) if json_out else "\n".join(f"{name:9} {value}" for name, value in result.items()))
    log_rejects(outcome.rejects)
    if outcome.digest is None:
        unwanted = f" and the recipe wants no tile of {len(outcome.left_out)}" if outcome.left_out else ""
        raise SarsenseError(f"nothing was stored: {len(outcome.rejects)} sources were rejected{unwanted}")
    if outcome.rejects and max_failures is None:
        failed = sum("trace" in reject for reject in outcome.rejects)
        bug = f" ({failed} of them by a fault of this program: please report what quarantine/ says)" if failed else ""
        raise PartialError(f"{len(outcome.rejects)} sources were rejected{bug}; the manifest holds the others")


def _show_plan(listed: "Catalog", rules: "Recipe", json_out: bool) -> None:
    from ingest.plan import plan_of

    plan = plan_of(listed, rules)
    say(json.dumps(plan) if json_out else _plan_text(plan))


def _plan_text(plan: dict[str, object]) -> str:
    rows = plan["units"]
    assert isinstance(rows, list)  # noqa: S101  (our own table)
    lines = [f"{'unit':<72} {'sources':>7} {'tiles <=':>9} {'MB <=':>9}"]
    lines += [f"{row['unit'][:72]:<72} {row['sources']:>7} {row['tiles']:>9,} {row['mb']:>9,.1f}" for row in rows]
    lines += [f"{'total':<72} {plan['sources']:>7} {plan['tiles']:>9,} {plan['mb']:>9,.1f}"]
    rejects = plan["rejects"]
    assert isinstance(rejects, list)  # noqa: S101
    return "\n".join([*lines, *(f"would reject {r['source']}: {r['reason']}" for r in rejects)])


@app.command
def simulate(
    kind: Literal["sentinel-1", "alos-2", "catalog"],
    folder: Path,
    /,
    *,
    rows: int = 1024,
    cols: int = 1536,
    seed: int = 0,
    lon: float = 9.0,
    lat: float = 45.0,
    scenes: int = 4,
) -> None:
    """Write simulated products with known truth, for tests and demonstrations.

    Args:
        kind: one Sentinel-1 IW GRD SAFE, one ALOS-2 L1.5 CEOS product, or a catalog of both.
        folder: where they go.
        rows: lines of a scene.
        cols: samples of a line.
        seed: what decides the land and the speckle.
        lon: longitude of the scene, degrees.
        lat: latitude of the scene, degrees.
        scenes: how many scenes a catalog holds.
    """
    from ingest.simulate import simulate_alos2, simulate_catalog, simulate_sentinel1

    folder.mkdir(parents=True, exist_ok=True)
    if kind == "sentinel-1":
        made = simulate_sentinel1(folder, rows=rows, cols=cols, seed=seed, lon=lon, lat=lat)
    elif kind == "alos-2":
        made = simulate_alos2(folder, rows=rows, cols=cols, seed=seed, lon=lon, lat=lat)
    else:
        made = simulate_catalog(folder, scenes=scenes, rows=rows, cols=cols, seed=seed)
    say(str(made))


@app.command
def recipes() -> None:
    """List the recipes that come with the package, with their digests."""
    from ingest.recipe import load_recipe, named_recipes

    say(*(f"{name:16} {load_recipe(name).digest[:16]}" for name in named_recipes()))


@app.command
def layouts(name: str | None = None, /) -> None:
    """List the layouts of public data sets, or print one: what ``layout: NAME`` in a chips.yaml stands for.

    Args:
        name: a layout to print.
    """
    from infra.errors import UsageError
    from ingest.chip_set import layouts as known_layouts

    known = known_layouts()
    if name is None:
        say(*known)
    elif name in known:
        say(known[name].rstrip())
    else:
        raise UsageError(f"no layout {name!r}: expected one of {', '.join(known)}")


def main() -> None:
    """Run the ``ingest`` command."""
    run(app)
