import random

import pytest
import torch
from torch.testing import assert_close

from loopwright.data.chat import Example
from loopwright.data.packing import pack_examples
from loopwright.training.batches import EpochOrder
from loopwright.training.examples import ExamplesConfig, answer_loss
from loopwright.training.instructed import Instructed, InstructedBatches, instructed_loss, instructed_tokens
from tests.tiny import CHANGED_LOGITS, FAMILIES, tiny_model

PAD = 259


def some_answers(count=7, instructions=3):
    rng = random.Random(0)

    def tokens(shortest, longest):
        return [rng.randrange(250) for _ in range(rng.randint(shortest, longest))]

    return [Instructed([tokens(1, 9) for _ in range(instructions)], tokens(1, 8)) for _ in range(count)]


def micros(answers, *, rows=16, accumulation=1, packing=True):
    config = ExamplesConfig(
        max_steps=1, max_length=40, batch_size_per_device=rows, accumulation=accumulation, packing=packing
    )
    order = EpochOrder(len(answers), config.rows_per_step, seed=0)
    return InstructedBatches(answers, order, config, PAD, torch.device("cpu")).of_step(0)


def loss_and_gradient(model, batches, **settings):
    """Of one optimizer step, as `fit` puts it together."""
    model.zero_grad()
    parts = [instructed_loss(model, micro, **settings) for micro in batches]
    total = sum(part.total for part in parts) / sum(map(instructed_tokens, batches))
    total.backward()
    return total.detach(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def expected(model, answers, alpha, beta):
    """The paper's objective, one reading at a time through the model's own forward pass."""
    supervised, contrastive, entropy, tokens = 0.0, 0.0, 0.0, 0
    for prompts, response in answers:
        whole = []
        for number, prompt in enumerate(prompts):
            logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1].double()
            log_p = logits.log_softmax(-1)
            whole.append(log_p[torch.arange(len(response)), response].sum())
            if number == 0:
                entropy += (log_p.exp() * log_p).sum()
        supervised -= whole[0]
        contrastive -= torch.stack(whole).log_softmax(0)[0]
        tokens += len(response)
    return supervised / tokens + alpha * contrastive / len(answers) + beta * entropy / tokens


@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("family", (*FAMILIES, *CHANGED_LOGITS))
def test_it_is_the_objective_of_the_paper(family, packing):
    model, answers = tiny_model(family, scale=1.0), some_answers()
    got, gradient = loss_and_gradient(model, micros(answers, packing=packing), alpha=0.7, beta=0.3)
    model.zero_grad()
    wanted = expected(model, answers, 0.7, 0.3)
    wanted.backward()
    assert_close(got.double(), wanted.detach(), rtol=1e-5, atol=1e-5)
    for name, parameter in model.named_parameters():
        assert_close(gradient[name], parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("packing", [True, False])
def test_one_microbatch_is_many(packing):
    model, answers = tiny_model("llama", scale=1.0), some_answers(8)
    whole = loss_and_gradient(model, micros(answers, rows=8), alpha=1.0, beta=0.1)
    for rows in (1, 3):
        cut = micros(answers, rows=rows, accumulation=8, packing=packing)
        assert sum(len(micro.lengths) for micro in cut) == 8
        assert_close(loss_and_gradient(model, cut, alpha=1.0, beta=0.1), whole, rtol=1e-4, atol=1e-5)


def test_with_one_instruction_and_no_entropy_it_is_the_loss_of_every_answer():
    model, answers = tiny_model("llama", scale=1.0), some_answers(instructions=1)
    (micro,) = micros(answers)
    got = instructed_loss(model, micro, alpha=1.0, beta=0.0)
    examples = [Example(prompts[0], response) for prompts, response in answers]
    plain = answer_loss(model, pack_examples(examples, 40, PAD))
    assert_close(got.total, plain.total)
    assert got.count == plain.count == instructed_tokens(micro)
    assert "contrastive_loss" not in got.stats


def test_an_answer_s_loss_does_not_depend_on_what_shares_its_batch():
    model, answers = tiny_model("llama", scale=1.0), some_answers(6)
    together = loss_and_gradient(model, micros(answers), alpha=1.0, beta=0.1)[0] * sum(len(a[1]) for a in answers)
    per_answer = sum(len(one.response_ids) for one in answers) / len(answers)
    alone = 0.0
    for one in answers:
        (micro,) = micros([one])
        alone += instructed_loss(
            model, micro._replace(tokens_per_answer=per_answer), alpha=1.0, beta=0.1
        ).total.detach()
    assert_close(together, alone, rtol=1e-4, atol=1e-4)
