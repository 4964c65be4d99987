"""The learner: its loss, what it ignores, and that encoder and head together learn a small scene by heart."""

import numpy as np
import pytest
import torch
from labelled_corpus import LEGEND, PIXELS_DIGEST, SCALE, Scene
from torch.nn import functional

from finetune.config import DecoderConfig
from finetune.legend import read_legend
from finetune.metrics import confusion_matrix, scores
from finetune.predict import predictor
from finetune.segmenter import SegmentationLearner, Segmenter, cross_entropy
from pretrain.config import InputSpec
from pretrain.encoder import ResNet

SMALL = DecoderConfig(channels=16, aux_channels=16)


def _segmenter(config: DecoderConfig = SMALL, bands: int = 2) -> Segmenter:
    torch.manual_seed(0)
    return Segmenter(ResNet(18, bands), 2, config, SCALE, InputSpec(bands=bands))


def _batch(size: int = 64, n: int = 4) -> dict[str, torch.Tensor]:
    scenes = [Scene("s", seed, (size, size)) for seed in range(n)]
    codes = np.stack([s.codes for s in scenes])
    return {"codes": torch.from_numpy(codes), "label": torch.from_numpy(np.stack([s.label for s in scenes]))}


def test_the_loss_is_torchs_over_labelled_pixels():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, 8, generator=generator)
    label = torch.randint(0, 3, (2, 8, 8), generator=generator)
    label[0, :4] = 255
    for weights in (torch.ones(3), torch.tensor([0.2, 1.0, 3.0])):
        expected = functional.cross_entropy(logits, label, weights, ignore_index=255)
        assert cross_entropy(logits, label, weights).item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_batch_without_labels_gives_no_loss_and_no_gradient():
    learner = SegmentationLearner(_segmenter(), 0.4)
    batch = _batch(n=2)
    batch["label"].fill_(255)
    loss = learner.losses(batch, 0)["loss"]
    loss.backward()
    assert loss.item() == 0
    assert all(p.grad is None or bool((p.grad == 0).all()) for p in learner.parameters())


def test_unlabelled_pixels_have_no_say():
    segmenter = _segmenter(DecoderConfig(channels=16, aux_weight=0, dropout=0)).eval()
    learner, batch = SegmentationLearner(segmenter, 0), _batch(n=2)
    before = learner.losses(batch, 0)["loss"].item()
    with torch.no_grad():
        logits = segmenter(batch["codes"])
    labelled = batch["label"] != 255
    picked = functional.cross_entropy(logits.movedim(1, -1)[labelled], batch["label"][labelled].long())
    assert before == pytest.approx(picked.item(), rel=1e-5)


def test_the_second_head_adds_its_weighted_loss_in_training_only():
    segmenter, batch = _segmenter(), _batch(n=2)
    losses = SegmentationLearner(segmenter.train(), 0.4).losses(batch, 3)
    assert losses["loss"].item() == pytest.approx((losses["cross_entropy"] + 0.4 * losses["aux"]).item())
    assert "aux" not in SegmentationLearner(segmenter.eval(), 0.4).losses(batch, 3)
    assert _segmenter(DecoderConfig(channels=16, aux_weight=0)).aux is None


def test_dropout_depends_on_seed_and_step_and_leaves_the_generator_alone():
    learner, batch = SegmentationLearner(_segmenter(DecoderConfig(channels=16, dropout=0.5)).train(), 0.4), _batch(n=2)
    state = torch.get_rng_state()
    values = [learner.losses(batch, step)["loss"].item() for step in (0, 1, 0)]
    assert values[0] == values[2] != values[1]
    assert (torch.get_rng_state() == state).all()


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_the_encoders_own_learning_rate_equals_a_parameter_group(kind):
    """Against torch's own per-group rates, over steps with momentum and weight decay and the same gradients."""

    def optimiser(groups):
        if kind == "sgd":
            return torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.01)
        return torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)

    mine, theirs, batch = _segmenter(), _segmenter(), _batch(32, 2)
    learner = SegmentationLearner(mine.train(), 0.4, encoder_lr_factor=0.1)
    rest = [p for n, p in theirs.named_parameters() if not n.startswith("encoder.")]
    slow = {"params": list(theirs.encoder.parameters()), "lr": 0.1 * (0.05 if kind == "sgd" else 0.01)}
    one, other = optimiser(list(mine.parameters())), optimiser([slow, {"params": rest}])
    start = mine.encoder.conv1.weight.detach().clone()
    for step in range(2):
        learner.losses(batch, step)
        generator = torch.Generator().manual_seed(step)
        for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
            a.grad = b.grad = torch.randn(a.shape, generator=generator)
        one.step()
        other.step()
        learner.after_step(step)
    assert (mine.encoder.conv1.weight - start).abs().max() > 1e-3
    for a, b in zip(mine.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def test_encoder_and_head_learn_a_scene_by_heart():
    segmenter, batch = _segmenter(), _batch(64, 2)
    learner = SegmentationLearner(segmenter.train(), 0.4)
    optimiser = torch.optim.AdamW(learner.parameters(), lr=3e-3)
    first = None
    for step in range(30):
        optimiser.zero_grad()
        loss = learner.losses(batch, step)["loss"]
        first = loss.item() if first is None else first
        loss.backward()
        optimiser.step()
    assert loss.item() < 0.25 * first
    outputs = predictor(segmenter, torch.device("cpu"))(batch["codes"].numpy()).argmax(1).astype(np.uint8)
    found = scores(confusion_matrix(batch["label"].numpy(), outputs, 2), read_legend(LEGEND, PIXELS_DIGEST))
    assert found.miou > 0.8
