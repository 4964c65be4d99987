"""``pretrain report`` and ``pretrain export``: what leaves a run for people and for other programs."""

from typing import Annotated, Literal

from cyclopts import Parameter

from infra.command import say

Format = Literal["timm", "torchgeo", "huggingface", "torchvision"]


def report(
    run_url: str, /, *, out: str = "report.html", data: str | None = None, pictures: int = 4, tiles: int = 3
) -> None:
    """Make one HTML page of a run, finished or not: curves, views, what the encoder answers to, environment, dials.

    Args:
        run_url: what was given to --out: a folder or s3://bucket/run.
        out: file to write, or its s3:// URL.
        data: corpus to draw tiles from; default: the run's own.
        pictures: pictures of views, the newest.
        tiles: tiles that the encoder is shown.
    """
    from infra.store import open_store, split_object
    from pretrain.report import report as make

    root, key = split_object(out)
    open_store(root).put(key, make(run_url, data=data, pictures=pictures, tiles=tiles))
    say(out)


def export(
    source: str,
    /,
    *,
    out: str,
    layout: Annotated[Format, Parameter(name="--format")],
    licence: str = "unknown",
    data: str | None = None,
) -> None:
    """Write an encoder for another library, with a model card and a STAC description.

    pretrain export s3://bucket/run --format timm --out exported

    Args:
        source: a finished run, or an encoder.safetensors of one.
        out: folder or s3:// URL, empty or new.
        layout: timm, torchgeo, huggingface (transformers) or torchvision.
        licence: SPDX name of the licence you give the weights.
        data: corpus that the run was trained on, to describe; default: where the run says it was.
    """
    from pretrain.export_layouts import export as write

    for name in write(source, out, layout, licence=licence, data=data):
        say(name)
