"""A step of attention against plain attention over each sequence's own keys and values, in C and in torch."""

import pytest
import torch
from torch.testing import assert_close

from loopwright.kernels import library
from loopwright.kernels.cached_attention import Cache, Reading, Seats, attend_cached
from loopwright.kernels.functions import rotate_

PLACES, SAMPLES, LONGEST, COLUMNS, END, SCALE = 4, 5, 37, 20, 12, 0.4
# Four samples of the prompt in place 2, two of that in 0, one of that in 3; nobody reads 1. In the order of no place.
PLACE, RANK = torch.tensor([2, 0, 2, 3, 2, 0, 2]), torch.tensor([0, 1, 3, 0, 1, 2, 4])
PROMPTS = torch.tensor([37, 9, 33, 1])
FIRST = torch.tensor([0, 3, 9, 12, 12, 0, 5])


def normal(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def tables(width):
    angles = normal(LONGEST + COLUMNS, width // 2, seed=9)
    return tuple(torch.cat((x, x), dim=1).contiguous() for x in (angles.cos(), angles.sin()))


def a_cache(kv_heads, size, junk=None):
    """Random where sequences read, `junk` elsewhere."""
    shapes = (PLACES, kv_heads, size, LONGEST), (PLACES, kv_heads, LONGEST, size)
    shapes += (9, kv_heads, size, COLUMNS), (9, kv_heads, COLUMNS, size)
    cache = Cache(*(normal(*shape, seed=seed) for seed, shape in enumerate(shapes)))
    if junk is not None:
        for place, length in enumerate(PROMPTS.tolist()):
            begin = 0 if place == 1 else length
            cache.prompt_keys[place, :, :, begin:] = cache.prompt_values[place, :, begin:] = junk
        for row in range(9):
            for unread in (slice(0, FIRST[row] if row < 7 else END), slice(END, COLUMNS)):
                cache.keys[row, :, :, unread] = cache.values[row, :, unread] = junk
    return cache


def attend(heads, kv_heads, size, width, *, junk=None):
    """What comes out, and the cache after it."""
    seats = Seats.of(PLACE * SAMPLES + RANK, PROMPTS[PLACE], FIRST, (PLACES, SAMPLES))
    cache = a_cache(kv_heads, size, junk)
    qkv = normal(7, (heads + 2 * kv_heads) * size, seed=8)
    rotary = tables(width) if width else None
    return attend_cached(qkv, rotary, cache, Reading.of(seats, END, cache), SCALE), cache


def plain(heads, kv_heads, size, width):
    """One sequence after the other."""
    cache, found = a_cache(kv_heads, size), []
    for row, qkv in enumerate(normal(7, heads + 2 * kv_heads, size, seed=8)):
        q, k, v = qkv[None].split((heads, kv_heads, kv_heads), 1)
        place, length, own = PLACE[row], PROMPTS[PLACE[row]], slice(FIRST[row], END)
        if width:
            q, k = (rotate_(part.contiguous(), *tables(width), (length + END - FIRST[row])[None]) for part in (q, k))
        keys = torch.cat((cache.prompt_keys[place, :, :, :length], cache.keys[row, :, :, own], k[0, :, :, None]), 2)
        values = torch.cat((cache.prompt_values[place, :, :length], cache.values[row, :, own], v[0, :, None]), 1)
        scores = q.view(kv_heads, -1, size) @ keys * SCALE
        found.append((scores.softmax(-1) @ values).flatten())
    return torch.stack(found)


SHAPES = pytest.mark.parametrize(
    ("heads", "kv_heads", "size", "width"), [(4, 2, 8, 8), (3, 3, 5, 4), (2, 1, 64, 0), (7, 1, 20, 20)]
)


@pytest.fixture(params=["c", "torch"])
def either(request):
    if request.param == "c" and library.compiled() is None:
        pytest.skip("no C compiler")
    library.switch(on=request.param == "c")
    yield
    library.switch(on=True)


@SHAPES
def test_a_step_equals_plain_attention(heads, kv_heads, size, width, either):
    out, _ = attend(heads, kv_heads, size, width)
    assert_close(out, plain(heads, kv_heads, size, width), atol=2e-6, rtol=1e-5)


@SHAPES
def test_what_is_not_a_sequences_own_is_never_read(heads, kv_heads, size, width, either):
    clean, _ = attend(heads, kv_heads, size, width)
    dirty, _ = attend(heads, kv_heads, size, width, junk=1e30)
    assert torch.equal(clean, dirty)


def test_new_keys_and_values_join_the_cache_at_the_end(either):
    before, (_, after) = a_cache(2, 8), attend(4, 2, 8, 0)
    k, v = normal(7, 8, 8, seed=8).split((4, 2, 2), 1)[1:]
    before.keys[:7, :, :, END], before.values[:7, :, END] = k, v
    for ours, expected in zip(after, before, strict=True):
        assert torch.equal(ours, expected)


def test_half_precision_reads_the_same_seats():
    cache = Cache(*(part.bfloat16() for part in a_cache(2, 8)))
    seats = Seats.of(PLACE * SAMPLES + RANK, PROMPTS[PLACE], FIRST, (PLACES, SAMPLES))
    qkv = normal(7, 64, seed=8).bfloat16()
    out = attend_cached(qkv, None, cache, Reading.of(seats, END, cache), SCALE)
    assert out.dtype is torch.bfloat16
    assert_close(out.float(), plain(4, 2, 8, 0), atol=0.05, rtol=0.05)
