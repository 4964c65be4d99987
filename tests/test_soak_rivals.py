"""Two builds into one place: whoever comes second changes nothing of the first one's."""

import json
from pathlib import Path

import numpy as np
import pytest
from corpora import make_corpus
from PIL import Image

from infra import cluster
from infra.errors import ConflictError
from ingest.build import build
from ingest.catalog import read_catalog
from ingest.recipe import Recipe


@pytest.fixture
def chips(tmp_path: Path) -> Path:
    """Two chips that are good and one that is not."""
    folder, noise = tmp_path / "chips", np.random.default_rng(0)
    folder.mkdir()
    for number in range(2):
        Image.fromarray(noise.integers(1, 255, (256, 256), np.uint8)).save(folder / f"chip_{number}.png")
    (folder / "chip_2.png").write_bytes(b"nonsense")
    (folder / "chips.yaml").write_text(
        "name: plain\nimage: '*.png'\npolarisations: [VH]\nquantity: amplitude\noffset_db: -50.0\n"
    )
    return folder


def test_an_overtaken_build_leaves_report_and_quarantine_of_the_winner_alone(chips: Path, tmp_path: Path) -> None:
    catalog, out = read_catalog(chips, 16), tmp_path / "out"

    def other_publishes(done: int, tiles: int, rejects: int) -> None:
        store, _ = make_corpus(str(out), (2,))
        store.put("report.html", b"of the other one")
        store.put("quarantine/other.json", b"{}")

    with cluster.session(cpus=2):
        with pytest.raises(ConflictError, match="another build published"):
            build(catalog, str(out), Recipe(), progress=other_publishes)
        kept = {path.relative_to(out).as_posix(): path.read_bytes() for path in out.rglob("*") if path.is_file()}
        assert kept["report.html"] == b"of the other one"
        assert [name for name in kept if name.startswith("quarantine/")] == ["quarantine/other.json"]

        outcome = build(catalog, str(out), Recipe())  # after the other one, not against it
    assert (outcome.tiles, len(outcome.rejects), outcome.digest) == (2, 1, json_digest(out))
    assert str(outcome.digest) in (out / "report.html").read_text()
    (reject,) = (json.loads(path.read_bytes()) for path in (out / "quarantine").iterdir())
    assert "chip_2" in reject["reason"]
    assert sorted(path.name for path in (out / "heads").iterdir()) == ["00000001.json", "00000002.json"]


def json_digest(out: Path) -> str:
    return str(json.loads((out / "heads/00000002.json").read_bytes())["digest"])
