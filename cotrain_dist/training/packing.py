"""An exchange as tensors by name, as a commit keeps it."""

from collections.abc import Mapping

from torch import Tensor

from cotrain_dist.types import ROLES, Exchange, PseudoLabeled

FIELDS = ("sample_ids", "labels", "weights", "probs")


def exchange_to_tensors(exchanged: Exchange) -> dict[str, Tensor]:
    """The fields of R_A and R_B that are not None, by names such as `a.labels`."""
    tensors = {}
    for role in ROLES:
        selected = exchanged.selected_by(role)
        for name in FIELDS:
            values = getattr(selected, name)
            if values is not None:
                # A copy: R_A and R_B may share tensors, which safetensors refuses.
                tensors[f"{role.value}.{name}"] = values.clone()
    return tensors


def exchange_from_tensors(tensors: Mapping[str, Tensor]) -> Exchange:
    """Back from `exchange_to_tensors`."""
    selected = []
    for role in ROLES:
        own = {name: tensors.get(f"{role.value}.{name}") for name in FIELDS}
        ids, labels = own.pop("sample_ids"), own.pop("labels")
        assert ids is not None
        assert labels is not None
        selected.append(PseudoLabeled(ids, labels, **own))
    return Exchange(*selected)
