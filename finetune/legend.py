"""What the classes of a map are: ids, names, colours, and which of them is only background."""

from collections.abc import Mapping
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from infra.errors import UsageError

IGNORED = 255
"""The label of a pixel that nobody labelled, and the value of a map pixel without measurement."""

Level = Annotated[int, Field(ge=0, le=255)]


class LandClass(BaseModel):
    """One class: its id in label rasters and maps, its name, its colour as red, green, blue."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: int = Field(ge=0, lt=IGNORED)
    name: str = Field(min_length=1)
    colour: tuple[Level, Level, Level]


class Legend(BaseModel):
    """The classes in the order of a network's outputs; ids need not be consecutive.

    ``background`` is the id of the class that a mean over classes may leave out (land beside water, ...), or None.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    classes: tuple[LandClass, ...] = Field(min_length=2)
    background: int | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for what in ("id", "name"):
            values = [getattr(c, what) for c in self.classes]
            if twice := sorted({str(v) for v in values if values.count(v) > 1}):
                raise ValueError(f"class {what} given twice: {', '.join(twice)}")
        if self.background is not None and self.background not in self.ids:
            raise ValueError(f"background {self.background} is not one of the class ids {list(self.ids)}")
        return self

    @property
    def ids(self) -> tuple[int, ...]:
        """Class ids in output order."""
        return tuple(c.id for c in self.classes)

    @property
    def names(self) -> tuple[str, ...]:
        """Class names in output order."""
        return tuple(c.name for c in self.classes)

    @property
    def background_output(self) -> int | None:
        """The output number of the background class, or None."""
        return None if self.background is None else self.ids.index(self.background)

    def to_output(self, label: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn class ids (any shape) into output numbers; 255 stays 255. Raises UsageError for an unknown id."""
        table = np.full(256, IGNORED, np.uint8)
        table[list(self.ids)] = np.arange(len(self.ids), dtype=np.uint8)
        known = np.zeros(256, bool)
        known[[*self.ids, IGNORED]] = True
        if not known[label].all():
            strange = sorted({int(v) for v in np.unique(label) if not known[v]})
            raise UsageError(
                f"labels hold the ids {strange}, but the legend has {list(self.ids)} (255 is unlabelled): "
                "correct the legend of the corpus or the label rasters"
            )
        return table[label]

    def to_id(self, output: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Turn output numbers (any shape) into class ids; 255 stays 255."""
        table = np.full(256, IGNORED, np.uint8)
        table[: len(self.ids)] = self.ids
        return table[output]

    def colours(self) -> NDArray[np.uint8]:
        """Red, green, blue by class id, (256, 3) uint8; ids without a class are black."""
        table = np.zeros((256, 3), np.uint8)
        table[list(self.ids)] = [c.colour for c in self.classes]
        return table


def read_legend(data: Mapping[str, Any] | None, corpus: str) -> Legend:
    """Check the legend of a manifest. Raises UsageError naming the corpus where there is none or it is wrong."""
    if data is None:
        raise UsageError(
            f"corpus {corpus} has no legend: it was built without labels. "
            "Build it from scenes with label rasters and a legend file"
        )
    try:
        return Legend.model_validate(data)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise UsageError(f"legend of corpus {corpus}: {faults}") from error
