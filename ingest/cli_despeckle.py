"""The command ``ingest despeckle``."""

import json
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from infra.command import say

if TYPE_CHECKING:
    from ingest.despeckle_file import Progress
    from ingest.recipe import SpeckleRules

Kind = Literal[
    "none", "boxcar", "lee", "enhanced-lee", "refined-lee", "lee-sigma", "kuan", "frost", "enhanced-frost",
    "gamma-map", "multitemporal",
]  # fmt: skip


def despeckle(
    *paths: Path,
    out: Path | None = None,
    kind: Kind = "refined-lee",
    size: int = 7,
    looks: float | Literal["estimate"] | None = None,
    damping: float = 1.0,
    sigma: float = 0.9,
    values: Literal["power", "amplitude", "db"] | None = None,
    nodata: float | None = None,
    compress: Literal["deflate", "zstd", "lzw", "none"] = "deflate",
    threads: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    json_out: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Smooth the speckle of any GeoTIFF: `ingest despeckle IN.tif OUT.tif`, all bands, by blocks.

    Filters work on linear power; amplitude and decibels are converted and back. The result is a tiled float32 GeoTIFF
    with the place, names and no-data value of its source. `--kind multitemporal A.tif B.tif ... --out FOLDER`
    filters co-registered images by one another (Quegan & Yu 2001).

    Args:
        paths: the input and the output; for multitemporal all inputs.
        out: the output, in place of a second path; for multitemporal the folder of the results.
        kind: the filter.
        size: side of the window in pixels, odd.
        looks: equivalent number of looks, about 4.4 for IW GRDH; without it, or with "estimate", measured.
        damping: of Frost and the enhanced filters: more keeps more detail (Orfeo ToolBox's deramp, there 0.1).
        sigma: of Lee sigma: 0.5, 0.6, 0.7, 0.8 or 0.9 of the speckle's distribution are averaged.
        values: what the numbers are (default: power; files of integers need it said).
        nodata: replaces the no-data value that the file declares.
        compress: of the result.
        threads: of the filter and the compression (default: all CPUs).
        json_out: print the result as JSON.
    """
    from ingest.despeckle_file import Output, despeckle_file, despeckle_stack
    from ingest.threads import thread_count

    how = Output(compress, threads or thread_count())
    with _progress() as progress:
        if kind == "multitemporal":
            targets = despeckle_stack(paths, _folder(out), size, values, nodata, how, progress)
            result: dict[str, object] = {"kind": kind, "size": size, "out": [str(target) for target in targets]}
        else:
            source, target = _one(paths, out)
            rules = _rules(kind, size, looks, damping, sigma)
            used = despeckle_file(source, target, rules, values, nodata, how, progress)
            result = {"kind": kind, "size": size, "looks": None if math.isnan(used) else used, "out": str(target)}
    say(json.dumps(result) if json_out else "\n".join(f"{name:6} {value}" for name, value in result.items()))


@contextmanager
def _progress() -> "Iterator[Progress]":
    """Give what shows blocks as they are done; how many there are is known with the first."""
    from infra.log import Steps

    with ExitStack() as stack:
        bars: list[Steps] = []

        def show(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(Steps("despeckle", 0, total)))
            bars[0].update(done, "blocks")

        yield show


def _folder(out: Path | None) -> Path:
    from infra.errors import UsageError

    if out is None:
        raise UsageError("--out says in which folder the filtered images go")
    return out


def _one(paths: tuple[Path, ...], out: Path | None) -> tuple[Path, Path]:
    from infra.errors import UsageError

    both = paths if out is None else (*paths, out)
    if len(both) != 2:
        raise UsageError(f"{len(both)} paths: expected one input and one output (only multitemporal takes more)")
    return both[0], both[1]


def _rules(
    kind: Kind, size: int, looks: float | Literal["estimate"] | None, damping: float, sigma: float
) -> "SpeckleRules":
    from pydantic import ValidationError

    from infra.errors import UsageError
    from ingest.recipe import SpeckleRules

    try:
        return SpeckleRules.model_validate(
            {"kind": kind, "size": size, "looks": looks, "damping": damping, "sigma": sigma}
        )
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'filter'}: {e['msg']}" for e in error.errors())
        raise UsageError(faults) from error
