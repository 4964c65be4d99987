"""The README of an exported encoder: what it is, what it must be fed, where it comes from, what it is not for."""

import re
from collections.abc import Sequence
from typing import Any

import yaml

from pretrain.facts import Facts
from pretrain.trackers import flat

PAPERS = {
    "di3cl": "Ren et al., DI3CL, arXiv 2511.07808",
    "moco": "Chen et al., Improved baselines with momentum contrastive learning, arXiv 2003.04297",
    "simclr": "Chen et al., A simple framework for contrastive learning of visual representations, arXiv 2002.05709",
    "byol": "Grill et al., Bootstrap your own latent, arXiv 2006.07733",
    "simsiam": "Chen and He, Exploring simple Siamese representation learning, arXiv 2011.10566",
    "barlow": "Zbontar et al., Barlow Twins, arXiv 2103.03230",
    "pixpro": "Xie et al., Propagate yourself, arXiv 2011.10043",
    "resim": "Xiao et al., Region similarity representation learning, arXiv 2103.12902",
}
LIBRARY = {"timm": "timm", "huggingface": "transformers", "torchgeo": "torchgeo", "torchvision": "torchvision"}
USE = {
    "timm": 'encoder = timm.create_model("local-dir:FOLDER", pretrained=True, features_only=True).eval()\n'
    "maps = encoder(x)[1:]  # strides 4, 8, 16, 32",
    "huggingface": "encoder = transformers.ResNetBackbone.from_pretrained(FOLDER)\n"
    "maps = encoder.eval()(x).feature_maps  # strides 4, 8, 16, 32",
    "torchgeo": 'state = torch.load("FOLDER/{file}", weights_only=True)\n'
    'encoder = timm.create_model("{name}", in_chans={bands}, num_classes=0)\n'
    "encoder.load_state_dict(state)\n"
    "features = encoder.eval()(x)",
    "torchvision": "encoder = torchvision.models.{name}(weights=None)\n"
    "encoder.conv1 = torch.nn.Conv2d({bands}, 64, 7, stride=2, padding=3, bias=False)\n"
    "encoder.fc = torch.nn.Identity()\n"
    'encoder.load_state_dict(safetensors.torch.load_file("FOLDER/model.safetensors"))\n'
    "features = encoder.eval()(x)",
}


def model_card(facts: Facts, layout: str, files: Sequence[str]) -> str:
    """Write the card of an encoder exported in ``layout``; ``files`` are those beside it."""
    card, spec = facts.card, facts.card.input
    state = next((name for name in files if name.endswith(".pth")), "")
    use = USE[layout].format(name=facts.architecture, bands=card.bands, file=state)
    head = yaml.safe_dump(_head(facts, layout), sort_keys=False, allow_unicode=True)
    return f"""---
{head}---

# {facts.architecture} for SAR backscatter, pre-trained by {_plain(card.method)}

An encoder without classifier, trained without labels on radar tiles. It gives four feature maps, at a fourth, an
eighth, a sixteenth and a thirty-second of the input's resolution.

## Input

| | |
| --- | --- |
| bands | {_plain(", ".join(facts.bands))} |
| unit | decibels: 10 log10 of backscatter in linear power |
| window | {spec.lo_db:g} to {spec.hi_db:g} dB; what is outside is clipped |
| normalisation | grey = (dB{_less(spec.lo_db)}) / {spec.hi_db - spec.lo_db:g} |
| | x = (grey{_less(spec.mean)}) / {spec.std:g} |
| the same in one step | x = (clipped dB{_less(facts.zero_db)}) / {facts.one_db:.6g} |
| pixels without measurement | x = 0 |
| size | learned on {facts.size_px} px; any multiple of 32 px |

```python
level = numpy.clip(db, {spec.lo_db:g}, {spec.hi_db:g})
x = torch.from_numpy(numpy.nan_to_num((level{_less(facts.zero_db)}) / {facts.one_db:.6g})).float()[None]
{use}
```
{_repeated(facts)}
## Training

| | |
| --- | --- |
| method | {_plain(PAPERS.get(card.method, card.method))} |
| steps | {card.step:,} |
| run digest | {_plain(card.run_digest) or "unknown"} |
| data: manifest digest | {_plain(card.manifest_digest) or "unknown"} |
| data: digest of the recipe of its pixels | {_plain(card.pixels_digest) or "unknown"} |
| data: what it is | {_corpus(facts)} |
{_numbers(facts)}
<details><summary>Every dial</summary>

{_dials(facts)}

</details>

## Intended use

A starting point for land cover, water and change in images of the sensors, bands and pixel spacing above: fine-tuned
with labels, or frozen under a small head.

## Limits

- Other calibration, speckle filtering, window or units than above are another input: scores fall without a warning.
- Sensors, bands, angles and landscapes outside the training data are not tried.
- It was not scored on a task of yours: measure on places that it has not seen, split by place.
- Not for decisions about safety or people without a check by people.

## Licence

{facts.licence if facts.licence != "unknown" else "Not stated by who exported it."}
The terms of the radar data apply to what is made of them.

## Citation

{_plain(PAPERS.get(card.method, "Name the method's paper"))}; and SARSense, with the run digest above.
"""


def _head(facts: Facts, layout: str) -> dict[str, Any]:
    return {
        "license": facts.licence.lower(),
        "library_name": LIBRARY[layout],
        "pipeline_tag": "image-feature-extraction",
        "tags": ["remote-sensing", "sar", "self-supervised", facts.architecture, _plain(facts.card.method)],
    }


def _repeated(facts: Facts) -> str:
    if facts.card.input.bands == facts.card.bands:
        return ""
    count = facts.card.bands
    return f"\nIt learned on one band at a time, repeated {count} times: `x = x.repeat(1, {count}, 1, 1)`.\n"


def _corpus(facts: Facts) -> str:
    if facts.manifest is None:
        return "not at hand when this was written"
    sources = facts.manifest.sources
    sensors = ", ".join(sorted({s.sensor for s in sources}))
    times = sorted(s.time[:10] for s in sources if s.time)
    when = f", {times[0]} to {times[-1]}" if times else ""
    return _plain(f"{facts.manifest.tiles:,} tiles of {len(sources):,} scenes: {sensors}{when}")


def _numbers(facts: Facts) -> str:
    if not facts.numbers:
        return ""
    rows = "\n".join(f"| {_plain(name)} | {value:.4g} |" for name, value in facts.numbers.items())
    title = "Last numbers of its log (probe: nearest neighbours on labelled ground, scenes apart):"
    return f"\n{title}\n\n| | |\n| --- | --- |\n{rows}\n"


def _dials(facts: Facts) -> str:
    rows = [f"| {_plain(name)} | {_plain(str(value))} |" for name, value in sorted(flat(facts.dials).items())]
    return "\n".join(["| dial | value |", "| --- | --- |", *rows]) if rows else "Not at hand when this was written."


def _less(value: float) -> str:
    return f" - {value:.6g}" if value >= 0 else f" + {-value:.6g}"


def _plain(text: str) -> str:
    """Make text of a file harmless in Markdown: one line, no markup, no HTML, 200 characters at most."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]
    return re.sub(r"([\\`*\[\]<>|#!])", r"\\\1", line)
