"""Names in the checkpoints of the published DI3CL code, of both its revisions, and of MoCo's, whose form they have.

Published tensors lie under ``state_dict`` and, behind DistributedDataParallel, under ``module.``. The encoder has
torchvision's names. The code of 2026 says ``low_projector``, ``local_proj_q``, ``local_predictor``, ``global_queue``;
that of 2025 ``low_feature_projector``, ``local_projector_q``, ``predictor``, ``queue``. Queues are stored (D, K).
"""

from collections.abc import Mapping

from torch import Tensor

from infra.errors import UsageError
from pretrain.encoder import adapted_kernel

ENCODER_PREFIXES = ("encoder_q.encoder.", "encoder_q.")
"""Where DI3CL and MoCo keep the query side's encoder."""

PARTS: Mapping[str, tuple[str, str]] = {
    "query.encoder.": ("encoder_q.encoder.", "encoder_q.encoder."),
    "query.instance.": ("encoder_q.global_projector.net.", "encoder_q.global_feature_projector.net."),
    "query.contour.": ("encoder_q.low_projector.net.", "encoder_q.low_feature_projector.net."),
    "query.region.": ("local_proj_q.net.", "local_projector_q.net."),
    "predictor.": ("local_predictor.net.", "predictor.net."),
    "key.encoder.": ("encoder_k.encoder.", "encoder_k.encoder."),
    "key.instance.": ("encoder_k.global_projector.net.", "encoder_k.global_feature_projector.net."),
    "key.contour.": ("encoder_k.low_projector.net.", "encoder_k.low_feature_projector.net."),
    "key.region.": ("local_proj_k.net.", "local_projector_k.net."),
}
"""The parts of our network, and their names in the newer and in the older code."""

QUEUES: Mapping[str, tuple[str, str]] = {
    "queue.instance": ("global_queue", "queue"),
    "queue.contour": ("local_queue", "queue2"),
}


def encoder_tensors(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give the encoder of a state, with torchvision's names and without a classifier.

    Of a published DI3CL or MoCo checkpoint it is the query side's; other states are taken as an encoder's own.
    """
    plain = without_wrapper(state)
    for prefix in ENCODER_PREFIXES:
        if f"{prefix}conv1.weight" in plain:
            plain = _under(plain, prefix)
            break
    return {name: value for name, value in plain.items() if not name.startswith("fc.")}


def network_tensors(state: Mapping[str, Tensor], bands: int) -> dict[str, Tensor]:
    """Give a published DI3CL state under the names of :class:`pretrain.di3cl_network.DI3CLNetwork`.

    Encoders are adapted to ``bands``. Raises UsageError where a part is missing.
    """
    plain = without_wrapper(state)
    found: dict[str, Tensor] = {}
    for ours, theirs in PARTS.items():
        part = _under(plain, theirs[0]) or _under(plain, theirs[1])
        if not part:
            raise _missing(theirs)
        found |= {f"{ours}{name}": value for name, value in part.items()}
    for side in ("query", "key"):
        kernel = found[f"{side}.encoder.conv1.weight"]
        found[f"{side}.encoder.conv1.weight"] = kernel if kernel.shape[1] == bands else adapted_kernel(kernel, bands)
    for ours, names in QUEUES.items():
        name = next((n for n in names if n in plain), None)
        if name is None or "queue_ptr" not in plain:
            raise _missing((*names, "queue_ptr"))
        found[ours] = plain[name].t().contiguous()
    return found | {"queue.pointer": plain["queue_ptr"].reshape(())}


def without_wrapper(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take the prefix of DistributedDataParallel off names."""
    return {name.removeprefix("module."): value for name, value in state.items()}


def _under(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _missing(names: tuple[str, ...]) -> UsageError:
    return UsageError(f"not a published DI3CL checkpoint: found no tensors named {' or '.join(names)}")
