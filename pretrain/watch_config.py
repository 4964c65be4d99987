"""The dials of watching a run; none of them changes its result."""

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from pretrain.config import Frozen

Stage = Annotated[Literal[1, 2, 3, 4], BeforeValidator(int)]
"""A stage of the encoder; a command line gives it as text."""


def _server(uri: str) -> str:
    if re.search(r"//[^/]*@", uri):
        raise ValueError("it holds credentials, which would be stored with the run: give them by MLFLOW_TRACKING_*")
    if not re.match(r"(https?|sqlite|postgresql|mysql|mssql)(\+\w+)?:|databricks", uri):
        raise ValueError(
            "expected the URI of a server or data base, as http://host:5000 or sqlite:///runs.db (MLflow no longer"
            " keeps its file store)"
        )
    return uri


class WatchConfig(Frozen):
    """What is looked at while a run trains."""

    every: int = Field(default=0, ge=0)
    """Steps between two looks at features, queues and views; 0: none."""
    pictures: int = Field(default=4, ge=0)
    """Tiles whose views and boxes are drawn at each look."""
    probe: str | None = None
    """Labelled corpus for a nearest-neighbour probe at each look."""
    probe_of: Literal["cell", "tile"] = "cell"
    """What is classified: cells of the map, or whole tiles."""
    probe_stage: Stage = 4
    """Stage whose features are probed."""
    probe_k: int = Field(default=20, ge=1)
    """Neighbours that vote."""
    probe_tiles: int = Field(default=256, ge=2)
    """Labelled tiles that are read at most."""
    mlflow: Annotated[str, AfterValidator(_server)] | None = None
    """MLflow server that is told the numbers, too."""
    wandb: str | None = None
    """Weights & Biases project that is told the numbers, too."""
