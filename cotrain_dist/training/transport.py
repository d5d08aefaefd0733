"""How an exchange travels: which images are in R_A and R_B, as bits or places, and their labels.

Where an image is in both, what both say of it alike is sent once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cotrain_dist.method.weights import decode_weights, encode_weights
from cotrain_dist.types import ROLES, Exchange, PseudoLabeled

Scalar = TypeVar("Scalar", bound=np.generic)
Places = NDArray[np.int64]

PLACE_BYTES = 4
"""Of a place in U that is sent by itself; bits take one for 32 images of the range."""

NUM_HEADER = 8
"""Numbers before the rest: of R_A and R_B each how many images, the first place, places up to the
last one; whether R_B has the places of R_A; whether there are weights."""


@dataclass
class _Reader:
    """What is left of received bytes."""

    payload: bytes
    offset: int = 0

    def take(self, kind: type[Scalar], num: int) -> NDArray[Scalar]:
        found = np.frombuffer(self.payload, kind, num, offset=self.offset)
        self.offset += found.nbytes
        return found


def pack_exchange(exchanged: Exchange, pool_ids: Tensor) -> bytes:
    """An exchange as bytes. pool_ids: [N] int64, the ids of U, ascending, which all ranks hold.

    Of each R a bit for each image of U from its first to its last one, or where that is less
    4 bytes for each of its images; 2 bytes for each label, and 2 for each weight, where there are
    such. Labels that both give to an image are sent once where they agree on all such images, and
    so are weights.
    """
    r_a, r_b = exchanged.a, exchanged.b
    places_a, places_b = (_places_of(own.sample_ids, pool_ids) for own in (r_a, r_b))
    is_same = np.array_equal(places_a, places_b)
    both = _Overlap(places_a, places_b)
    # Of no images there are none, and other ranks may have some.
    is_weighted = (r_a if len(places_a) else r_b).weights is not None
    parts = [_pack_places(places_a), b"" if is_same else _pack_places(places_b)]
    parts += both.pack(*(own.labels.numpy().astype(np.uint16) for own in (r_a, r_b)))
    if is_weighted:
        parts += both.pack(*(_codes_of(own) for own in (r_a, r_b)))
    header = [*_span_of(places_a), *_span_of(places_b), is_same, is_weighted]
    return b"".join([np.array(header, dtype=np.int64).tobytes(), *parts])


def unpack_exchange(payload: bytes, pool_ids: Tensor) -> Exchange:
    """Back from `pack_exchange`."""
    reader = _Reader(payload)
    *spans, is_same, is_weighted = reader.take(np.int64, NUM_HEADER).tolist()
    places_a = _unpack_places(reader, *spans[:3])
    places_b = places_a if is_same else _unpack_places(reader, *spans[3:])
    both = _Overlap(places_a, places_b)
    labels = both.unpack(reader, np.uint16)
    weights: tuple[Tensor | None, Tensor | None] = (None, None)
    if is_weighted:
        codes = both.unpack(reader, np.int16)
        weights = (
            decode_weights(torch.from_numpy(codes[0])),
            decode_weights(torch.from_numpy(codes[1])),
        )
    found = zip((places_a, places_b), labels, weights, strict=True)
    return Exchange(
        *(
            PseudoLabeled(
                torch.from_numpy(pool_ids.numpy().take(places)),
                torch.from_numpy(own.astype(np.int64)),
                weights=weight,
            )
            for places, own, weight in found
        )
    )


class _Overlap:
    """Which images of R_B are in R_A too, and where there."""

    def __init__(self, places_a: Places, places_b: Places) -> None:
        self.num_a = len(places_a)
        self.at = places_a.searchsorted(places_b)
        self.is_in_a = np.zeros(len(places_b), dtype=np.bool_)
        inside = self.at < len(places_a)
        self.is_in_a[inside] = places_a[self.at[inside]] == places_b[inside]

    def pack(self, of_a: NDArray[Scalar], of_b: NDArray[Scalar]) -> list[bytes]:
        """One value for each image of R_A, and for those of R_B that R_A does not tell."""
        is_shared = np.array_equal(of_a[self.at[self.is_in_a]], of_b[self.is_in_a])
        rest = of_b[~self.is_in_a] if is_shared else of_b
        return [np.array([is_shared]).tobytes(), of_a.tobytes(), rest.tobytes()]

    def unpack(
        self, reader: _Reader, kind: type[Scalar]
    ) -> tuple[NDArray[Scalar], NDArray[Scalar]]:
        """Back from `pack`."""
        is_shared = bool(reader.take(np.bool_, 1)[0])
        of_a = reader.take(kind, self.num_a).copy()
        if not is_shared:
            return of_a, reader.take(kind, len(self.at)).copy()
        of_b = np.empty(len(self.at), dtype=kind)
        of_b[self.is_in_a] = of_a[self.at[self.is_in_a]]
        of_b[~self.is_in_a] = reader.take(kind, int((~self.is_in_a).sum()))
        return of_a, of_b


def _codes_of(own: PseudoLabeled) -> NDArray[np.int16]:
    if own.weights is None:
        return np.empty(0, dtype=np.int16)
    codes: NDArray[np.int16] = encode_weights(own.weights).numpy()
    return codes


def _places_of(sample_ids: Tensor, pool_ids: Tensor) -> Places:
    return pool_ids.numpy().searchsorted(sample_ids.numpy())


def _span_of(places: Places) -> tuple[int, int, int]:
    """How many, the first, and how many there are from the first to the last."""
    if not len(places):
        return 0, 0, 0
    return len(places), int(places[0]), int(places[-1] - places[0] + 1)


def _is_dense(num: int, span: int) -> bool:
    """Whether bits are fewer bytes than places."""
    return span <= 8 * PLACE_BYTES * num


def _pack_places(places: Places) -> bytes:
    num, first, span = _span_of(places)
    if not _is_dense(num, span):
        return (places - first).astype(np.uint32).tobytes()
    bits = np.zeros(span, dtype=np.bool_)
    bits[places - first] = True
    return np.packbits(bits).tobytes()


def _unpack_places(reader: _Reader, num: int, first: int, span: int) -> Places:
    if not _is_dense(num, span):
        return reader.take(np.uint32, num).astype(np.int64) + first
    bits = np.unpackbits(reader.take(np.uint8, -(-span // 8)), count=span)
    return np.flatnonzero(bits) + first


def joined(parts: Sequence[Exchange]) -> Exchange:
    """One exchange of several, whose images differ; ids ascend within each."""
    return Exchange(*(_joined([part.selected_by(role) for part in parts]) for role in ROLES))


def _joined(parts: Sequence[PseudoLabeled]) -> PseudoLabeled:
    found = [part for part in parts if len(part.labels)]
    if not found:
        return PseudoLabeled.empty()
    ids, labels = (
        torch.cat(values) for values in zip(*((p.sample_ids, p.labels) for p in found), strict=True)
    )
    weights = [part.weights for part in found if part.weights is not None]
    weight = torch.cat(weights) if weights else None
    if not bool((ids[1:] > ids[:-1]).all()):
        # A rank of an unequal world has several parts of U, between those of others.
        ids, order = ids.sort()
        labels = labels[order]
        weight = None if weight is None else weight[order]
    return PseudoLabeled(ids, labels, weights=weight)
