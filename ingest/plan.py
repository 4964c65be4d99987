"""What a build would do, from metadata alone."""

from typing import Any

from ingest.catalog import Catalog, Unit
from ingest.recipe import Recipe
from ingest.scene import SceneRejected
from ingest.tiling import windows
from ingest.work import open_source


def plan_of(catalog: Catalog, recipe: Recipe) -> dict[str, Any]:
    """Give units with an upper bound of their tiles and megabytes, totals, and what would be rejected on opening."""
    rejects = [{"source": name, "reason": why} for name, why in catalog.rejects]
    units = [_unit(unit, recipe, rejects) for unit in catalog.units]
    totals = {name: sum(unit[name] for unit in units) for name in ("sources", "tiles", "mb")}
    return {"recipe": recipe.digest, "units": units, **totals, "rejects": rejects}


def _unit(unit: Unit, recipe: Recipe, rejects: list[dict[str, str]]) -> dict[str, Any]:
    tiles, size = 0, 0
    for source in unit.sources:
        try:
            with open_source(source, recipe) as scene:
                count = sum(1 for _ in windows(scene.info.shape, recipe.tiles))  # none dropped yet
                tiles += count
                size += count * len(scene.info.polarisations) * 2 * recipe.tiles.size**2
        except SceneRejected as error:
            rejects.append({"source": unit.name, "reason": str(error)})
    return {"unit": unit.name, "sources": len(unit.sources), "tiles": tiles, "mb": size / 1e6}
