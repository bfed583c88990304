"""Recordings of a step: which are made, what they are given, and what happens where one cannot be made."""

import gc
import weakref

import pytest
import torch

from loopwright.generation import fast_engine
from loopwright.generation.base import SamplingConfig
from loopwright.generation.fast_engine import FastEngine
from loopwright.generation.replay import CudaGraphs, Recordings, step_by_step
from loopwright.generation.step import Step
from loopwright.models.decoder import Decoder
from tests.tiny import tiny_model, tiny_tokenizer


def test_a_recording_serves_a_power_of_two_of_rows_and_is_made_once():
    ran, made = [], []
    state = torch.arange(100.0)

    def step(rows):
        ran.append(rows)
        return torch.arange(rows), state[:rows] * 2

    def record(step):
        made.append(len(step()[0]))
        return step_by_step(step)

    recordings = Recordings(step, 100, record)
    for count in (100, 65, 64, 33, 20, 8, 3, 1, 40):
        tokens, logprobs = recordings(count)
        assert tokens.tolist() == list(range(count)) and logprobs.tolist() == [2.0 * i for i in range(count)]
    assert made == [100, 64, 32, 8] and set(ran) == {100, 64, 32, 8}

    kept, _ = recordings(5), state.add_(1)
    assert recordings(5)[1][0] == 2.0 and kept[1][0] == 0.0  # reads what stands there now; leaves what it gave before


def test_where_nothing_can_be_recorded_sampling_says_so_and_goes_on():
    def record(_):
        raise RuntimeError("operation not permitted when stream is capturing")

    recordings = Recordings(lambda rows: (torch.arange(rows), torch.zeros(rows)), 8, record)
    with pytest.warns(UserWarning, match="without a CUDA graph.*not permitted"):
        assert recordings(3)[0].tolist() == [0, 1, 2]
    assert recordings(2)[0].tolist() == [0, 1]


def test_ended_rows_cost_nothing_and_memory_stays_where_it_is(monkeypatch, kernels_in_torch):
    """The rows that a step computes are those that live; the caches are the ones that the batch began with."""
    engine = FastEngine(tiny_model("llama"), tiny_tokenizer(), rows_at_once=64)
    model = engine.model
    with torch.no_grad():
        model.lm_head.weight.zero_()  # every token is as likely: rows end at different places
    seen, caches = [], set()

    call = Step.__call__

    def counted(self, tokens, cache, seats, end):
        seen.append(len(tokens))
        caches.update(part.data_ptr() for part in cache)
        return call(self, tokens, cache, seats, end)

    monkeypatch.setattr(Step, "__call__", counted)
    rollouts = engine.generate([[5, 6, 7]] * 64, SamplingConfig(max_new_tokens=60), range(64))
    lengths = rollouts.response_mask.sum(1)
    assert len(set(lengths.tolist())) > 5
    assert seen == [int((lengths > place).sum()) for place in range(1, int(lengths.max()))]
    assert len(caches) == 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_on_a_gpu_a_graph_samples_what_its_operations_do(family):
    torch.manual_seed(0)
    prompts = [[1 + i % 50] * (3 + i % 7) for i in range(40)]
    engine = FastEngine(tiny_model(family).cuda(), tiny_tokenizer(), rows_at_once=16)
    assert engine.recorder is not None and isinstance(engine.recorder(), CudaGraphs)
    sampling = SamplingConfig(max_new_tokens=24)
    with_graphs = engine.generate(prompts, sampling, range(40))
    taken = torch.cuda.memory_allocated()
    again = engine.generate(prompts, sampling, range(40))
    assert torch.equal(with_graphs.response_ids, again.response_ids)
    del again
    assert torch.cuda.memory_allocated() <= taken
    engine.recorder = None
    without = engine.generate(prompts, sampling, range(40))
    assert torch.equal(with_graphs.response_ids, without.response_ids)
    torch.testing.assert_close(with_graphs.logprobs, without.logprobs, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("dtype", "copied"), [(torch.bfloat16, False), (torch.float32, True)])
def test_a_step_reads_the_weights_of_the_model_but_for_a_joined_copy_on_a_cpu(dtype, copied):
    model = tiny_model("llama").to(dtype)
    decoder = Decoder.of(model)
    assert isinstance(decoder, Decoder)
    step = Step(decoder, model.lm_head, rows=4)
    own = {weight.data_ptr() for weight in model.parameters()}
    read = [weight.data_ptr() for layer in step.layers for matrix in layer[1:] for weight, _ in matrix.parts]
    assert all(weight in own for weight in read) != copied
    assert len(read) == len(step.layers) * (4 if copied else 7)
    assert step.head.parts[0][0].data_ptr() in own


def test_a_batch_goes_with_its_recordings_as_soon_as_it_has_sampled(monkeypatch, kernels_in_torch):
    """No collector of garbage is needed: caches and graphs would else stay while learning needs the memory."""
    batches = []
    made = fast_engine._Batch.__init__

    def kept(self, *arguments):
        made(self, *arguments)
        batches.append(weakref.ref(self))

    monkeypatch.setattr(fast_engine._Batch, "__init__", kept)
    engine = FastEngine(tiny_model("llama"), tiny_tokenizer())
    engine.recorder = lambda: step_by_step
    gc.disable()
    try:
        engine.generate([[5, 6, 7]], SamplingConfig(max_new_tokens=5), [0])
        stream = engine.stream([5, 6, 7], SamplingConfig(max_new_tokens=5), 0)
        next(stream), next(stream)
        stream.close()
        assert len(batches) == 2 and not any(batch() for batch in batches)
    finally:
        gc.enable()
