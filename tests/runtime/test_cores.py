"""Pieces side by side: in their order, each on its share of the threads, nothing changed outside."""

import threading
import time

import pytest
import torch

from loopwright.runtime.cores import _pool, shares, side_by_side

pytestmark = [pytest.mark.parametrize("threads", [1, 2, 5], indirect=True), pytest.mark.usefixtures("threads")]


def test_results_come_in_the_order_of_the_pieces():
    assert side_by_side(lambda piece: piece**2, range(20)) == [piece**2 for piece in range(20)]
    assert side_by_side(lambda piece: piece, []) == []


@pytest.mark.parametrize("pieces", [1, 2, 3, 7])
def test_threads_are_shared_out_and_as_before_afterwards(threads, pieces):
    everyone = threading.Barrier(shares(pieces))

    def look(_):
        everyone.wait(timeout=60)  # fails unless so many run at the same time
        return torch.get_num_threads()

    count = shares(pieces)
    assert count == min(threads, pieces)
    assert side_by_side(look, range(count)) == [threads // count] * count
    assert torch.get_num_threads() == threads
    assert side_by_side(lambda _: torch.get_num_threads(), [0]) == [threads]


def test_a_thread_started_later_has_all_threads(threads):
    _pool.cache_clear()
    side_by_side(lambda piece: piece, range(threads))
    seen = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [threads]


@pytest.mark.parametrize("recording", [True, False])
def test_gradients_are_recorded_where_the_caller_records_them(recording):
    with torch.set_grad_enabled(recording):
        assert side_by_side(lambda _: torch.is_grad_enabled(), range(4)) == [recording] * 4


@pytest.mark.parametrize("inference", [True, False])
def test_inference_mode_reaches_the_threads(inference):
    with torch.inference_mode(inference):
        assert side_by_side(lambda _: torch.is_inference_mode_enabled(), range(4)) == [inference] * 4


def test_under_autocast_pieces_come_one_after_the_other():
    here = threading.get_ident()
    with torch.autocast("cpu"):
        assert side_by_side(lambda _: threading.get_ident(), range(4)) == [here] * 4


def test_an_error_reaches_the_caller_when_nothing_runs_any_more(threads):
    ended = []

    def fail(piece):
        if piece == 0:
            raise ValueError("piece 0")
        time.sleep(0.05)
        ended.append(piece)

    with pytest.raises(ValueError, match="piece 0"):
        side_by_side(fail, range(50))
    then = list(ended)
    time.sleep(0.2)
    assert ended == then and len(ended) < 49
    assert torch.get_num_threads() == threads
