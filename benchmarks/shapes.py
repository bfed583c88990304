"""The three random Llamas that benchmarks compare on, and checkpoints of them that end their responses as asked."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from loopwright.models.heads import reward_model_from
from loopwright.models.loading import save_model

PAD, EOS, FIRST_WORD = 0, 1, 2


class Shape(NamedTuple):
    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ff: int
    # One PPO update: responses, their tokens, minibatches an epoch, epochs; prompts have 32 tokens
    batch: int
    response: int
    minibatches: int
    epochs: int


PROMPT = 32
SHAPES = {
    "tiny": Shape(512, 64, 5, 8, 4, 172, batch=64, response=64, minibatches=4, epochs=4),  # 0.26 M parameters
    "small": Shape(4_096, 320, 7, 5, 5, 864, batch=16, response=64, minibatches=4, epochs=2),  # 10 M
    "medium": Shape(32_000, 512, 10, 8, 8, 1_376, batch=8, response=64, minibatches=2, epochs=2),  # 48 M
}


def tokenizer_of(shape: Shape) -> PreTrainedTokenizerFast:
    """A token a word, so that text and ids say the same."""
    words = {"<|pad|>": PAD, "<|end|>": EOS} | {f"w{i}": i for i in range(FIRST_WORD, shape.vocab)}
    inner = Tokenizer(models.WordLevel(words, "w2"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|pad|>")


def model_of(shape: Shape, eos_probability: float = 0.0) -> LlamaForCausalLM:
    """A random model that ends its response with about this probability at each token, whatever it reads.

    Number 0 of every hidden state is a constant: all embeddings have it and no block adds to it. The row of EOS in the
    tied head reads it alone.
    """
    config = LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ff,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=EOS,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).float().eval()
        head = model.get_input_embeddings().weight
        head[:, 0] = 2 * 0.02 * shape.hidden**0.5
        head[EOS, 1:] = 0
        for layer in model.model.layers:
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
        head[EOS, 0] -= 30
        if eos_probability:
            head[EOS, 0] += _offset(model, prompts_of(shape, 64), eos_probability)
    return model


def prompts_of(shape: Shape, count: int) -> Tensor:
    """[count, PROMPT] int64 of random words."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(FIRST_WORD, shape.vocab, (count, PROMPT), generator=generator)


def save(folder: Path, size: str, eos_probability: float, prompts: int) -> None:
    """`policy` and `reward` as Hugging Face folders with the tokenizer, and `prompts.pt`."""
    shape = SHAPES[size]
    tokenizer, policy = tokenizer_of(shape), model_of(shape, eos_probability)
    save_model(policy, tokenizer, folder / "policy")
    save_model(reward_model_from(policy, seed=1), tokenizer, folder / "reward")
    torch.save(prompts_of(shape, prompts), folder / "prompts.pt")


def _offset(model: LlamaForCausalLM, ids: Tensor, probability: float) -> float:
    """What the EOS row's constant needs for this mean probability, by bisection."""
    hidden = model.model(ids).last_hidden_state.flatten(0, 1)
    weight = copy.deepcopy(model.lm_head.weight)
    others = (hidden @ weight.T).index_fill(1, torch.tensor([PAD, EOS]), -torch.inf).logsumexp(1)
    low, high = 0.0, 60.0
    for _ in range(50):
        middle = (low + high) / 2
        eos = hidden[:, 0] * (weight[EOS, 0] + middle)
        low, high = (middle, high) if torch.sigmoid(eos - others).mean() < probability else (low, middle)
    return low
