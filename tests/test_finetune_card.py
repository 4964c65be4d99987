"""The text that goes with a model says what the run did, in its own numbers."""

import pytest
from labelled_corpus import LEGEND, PIXELS_DIGEST, SCALE, build

from finetune.card import card_text
from finetune.config import DecoderConfig, FinetuneRun, LossConfig, TargetConfig, TaskConfig
from finetune.legend import Legend
from finetune.metrics import Spread, over_seeds
from finetune.model import ModelCard
from pretrain.config import InputSpec
from pretrain.export import EncoderCard


def made(task: TaskConfig, scores: list[dict[str, float | None]], **change) -> str:
    corpus = build("memory://card")
    encoder = EncoderCard(
        method="di3cl",
        depth=50,
        bands=2,
        input=InputSpec(bands=2, lo_db=-30, hi_db=5),
        scale=SCALE,
        pixels_digest=PIXELS_DIGEST,
        manifest_digest="8" * 64,
        run_digest="9" * 64,
        step=1234,
    )
    card = ModelCard(
        task=task,
        encoder=encoder,
        encoder_url="s3://bucket/encoder.safetensors",
        encoder_digest="7" * 64,
        legend=Legend.model_validate(LEGEND),
        decoder=DecoderConfig(),
        crop_px=128,
        pixels_digest=PIXELS_DIGEST,
        manifest_digest=corpus.manifest.digest,
        run_digest="6" * 64,
        seed=4,
        trained_on=("alpha", "beta"),
        held_out=("delta-held",),
        scores=scores[0],
    )
    spread = {name: {"mean": s.mean, "std": s.std, "runs": s.runs} for name, s in over_seeds(scores).items()}
    run = FinetuneRun(task=task, steps=77, batch=6, **change)
    record = {"summary": spread, "seeds": [{"seed": 4 + n} for n in range(len(scores))], "run": run.model_dump()}
    return card_text(card, record, corpus.manifest)


def test_a_segmentation_in_numbers():
    one = {"miou": 0.5, "f1/land": 0.8, "f1/water": 0.6, "iou/land": 0.7, "iou/water": None}
    two = one | {"miou": 0.7, "f1/water": 0.7}
    text = made(TaskConfig(), [one, two], loss=LossConfig(cross_entropy=0, focal=0.5, dice=0.5))
    assert over_seeds([one, two])["miou"] == Spread(0.6, pytest.approx(0.1414, abs=1e-4), 2)
    for line in (
        "# SAR segmentation of pixels, ResNet-50, run 666666666666",
        "Classes: land, water. Background: land.",
        "Held out: delta-held. Mean ± sample standard deviation over 2 seeds.",
        "| miou | 60 ± 14.14 % |",
        "| class | f1 | iou |",
        "| land | 80 ± 0 % | 70 ± 0 % |",
        "| water | 65 ± 7.071 % | - |",
        f"started from s3://bucket/encoder.safetensors (SHA-256 {'7' * 64}). It reads 2 bands from -30 to 5 dB.",
        f"Pretraining run {'9' * 64}, 1234 steps, on manifest {'8' * 64}.",
        f"recipe {'b' * 64}, pixels {PIXELS_DIGEST}.",
        "| alpha | sentinel-1 | VV VH | 2020-01-01T00:00:00Z | training |",
        "| delta-held | sentinel-1 | VV VH | 2020-01-01T00:00:00Z | held out |",
        f"Run {'6' * 64}: 77 steps of 6 crops of 128 pixels; head: upernet, 512 channels;",
        "loss: 0.5 x focal + 0.5 x dice, class weights none; adamw, learning rate 0.001",
        "Seeds: 4, 5.",
        "2 of 5 recommended seeds",
        "The weights beside this card are those of seed 4",
        "scenes of sentinel-1, from their labels, and from the encoder's weights",
    ):
        assert line in text, line
    assert "gamma" not in text, "a scene that took no part"


def test_a_regression_in_its_units():
    task = TaskConfig(kind="regression", level="tile", target=TargetConfig(values={"land": 120.0, "water": 0.0}))
    text = made(task, [{"rmse": 12.25, "r2": None}], loss=LossConfig(regression="huber"))
    for line in (
        "# SAR regression of tiles",
        "The number: values {'land': 120.0, 'water': 0.0}.",
        "Tiles with less than 50% of labelled pixels had no answer.",
        "over 1 seed.",
        "| rmse | 12.25 |",
        "| r2 | - |",
        "head: mean probe; loss: huber",
    ):
        assert line in text, line
    assert "| class |" not in text
