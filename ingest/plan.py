"""What a build would do, from metadata alone."""

from typing import Any

from ingest.catalog import Catalog, Product, Unit
from ingest.duplicates import Copy, copy_of, group_copies
from ingest.quarantine import Reject
from ingest.recipe import Recipe
from ingest.scene import SceneRejected
from ingest.tiling import windows
from ingest.work import open_source


def plan_of(catalog: Catalog, recipe: Recipe) -> dict[str, Any]:
    """Give units with an upper bound of their tiles and megabytes, totals, what would be rejected on opening, and
    which copies would be left out.
    """
    rejects = [{"source": name, "reason": why} for name, why in catalog.rejects]
    found: list[Copy] = []
    units = [_unit(unit, recipe, rejects, found) for unit in catalog.units]
    copies = group_copies(found)
    units = [unit for unit in units if unit["unit"] not in copies.needless()]
    left_out = list(copies.dropped({unit["unit"] for unit in units}))
    totals = {name: sum(unit[name] for unit in units) for name in ("sources", "tiles", "mb")}
    return {"recipe": recipe.digest, "units": units, **totals, "rejects": rejects, "left_out": left_out}


def _unit(unit: Unit, recipe: Recipe, rejects: list[Reject], copies: list[Copy]) -> dict[str, Any]:
    tiles, size = 0, 0
    for source in unit.sources:
        try:
            with open_source(source, recipe) as scene:
                info = scene.info
        except SceneRejected as error:
            rejects.append({"source": unit.name, "reason": str(error)})
            continue
        if isinstance(source, Product) and (copy := copy_of(unit, source, info)):
            copies.append(copy)
        count = sum(1 for _ in windows(info.shape, recipe.tiles))  # none dropped yet
        count = min(count, recipe.sampling.max_tiles_per_scene or count)
        tiles += count
        size += count * len(info.polarisations) * 2 * recipe.tiles.size**2
    return {"unit": unit.name, "sources": len(unit.sources), "tiles": tiles, "mb": size / 1e6}
