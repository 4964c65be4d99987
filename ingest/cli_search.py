"""The commands that look: ``search`` finds products, ``inspect`` shows one."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from infra.command import say
from infra.errors import SarsenseError, UsageError

if TYPE_CHECKING:
    from ingest.search import Found
    from ingest.search_query import Query


def search(
    *,
    out: Path,
    stac: str | None = None,
    collection: Annotated[tuple[str, ...] | None, Parameter(negative_iterable="")] = None,
    asf: Annotated[bool, Parameter(negative="")] = False,
    bbox: Annotated[tuple[float, float, float, float] | None, Parameter(negative_iterable="")] = None,
    intersects: Path | None = None,
    start: str | None = None,
    end: str | None = None,
    mode: str | None = None,
    polarisation: str | None = None,
    product: Literal["GRD", "SLC"] | None = None,
    platform: str | None = None,
    orbit: Literal["ascending", "descending"] | None = None,
    limit: Annotated[int, Parameter(validator=Number(gte=1))] = 10_000,
    asf_host: Annotated[str, Parameter(show=False)] = "cmr.earthdata.nasa.gov",
    timeout_s: Annotated[float, Parameter(validator=Number(gt=0))] = 60.0,
    json_out: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Search a STAC API or the ASF archive and write what is found as a catalog.

    The catalog is ordered by time; copies of one acquisition that were processed again since are marked
    `sarsense:superseded_by`, the newest stands first. It holds no signed URLs and no credentials. Products at https://
    have to be downloaded; build-sarsense finds them beside the catalog.

    Args:
        out: the catalog: .json (STAC item collection), .parquet (stac-geoparquet) or .csv.
        stac: URL of a STAC API.
        collection: a collection of the STAC API; may be given several times.
        asf: search the archive of the Alaska Satellite Facility.
        bbox: west south east north, degrees.
        intersects: a GeoJSON file with the area.
        start: first day or time (ISO 8601, UTC).
        end: last day or time; a day counts whole.
        mode: IW, EW, WV, SM (several with commas).
        polarisation: VV, VH, HH, HV; several with commas, all of them wanted.
        product: ground range detected or single look complex.
        platform: S1A, S1B, S1C, S1D, ALOS-2 (several with commas).
        orbit: direction of flight.
        limit: take at most so many, in the server's order.
        asf_host: the CMR server.
        timeout_s: seconds to wait for an answer, before it is asked for again.
        json_out: print the result as JSON.
    """
    from ingest.catalog_write import check_target, write_catalog
    from ingest.search_query import make_query

    if (stac is None) is not asf:
        raise UsageError("say where to search: --stac URL --collection NAME, or --asf")
    check_target(out)
    query = make_query(
        bbox=bbox,
        intersects=intersects,
        start=start,
        end=end,
        mode=mode,
        polarisation=polarisation,
        product=product,
        platform=platform,
        orbit=orbit,
        limit=limit,
    )
    found = _find(stac, collection or (), query, asf_host, timeout_s)
    if not found.items:
        raise SarsenseError(f"nothing was found{_left_out(found)}; {out} is not written")
    write_catalog(found.items, out)
    result = {"catalog": str(out), "items": len(found.items), "matched": found.matched, "superseded": found.superseded}
    sys.stderr.write(_said(found) + "\n")
    say(json.dumps(result) if json_out else str(out))


def _find(url: str | None, collections: tuple[str, ...], query: "Query", host: str, timeout_s: float) -> "Found":
    from infra.log import Steps

    bars: list[Steps] = []
    with ExitStack() as stack:

        def progress(taken: int, matched: int | None) -> None:
            if not bars:  # only now the server has said how many there are
                bars.append(stack.enter_context(Steps("search", 0, min(matched or query.limit, query.limit))))
            bars[0].update(taken)

        if url is not None:
            from ingest.search_stac import search_stac

            return search_stac(url, collections, query, progress, timeout_s=timeout_s)
        from ingest.search_asf import search_asf

        return search_asf(query, progress, host=host, timeout_s=timeout_s)


def _said(found: "Found") -> str:
    total = f" of {found.matched:,} at that place and time" if found.matched is not None else ""
    more = "; there are more (--limit)" if found.cut else ""
    old = f"; {found.superseded:,} of them superseded by newer processing" if found.superseded else ""
    return f"found {len(found.items):,}{total}{_left_out(found)}{old}{more}"


def _left_out(found: "Found") -> str:
    left = ", ".join(f"{count:,} by {option}" for option, count in sorted(found.left_out.items()))
    return f" (left out: {left})" if left else ""


def inspect(
    product: str,
    /,
    *,
    png: Path | None = None,
    recipe: str | None = None,
    json_out: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Show what a product is, what was read of it, statistics of its bands and what to beware of.

    Some of its lines are read and calibrated, as the recipe says but without its speckle filter. The picture is in the
    product's own geometry: VV, VH and their ratio in red, green and blue, or one band in grey, in decibels.

    Args:
        product: a Sentinel-1 or ALOS-2 product (folder, archive, s3://...), X.SAFE#IW2 for one of its scenes, or
            chips.yaml#STEM for a chip.
        png: write a quicklook there.
        recipe: a named recipe or a YAML file that says what power is (default: sigma0 without thermal noise).
        json_out: print everything as JSON.
    """
    from ingest.inspect import inspect as look_at
    from ingest.inspect import lines_of
    from ingest.quicklook import picture
    from ingest.recipe import load_recipe

    if png is not None and (png.suffix.lower() != ".png" or not png.resolve().parent.is_dir()):
        raise UsageError(f"--png {png}: expected a name that ends in .png, in a folder that exists")
    found = look_at(product, load_recipe(recipe).pixels if recipe else None)
    if png is not None:
        png.write_bytes(picture(found.look))
    say(*([json.dumps(found.as_json())] if json_out else lines_of(found)))
