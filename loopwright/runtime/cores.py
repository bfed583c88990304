"""Pieces of a computation side by side, each on its share of the CPU's cores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch

Piece = TypeVar("Piece")
Result = TypeVar("Result")


def shares(pieces: int) -> int:
    """How many of so many pieces `side_by_side` computes at once: one for each of torch's threads at most."""
    return max(1, min(pieces, torch.get_num_threads()))


def side_by_side(function: Callable[[Piece], Result], pieces: Sequence[Piece], *, at_once: bool = True) -> list[Result]:
    """[function(piece) for piece in pieces], each in a thread of its own with its share of torch's threads.

    Without `at_once`: one after the other, each with all threads.

    Threads that share one product wait for each other at its end, thousands of times a second; where another process
    takes some of a core, all of them wait. Pieces side by side wait once. Results do not depend on which comes first,
    as long as the function draws nothing from a global generator and changes nothing that another call reads.
    """
    threads, count = torch.get_num_threads(), shares(len(pieces))
    if count == 1 or not at_once or torch.is_autocast_enabled("cpu"):  # autocast would end at the thread's border
        return [function(piece) for piece in pieces]
    recording, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()

    def compute(piece: Piece) -> Result:
        with torch.inference_mode(inference), torch.set_grad_enabled(recording):
            return function(piece)

    running = [_pool(count, threads).submit(compute, piece) for piece in pieces]
    try:
        return [piece.result() for piece in running]
    except BaseException:  # let nobody go on with a model that other pieces still use
        for piece in running:
            piece.cancel()
        wait(running)
        raise


@cache
def _pool(count: int, threads: int) -> ThreadPoolExecutor:
    """So many threads, which share so many of torch's.

    They are kept: memory that a thread has freed goes back to the system when it ends, and fetching it anew for every
    step took a quarter of the time.
    """
    everyone = Barrier(count)

    def begin() -> None:
        torch.get_num_threads()  # a thread takes the count of all others when it first asks; ask before setting it
        torch.set_num_threads(threads // count)

    pool = ThreadPoolExecutor(count, "side_by_side", initializer=begin)
    list(pool.map(lambda _: everyone.wait(), range(count)))
    torch.set_num_threads(threads)  # for threads that start later: each of these has changed it for them
    return pool
