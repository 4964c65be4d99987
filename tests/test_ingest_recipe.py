"""A recipe is a value with a name; a typo in it is refused."""

from pathlib import Path

import pytest

from infra.errors import UsageError
from ingest.recipe import Recipe, SpeckleRules, TileRules, load_recipe, named_recipes


def test_named_recipes_are_what_they_say() -> None:
    assert named_recipes() == ["sarsense", "sarsense-lee", "sarsense-small"]
    assert load_recipe("sarsense") == Recipe()
    assert load_recipe("sarsense-small").shards.codec == "blosc2"
    assert load_recipe("sarsense-lee").pixels.speckle == SpeckleRules(kind="refined-lee")


def test_pixels_have_a_name_apart_from_tiling() -> None:
    small = Recipe(tiles=TileRules(size=128))
    assert small.digest != Recipe().digest
    assert small.pixels_digest == Recipe().pixels_digest
    assert load_recipe("sarsense-lee").pixels_digest != Recipe().pixels_digest


def test_pixels_digest_is_frozen() -> None:
    assert Recipe().pixels_digest[:16] == "16588a654326a19d"


def test_faults_are_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("tiles: {size: 4, sice: 9}\n")
    with pytest.raises(UsageError, match=r"tiles\.size: .*greater than or equal to 8.*; tiles\.sice: Extra"):
        load_recipe(str(file))
    file.write_text("tiles: [")
    with pytest.raises(UsageError, match="is not YAML"):
        load_recipe(str(file))
    with pytest.raises(UsageError, match="no recipe 'sarsens': expected a YAML file or one of: sarsense,"):
        load_recipe("sarsens")
