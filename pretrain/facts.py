"""Everything known of an encoder that is to leave the project: its card, its run, its corpus."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from infra.errors import SarsenseError, UsageError
from infra.log import read_lines
from infra.store import NotFound, StoreError, open_store, split_object
from pretrain.encoder import ResNet
from pretrain.environment import read_starts
from pretrain.export import EncoderCard, load_encoder
from pretrain.run_folder import ENCODER, METRICS, Progress, read_run
from shards.manifest import Manifest, read_manifest

TOLD = ("loss", "match_instance", "spread_instance", "probe_accuracy", "probe_macro_f1", "probe_chance")
"""Numbers of the log that a model card repeats."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an encoder; run, numbers and manifest are empty or None where they cannot be read."""

    card: EncoderCard
    dials: Mapping[str, Any]
    numbers: Mapping[str, float]
    manifest: Manifest | None
    time: str | None
    licence: str

    @property
    def architecture(self) -> str:
        """The network's name in timm, torchvision and torchgeo."""
        return f"resnet{self.card.depth}"

    @property
    def name(self) -> str:
        """A name for files and catalogues: letters, digits, dashes."""
        return f"{self.architecture}-sar-{re.sub(r'[^a-z0-9]+', '-', self.card.method.lower())[:40].strip('-')}"

    @property
    def size_px(self) -> int:
        """Side of the views that the encoder learned on; 224 where the run is not known."""
        views = self.dials.get("views")
        size = views.get("size_px") if isinstance(views, dict) else None
        return size if isinstance(size, int) and 0 < size <= 65536 else 224

    @property
    def bands(self) -> list[str]:
        """Names of the input bands: polarisations where all scenes agree on them."""
        known = {s.polarisations for s in self.manifest.sources} if self.manifest else set()
        one = known.pop() if len(known) == 1 else ()
        if len(one) == self.card.bands and self.card.input.bands == self.card.bands:
            return list(one)
        return ["backscatter"] if self.card.bands == 1 else [f"backscatter_{n + 1}" for n in range(self.card.bands)]

    @property
    def zero_db(self) -> float:
        """Decibels that become 0."""
        spec = self.card.input
        return spec.lo_db + spec.mean * (spec.hi_db - spec.lo_db)

    @property
    def one_db(self) -> float:
        """Decibels of a step of 1."""
        return self.card.input.std * (self.card.input.hi_db - self.card.input.lo_db)

    def plain(self) -> dict[str, Any]:
        """Give what other programs need to feed the encoder, as plain data."""
        return {
            "card": self.card.model_dump(mode="json"),
            "bands": self.bands,
            "input": "decibels of backscatter (10 log10 of linear power), float32",
            "steps": [
                f"clip to {self.card.input.lo_db:g} .. {self.card.input.hi_db:g} dB",
                f"subtract {self.zero_db:.6g}, divide by {self.one_db:.6g}",
                "set pixels without measurement to 0",
            ],
        }


def gather(source: str, *, data: str | None, licence: str) -> tuple[ResNet, Facts]:
    """Read an encoder and all that can be found about it, from a run or from one encoder.safetensors.

    Raises UsageError where there is no encoder, or one that holds numbers that are not finite.
    """
    root, url = _place(source)
    try:
        encoder, card = load_encoder(url)
    except NotFound:
        raise UsageError(f"no encoder at {url}: expected a finished run or an encoder.safetensors of one") from None
    broken = [n for n, t in encoder.state_dict().items() if t.is_floating_point() and not t.isfinite().all()]
    if broken:
        raise UsageError(f"{url} holds numbers that are not finite ({broken[0]}): the run has diverged")
    run = _run(root, card)
    starts = read_starts(open_store(root)) if run else []
    where = data or next((str(s["data"]) for s in reversed(starts) if s.get("data")), None)
    dials = run.run.get("dials") if run else None
    time = str(starts[0]["at"]) if starts and starts[0].get("at") else None
    numbers = _numbers(root) if run else {}
    known = dials if isinstance(dials, dict) else {}
    return encoder, Facts(card, known, numbers, _manifest(where, card, asked=data is not None), time, licence)


def _place(source: str) -> tuple[str, str]:
    """Give the URL of the run's folder and of the encoder."""
    if source.endswith(".safetensors"):
        return split_object(source)[0], source
    run = read_run(source)
    if not run.encoder:
        raise UsageError(
            f"the run at {source} has not left an encoder yet:"
            f" it has done {run.last.get('step', -1) + 1} of {run.steps} steps"
        )
    return source, f"{source.rstrip('/')}/{ENCODER}"


def _run(root: str, card: EncoderCard) -> Progress | None:
    try:
        run = read_run(root)
    except (SarsenseError, StoreError, ValueError, KeyError, TypeError):
        return None
    return run if run.digest == card.run_digest else None


def _numbers(root: str) -> dict[str, float]:
    try:
        lines = read_lines(open_store(root), METRICS)
    except (StoreError, ValueError, KeyError, TypeError):
        return {}
    last = {name: value for line in lines for name, value in line.items()}
    return {n: float(last[n]) for n in TOLD if isinstance(last.get(n), int | float) and math.isfinite(last[n])}


def _manifest(url: str | None, card: EncoderCard, *, asked: bool) -> Manifest | None:
    """Read the corpus's manifest if it is at hand and the card's; one that was asked for and is not is refused."""
    if url is None:
        return None
    try:
        found = read_manifest(url)[1]
    except (SarsenseError, OSError):
        if asked:
            raise
        return None
    if found.digest == card.manifest_digest:
        return found
    if asked:
        raise UsageError(
            f"{url} is version {found.digest[:12]}, the encoder was trained on {card.manifest_digest[:12]}:"
            " give that version (--data CORPUS@VERSION)"
        )
    return None
