"""Splits that a document keeps whatever else is added, removed or reordered."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

PART_SEED = 0  # of no split that a stage draws, so a part is split as the whole would be


class Split(NamedTuple):
    train: list[int]  # indices into the ids
    held_out: list[int]


def split_by_hash(ids: Sequence[str], held_out_share: float, seed: int) -> Split:
    """About `held_out_share` of the ids, by the hash of each; equal ids land on the same side.

    At least one id is held out when the share is above zero and two ids differ, and one always stays in training.
    """
    places = [_place(id, seed) for id in ids]
    bound = held_out_share
    if held_out_share > 0 and len(set(places)) > 1:
        lowest, highest = min(places), max(places)
        bound = min(max(held_out_share, _just_above(lowest)), highest)
    held_out = [i for i, place in enumerate(places) if place < bound]
    chosen = set(held_out)
    return Split([i for i in range(len(ids)) if i not in chosen], held_out)


def part_by_hash(ids: Sequence[str], start: float, end: float) -> list[int]:
    """Which ids have a hash in [start, end) of [0, 1); parts that do not overlap never share one, whatever the seed."""
    return [i for i, id in enumerate(ids) if start <= _place(id, PART_SEED) < end]


def _place(id: str, seed: int) -> float:
    """A number in [0, 1) with 53 random bits."""
    digest = hashlib.sha256(f"{seed}/{id}".encode(errors="replace")).digest()
    return (int.from_bytes(digest[:8], "big") >> 11) / 2**53


def _just_above(place: float) -> float:
    return place + 2**-53
