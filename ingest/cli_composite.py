"""The command ``ingest composite``."""

import json
import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from infra.command import say
from infra.errors import PartialError, UsageError
from infra.log import Steps


def composite(
    catalog: Path,
    /,
    *,
    out: str,
    bbox: Annotated[tuple[float, float, float, float], Parameter(negative="")],
    year: int,
    statistic: Literal["median", "mean"] = "median",
    spacing_m: Annotated[float, Parameter(validator=Number(gt=0))] = 10.0,
    epsg: int | None = None,
    polarisations: str = "VV,VH",
    recipe: str = "sarsense",
    ray_address: str | None = None,
    workers: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    json_out: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Reduce the scenes of a year over one area to seasons: a zarr store of season x orbit x polarisation.

    Scenes are geocoded to one UTM grid (the recipe's DEM, orbits and flattening apply). A second run makes only what
    is missing or has new scenes. Of an acquisition that was processed again the newest copy counts. build-sarsense
    cuts the store into tiles like any scene: list its path, or
    PATH#12 for the 12 bands VV/VH, VV, VH of the ascending passes.

    Args:
        catalog: what build-sarsense takes; scenes of other years and places do not count.
        out: where the store goes: a folder, file:///..., or s3://bucket/prefix, ending with .zarr.
        bbox: west south east north, degrees.
        year: winter begins in December of the year before.
        statistic: of each pixel over a season, in linear power.
        spacing_m: pixel size in metres.
        epsg: UTM zone as 326xx or 327xx (default: that of the middle of the box).
        polarisations: which ones, with commas.
        recipe: a named recipe or a YAML file: calibration, noise, speckle, DEM.
        ray_address: a running Ray cluster (default: RAY_ADDRESS, or this machine).
        workers: how many blocks at once (default: all CPUs).
        json_out: print the result as JSON.
    """
    from ingest.catalog import Product, read_catalog
    from ingest.composite import Request
    from ingest.composite import composite as make
    from ingest.composite_grid import CompositeGrid
    from ingest.recipe import load_recipe

    if not out.rstrip("/").endswith(".zarr"):
        raise UsageError(f"--out {out}: expected a name that ends with .zarr, by which build-sarsense knows it again")
    rules = load_recipe(recipe)
    grid = CompositeGrid.of_bbox(bbox, spacing_m, epsg)
    wanted = {"kind": "utm", "spacing_m": spacing_m, "epsg": grid.epsg}
    rules = rules.model_copy(update={"grid": rules.grid.model_copy(update=wanted)})
    names = tuple(dict.fromkeys(name.strip().upper() for name in polarisations.split(",") if name.strip()))
    if not names or not {*names} <= {"VV", "VH", "HH", "HV"}:
        raise UsageError(f"--polarisations {polarisations!r}: expected VV, VH, HH or HV, several with commas")
    listed = read_catalog(catalog, rules.shards.chips_per_unit)
    products = [source for unit in listed.units for source in unit.sources if isinstance(source, Product)]
    request = Request(out, grid, year, statistic, names, rules)
    with Steps("composite", 0, 1) as bar:

        def progress(what: str, done: int, total: int) -> None:
            bar.update(done, what, total)

        outcome = make(products, request, address=ray_address, workers=workers, progress=progress)
    rejects = [{"source": source, "reason": why} for source, why in listed.rejects] + list(outcome.rejects)
    rows, cols = grid.shape
    result = {
        "store": out,
        "grid": f"EPSG:{grid.epsg}, {rows} x {cols} pixels of {spacing_m:g} m",
        "scenes": outcome.scenes,
        "blocks": outcome.made,
        "resumed": outcome.resumed,
        "copies": len(outcome.copies),
        "rejects": len(rejects),
    }
    say(json.dumps(result) if json_out else "\n".join(f"{name:8} {value}" for name, value in result.items()))
    for reject in rejects[:20]:
        sys.stderr.write(f"  rejected {reject['source']}: {reject['reason']}\n")
    if rejects:
        raise PartialError(f"{len(rejects)} sources were rejected; the composite is made of the others")
