"""A step of sampling that is recorded for some numbers of rows, and replayed: on a GPU as a CUDA graph.

A step is hundreds of short operations, and Python takes longer to start each of them than a GPU to run it; a graph
starts all at once. It reads and writes the same memory every time, so what changes from step to step is written into
tensors that stay where they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

FEWEST = 8  # rows of a recording: a GPU takes as long for fewer

Results = tuple[Tensor, Tensor]
Recorded = tuple[Callable[[], object], Results]  # what does the step again, and what it fills
Record = Callable[[Callable[[], Results]], Recorded]


class Recordings:
    """A step for any number of rows, by recordings for 8, 16, 32, ... of them, each made when it is first needed."""

    def __init__(self, step: Callable[[int], Results], most: int, record: Record) -> None:
        """`step` computes so many rows, `most` at most, from tensors that stay; done twice it has done the same."""
        self._step, self._most, self._record = step, most, record
        self._made: dict[int, Recorded] = {}

    def __call__(self, count: int) -> Results:
        """What the step gives for the first `count` rows."""
        rows = min(self._most, max(FEWEST, 1 << (count - 1).bit_length()))
        if rows not in self._made:
            self._made[rows] = self._recorded(rows)
        again, (tokens, logprobs) = self._made[rows]
        again()
        return tokens[:count].clone(), logprobs[:count].clone()

    def forget(self) -> None:
        """Give back what the recordings hold."""
        self._made.clear()

    def _recorded(self, rows: int) -> Recorded:
        try:
            return self._record(lambda: self._step(rows))
        except RuntimeError as error:
            warnings.warn(f"sampling goes on without a CUDA graph, slower: {error}", stacklevel=2)
            self._record = step_by_step
            return self._record(lambda: self._step(rows))


class CudaGraphs:
    """Records on a GPU. Its graphs share memory and a stream, which no others use: only one of them runs at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._memory, self._stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream(device)

    def __call__(self, step: Callable[[], Results]) -> Recorded:
        """Run it once unrecorded, when libraries choose their kernels and take their memory, and then record it."""
        graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(self._device)
        self._stream.wait_stream(here)
        with torch.cuda.stream(self._stream):
            step()
            graph.capture_begin(pool=self._memory, capture_error_mode="thread_local")
            try:
                results = step()
            finally:
                graph.capture_end()
        here.wait_stream(self._stream)
        return graph.replay, results


def step_by_step(step: Callable[[], Results]) -> Recorded:
    """No recording: every operation is started anew, and what it gives put where it was the first time."""
    results = step()

    def again() -> None:
        for result, found in zip(results, step(), strict=True):
            result.copy_(found)

    return again, results
