"""TRL 1.12's PPO, its policy left every few steps. Runs in the peer's own environment: see frontier_against_trl.py.

python trl_frontier_worker.py TASK.json
"""

import json
import sys
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer
from trl.experimental.utils import get_reward


class LeavePolicies(TrainerCallback):
    """Where the task says so, by the names of their parameters."""

    def __init__(self, policies: dict[str, str]) -> None:
        self.policies = policies

    def on_step_end(self, _args, state, _control, model, **_more) -> None:  # noqa: ANN001, ANN003
        path = self.policies.get(str(state.global_step))
        if path is not None:
            torch.save({name: weight.detach() for name, weight in model.policy.named_parameters()}, path)


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    settings = task["settings"]

    def load(kind, name):  # noqa: ANN001, ANN202
        return kind.from_pretrained(task[name], dtype=torch.float32)

    tokenizer = AutoTokenizer.from_pretrained(task["policy"], padding_side="left")
    policy, reference = (load(AutoModelForCausalLM, "policy") for _ in range(2))
    reward, value = (load(AutoModelForSequenceClassification, "reward") for _ in range(2))
    check_scores(reward, tokenizer, task["scored"])
    prompts = Dataset.from_dict({"input_ids": task["prompts"]})

    with tempfile.TemporaryDirectory() as out:
        config = PPOConfig(
            output_dir=out,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            per_device_train_batch_size=settings["responses"],  # without accumulation a minibatch is an optimizer step
            gradient_accumulation_steps=1,
            num_mini_batches=settings["minibatches"],
            num_ppo_epochs=settings["epochs"],
            local_rollout_forward_batch_size=settings["responses"],
            response_length=settings["max_new_tokens"],
            total_episodes=settings["responses"] * settings["steps"],
            num_sample_generations=0,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            temperature=1.0,
            stop_token_id=tokenizer.eos_token_id,
            missing_eos_penalty=settings["missing_eos_penalty"],
            kl_coef=settings["kl_coef"],
            cliprange=settings["clip_range"],
            cliprange_value=settings["value_clip_range"],
            vf_coef=settings["value_coef"],
            gamma=settings["gamma"],
            lam=settings["lam"],
            learning_rate=settings["learning_rate"],
            lr_scheduler_type="linear",
            adam_epsilon=settings["adam_eps"],
            seed=task["seed"],
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
            callbacks=[LeavePolicies(task["policies"])],
        )
        trainer.train()


def check_scores(reward, tokenizer, scored) -> None:  # noqa: ANN001
    """TRL reads the scores that we read."""
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    rows, width = scored["rows"], max(scored["prompt_lengths"])
    for row, prompt_length, score in zip(rows, scored["prompt_lengths"], scored["scores"], strict=True):
        padding = [tokenizer.pad_token_id]  # on both sides, as TRL's own batches have it
        ids = torch.tensor([padding * (width - prompt_length) + row + padding])
        with torch.no_grad():
            _, theirs, _ = get_reward(reward, ids, tokenizer.pad_token_id, width)
        if abs(theirs.item() - score) > scored["tolerance"]:
            raise SystemExit(f"TRL scores {tokenizer.decode(row)!r} {theirs.item():.4f}, we score it {score:.4f}")


if __name__ == "__main__":
    main()
