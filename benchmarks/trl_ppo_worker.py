"""TRL 1.12's PPO, an update each time a line comes in. Runs in the peer's own environment: see ppo_against_trl.py.

With --read it says instead what policy, critic and reward model make of the rows in gate.pt.
"""

import argparse
import json
import tempfile

import torch
import trl.experimental.ppo.ppo_trainer as ppo_trainer
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer
from turns import Turn


class Updates(TrainerCallback):
    """Reports an update and waits for its next turn."""

    def on_train_begin(self, *_args, **_more) -> None:
        self.turn = Turn()

    def on_step_end(self, *_args, **_more) -> None:
        self.turn.done(tokens=LENGTHS[-1])


LENGTHS: list[float] = []  # mean tokens of the responses of each update


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    for name in ("updates", "batch", "response", "minibatches", "epochs", "threads", "stops"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--read", type=int, metavar="PROMPT", help="tokens of a row in gate.pt that are its prompt")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    def load(kind, name, **more):  # noqa: ANN001, ANN003, ANN202
        return kind.from_pretrained(f"{args.folder}/{name}", dtype=torch.float32, **more)

    tokenizer = AutoTokenizer.from_pretrained(f"{args.folder}/policy", padding_side="left")
    policy, reference = (load(AutoModelForCausalLM, "policy") for _ in range(2))
    reward, value = (load(AutoModelForSequenceClassification, "reward", num_labels=1) for _ in range(2))
    if args.read:
        rows = torch.load(f"{args.folder}/gate.pt")
        print(json.dumps(read(rows, args.read, policy.eval(), reward.eval(), tokenizer.pad_token_id)))
        return
    prompts = Dataset.from_dict({"input_ids": torch.load(f"{args.folder}/prompts.pt").tolist()})

    generate = ppo_trainer.batch_generation

    def counted(model, queries, *rest):  # noqa: ANN001, ANN002, ANN202
        found = generate(model, queries, *rest)
        ended = (found[0][:, queries.shape[1] :] == tokenizer.eos_token_id).float()
        before = (ended.cumsum(1) - ended) == 0
        LENGTHS.append(before.sum(1).float().mean().item())
        return found

    ppo_trainer.batch_generation = counted
    with tempfile.TemporaryDirectory() as out:
        config = PPOConfig(
            output_dir=out,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=args.batch,  # without accumulation each minibatch is one optimizer step
            gradient_accumulation_steps=1,
            num_mini_batches=args.minibatches,
            num_ppo_epochs=args.epochs,
            local_rollout_forward_batch_size=args.batch,
            response_length=args.response,
            total_episodes=args.batch * args.updates,
            num_sample_generations=0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=10_000,
            temperature=1.0,
            stop_token_id=tokenizer.eos_token_id if args.stops else None,
            learning_rate=3e-6,
            seed=1,
        )
        trainer = PPOTrainer(
            args=config,
            processing_class=tokenizer,
            model=policy,
            ref_model=reference,
            reward_model=reward,
            value_model=value,
            train_dataset=prompts,
            eval_dataset=prompts.select(range(8)),
            callbacks=[Updates()],
        )
        trainer.train()


@torch.no_grad()
def read(rows, prompt, policy, reward, pad) -> dict[str, list[float]]:  # noqa: ANN001
    """Log-probabilities and values of response tokens, row by row, and scores; the critic is the reward model.

    Padding, which ours cannot draw, has no share of the probability here, either.
    """
    logits = ppo_trainer.forward(policy, rows, pad).logits[:, prompt - 1 : -1]
    logits[..., pad] = -torch.inf
    logprobs = ppo_trainer.selective_log_softmax(logits, rows[:, prompt:])
    values, scores, _ = ppo_trainer.get_reward(reward, rows, pad, prompt)
    values = values[:, prompt - 1 : -1].squeeze(-1)
    found = {"logprobs": logprobs, "values": values, "scores": scores}
    return {name: numbers.flatten().tolist() for name, numbers in found.items()}


if __name__ == "__main__":
    main()
