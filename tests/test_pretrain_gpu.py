"""The same code on a GPU: bf16, channels last, pinned copies. Run with: .venv/bin/pytest -m gpu"""

import math
from pathlib import Path

import pytest
import torch
from corpora import make_corpus

from infra.log import read_lines
from infra.store import open_store
from pretrain.config import EncoderConfig, Keeping
from pretrain.di3cl_run import ContrastConfig, DI3CLRun, HeadConfig
from pretrain.launch import Job, launch
from pretrain.pair_run import ViewConfig
from pretrain.run_folder import METRICS

RUN = DI3CLRun(
    steps=4,
    batch=8,
    log_every=1,
    encoder=EncoderConfig(depth=18),
    views=ViewConfig(size_px=64, min_box_px=16),
    heads=HeadConfig(hidden=32, dim=16),
    contrast=ContrastConfig(queue=32),
    checkpoint=Keeping(every=2, keep=2),
)


@pytest.mark.gpu
def test_steps_on_a_gpu_are_finite_and_resume(tmp_path: Path) -> None:
    assert torch.cuda.is_available(), "this test needs a CUDA device"
    corpus = str(tmp_path / "corpus")
    make_corpus(corpus, [6, 6])
    out = str(tmp_path / "run")
    launch(Job("di3cl", RUN.model_copy(update={"steps": 4}), corpus, out, "cuda", 1))
    lines = read_lines(open_store(out), METRICS)
    assert [line["step"] for line in lines] == [0, 1, 2, 3]
    assert all(math.isfinite(line["loss"]) for line in lines)
    again = launch(Job("di3cl", RUN, corpus, out, "cuda", 1))
    assert again is not None
    assert (again.began, again.finished) == (4, True)
