"""The classes of a label raster, and how its stored values or colours become class ids."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from infra.errors import UsageError
from ingest.scene import SceneRejected

UNLABELLED = 255
"""The class id of a pixel that has no label."""


def parse_colour(value: Any) -> Any:
    """Give red, green, blue of ``#rrggbb``; everything else stays as it is."""
    if not isinstance(value, str):
        return value
    digits = value.removeprefix("#")
    if len(digits) != 6 or value == digits:
        raise ValueError(f"{value!r} is not a colour, expected #rrggbb")
    return tuple(bytes.fromhex(digits))


def several(value: Any) -> Any:
    """Take one number or string for a list of one."""
    return [value] if isinstance(value, int | str) else value


def check_value(value: Any) -> Any:
    """Refuse a string that is not a colour."""
    if isinstance(value, str):
        parse_colour(value)
    return value


Level = Annotated[int, Field(ge=0, le=255)]
Colour = Annotated[tuple[Level, Level, Level], BeforeValidator(parse_colour)]
Value = int | str
"""What a label raster holds for a class: a number, or a colour written ``#rrggbb``."""


class LandClass(BaseModel):
    """One class: its id in tiles and maps, its name, its colour as (red, green, blue) or ``#rrggbb``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int = Field(ge=0, lt=UNLABELLED)
    name: str = Field(min_length=1)
    colour: Colour


class Legend(BaseModel):
    """The classes of a data set. ``background`` is the id that a mean over classes may leave out.

    ``ignore`` lists the values or colours of pixels without label; it tells how to read rasters and is not
    part of what the corpus records.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[LandClass, ...] = Field(min_length=2)
    background: int | None = None
    ignore: Annotated[tuple[Annotated[Value, BeforeValidator(check_value)], ...], BeforeValidator(several)] = Field(
        (), exclude=True
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for what in ("id", "name", "colour"):
            values = [getattr(c, what) for c in self.classes]
            if twice := sorted({str(v) for v in values if values.count(v) > 1}):
                raise ValueError(f"class {what} given twice: {', '.join(twice)}")
        if self.background is not None and self.background not in self.ids:
            raise ValueError(f"background {self.background} is not one of the class ids {sorted(self.ids)}")
        return self

    @model_serializer(mode="wrap")
    def _without_nothing(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = serialise(self)
        return {name: value for name, value in data.items() if value is not None}

    @property
    def ids(self) -> frozenset[int]:
        """The class ids."""
        return frozenset(c.id for c in self.classes)


def read_legend(path: Path) -> Legend:
    """Read a legend from a JSON or YAML file. Raises UsageError with every wrong field."""
    try:
        text = path.read_text()
        return Legend.model_validate(json.loads(text) if path.suffix.lower() == ".json" else yaml.safe_load(text))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UsageError(f"legend {path}: {faults(error)}") from error


def faults(error: Exception) -> str:
    """Say in one line what is wrong with a file's content, field by field."""
    if not isinstance(error, ValidationError):
        return str(error)
    return "; ".join(f"{'.'.join(map(str, e['loc'])) or 'file'}: {e['msg']}" for e in error.errors())


@dataclass(frozen=True, slots=True)
class LabelRule:
    """How values become class ids: by number and by colour (red << 16 | green << 8 | blue). 255 is unlabelled."""

    numbers: Mapping[int, int]
    colours: Mapping[int, int]

    @classmethod
    def of(cls, legend: Legend | None, given: Mapping[Value, int] | None, ignore: tuple[Value, ...]) -> Self:
        """Combine a legend, a map from values to class ids that goes before it, and the values that are no label.

        A value that the map names is what the map says, also 255.
        """
        numbers, colours = _known(legend) if given is None else ({}, {})
        unlabelled = dict.fromkeys((UNLABELLED, *ignore, *(legend.ignore if legend else ())), UNLABELLED)
        for value, class_id in {**unlabelled, **(given or {})}.items():
            if isinstance(value, str):
                colours[_code(parse_colour(value))] = class_id
            else:
                numbers[value] = class_id
        return cls(numbers, colours)

    def of_numbers(self, values: NDArray[Any], name: str) -> NDArray[np.uint8]:
        """Give class ids (uint8) of stored numbers of any type; NaN is unlabelled. Raises SceneRejected."""
        return _translate(values, self.numbers, name, "{}")

    def of_colours(self, values: NDArray[np.uint8], name: str) -> NDArray[np.uint8]:
        """Give class ids (rows, cols) uint8 of (3, rows, cols) colours. Raises SceneRejected for an unknown one."""
        red, green, blue = values.astype(np.int32)
        return _translate(red << 16 | green << 8 | blue, self.colours, name, "#{:06x}")


def _code(colour: tuple[int, int, int]) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue


def _known(legend: Legend | None) -> tuple[dict[int, int], dict[int, int]]:
    """Give a legend's ids and colours; without a legend every number is its own class id."""
    if legend is None:
        return {i: i for i in range(UNLABELLED)}, {}
    return {c.id: c.id for c in legend.classes}, {_code(c.colour): c.id for c in legend.classes}


def _translate(values: NDArray[Any], table: Mapping[int, int], name: str, written: str) -> NDArray[np.uint8]:
    found, place = np.unique(values, return_inverse=True)
    class_ids = np.full(len(found), UNLABELLED, np.uint8)
    for i, value in enumerate(found.tolist()):
        if value != value:  # NaN
            continue
        if value not in table:
            raise SceneRejected(
                f"{name} holds the label {written.format(value)}, which neither the legend nor the label map knows: "
                "add it there, or to the ignored values"
            )
        class_ids[i] = table[value]
    return class_ids[place].reshape(values.shape)
