"""On a GPU, in bfloat16: a step of sampling, a PPO update, and one with a rollout that TRL 1.12 cannot hold.

    python benchmarks/gpu_engine.py [--size 0.5B] [--parts decode update large]

Random models of Qwen2's shapes. decode: 64 responses behind prompts of 128 tokens, milliseconds a step. update: 64
prompts of 128 tokens, 128 new ones, 4 epochs of 4 minibatches. large: 512 of 512 + 512, one epoch. The rehearsal
`--size tiny --device cpu` shows that the script runs. Prints one JSON line a part.

The gate of decode: the sampler's log-probabilities are those of transformers' own forward pass, but for rounding. That
of the updates: the stage stops where sampler and learner part.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
from gates import check_sampler
from ppo_steps import run_ppo
from shapes import PROMPT, SHAPES, Shape, tokenizer_of
from transformers import Qwen2Config, Qwen2ForCausalLM

from loopwright.generation.base import SamplingConfig
from loopwright.generation.fast_engine import FastEngine
from loopwright.models.heads import reward_model_from
from loopwright.models.loading import save_model

VOCABULARY = 151_936
SIZES = {
    "tiny": SHAPES["tiny"],
    "0.5B": Shape(VOCABULARY, 896, 24, 14, 2, 4_864, batch=64, response=128, minibatches=4, epochs=4),
    "1.5B": Shape(VOCABULARY, 1_536, 28, 12, 2, 8_960, batch=64, response=128, minibatches=4, epochs=4),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="0.5B")
    parser.add_argument("--parts", nargs="+", choices=("decode", "update", "large"), default=["decode", "update"])
    parser.add_argument("--device", default="cuda")
    args = parser.parse_args()
    shape, tiny = SIZES[args.size], args.size == "tiny"
    length = PROMPT if tiny else 128
    for part in args.parts:
        if part == "decode":
            found = decode(shape, length, args.device)
        elif part == "update":
            found = update(shape, length, args.device)
        else:
            large = shape._replace(epochs=1) if tiny else shape._replace(batch=512, response=512, epochs=1)
            longer = length if tiny else 512
            found = update(large, longer, args.device, gradient_checkpointing=True, microbatch_tokens=65_536)
        print(json.dumps({"benchmark": f"gpu_{part}", "size": args.size, "device": name_of(args.device)} | found))


def decode(shape: Shape, length: int, device: str) -> dict[str, float]:
    """Milliseconds a step, the prompts' own pass left out."""
    model = model_of(shape, length).to(device, torch.bfloat16)
    engine = FastEngine(model, tokenizer_of(shape))
    prompts = prompts_of(shape, shape.batch, length).tolist()

    def seconds(tokens: int) -> float:
        begin = time.perf_counter()
        rollouts = engine.generate(prompts, SamplingConfig(max_new_tokens=tokens), range(shape.batch))
        assert rollouts.response_mask.all(), "a response ended early"
        return time.perf_counter() - begin

    seconds(shape.response)
    few = engine.generate(prompts[:4], SamplingConfig(max_new_tokens=shape.response), range(4))
    drift = check_sampler(model, tokenizer_of(shape), few, "bfloat16")
    steps = [seconds(shape.response) - seconds(1) for _ in range(3)]
    milliseconds = round(1e3 * statistics.median(steps) / (shape.response - 1), 3)
    return {"ms_a_step": milliseconds, "batch": shape.batch, "sampler_drift": drift}


def update(shape: Shape, length: int, device: str, **settings: object) -> dict[str, float]:
    """Seconds of a step of the PPO stage, the second of three, and the most memory."""
    times: list[float] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder, tokenizer = Path(temporary), tokenizer_of(shape)
        policy = model_of(shape, length)
        save_model(policy, tokenizer, folder / "policy")
        save_model(reward_model_from(policy, seed=1), tokenizer, folder / "reward")
        torch.save(prompts_of(shape, 3 * shape.batch, length), folder / "prompts.pt")
        del policy
        run_ppo(
            folder,
            shape,
            3,
            lambda _: times.append(time.perf_counter()),
            device=device,
            precision="bfloat16",
            **settings,
        )
    most = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return {"seconds": round(times[-1] - times[-2], 3), "gib": round(most, 1)}


def model_of(shape: Shape, length: int) -> Qwen2ForCausalLM:
    """A random model whose responses never end: the row of EOS in the tied head makes it the least likely token."""
    config = Qwen2Config(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.ff,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=length + 2 * shape.response,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
    )
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        model = Qwen2ForCausalLM(config).eval()
        head = model.get_input_embeddings().weight
        head[:, 0], head[1, 0] = 0.02 * shape.hidden**0.5, -30.0
        for layer in model.model.layers:  # nothing else writes into number 0
            layer.self_attn.o_proj.weight[0] = 0
            layer.mlp.down_proj.weight[0] = 0
    return model


def prompts_of(shape: Shape, count: int, length: int) -> torch.Tensor:
    """[count, length] int64 of random words."""
    return torch.randint(2, shape.vocab, (count, length), generator=torch.Generator().manual_seed(0))


def name_of(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else device


if __name__ == "__main__":
    main()
