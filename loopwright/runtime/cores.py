"""Pieces of a computation side by side, each on its share of the CPU's cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def shares(pieces: int) -> int:
    """How many of so many pieces `side_by_side` computes at once: one for each of torch's threads at most."""
    return max(1, min(pieces, torch.get_num_threads()))


def side_by_side(function: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result]:
    """[function(piece) for piece in pieces], each in a thread of its own with its share of torch's threads.

    Threads that share one product wait for each other at its end, thousands of times a second; where another process
    takes some of a core, all of them wait. Pieces side by side wait once. Results do not depend on which comes first,
    as long as the function draws nothing from a global generator and changes nothing that another call reads.
    """
    threads, count, recording = torch.get_num_threads(), shares(len(pieces)), torch.is_grad_enabled()
    if count == 1:
        return [function(piece) for piece in pieces]

    def begin() -> None:
        torch.get_num_threads()  # a thread takes the count of all others when it first asks; ask before setting it
        torch.set_num_threads(threads // count)

    def compute(piece: Piece) -> Result:
        with torch.set_grad_enabled(recording):
            return function(piece)

    with ThreadPoolExecutor(count, initializer=begin) as pool:
        try:
            return list(pool.map(compute, pieces))
        finally:
            torch.set_num_threads(threads)  # for threads to come; those that exist keep their own
