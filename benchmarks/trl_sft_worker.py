"""TRL 1.16's SFT, some steps each time a line comes in. Runs in the peer's own environment: see sft_against_trl.py."""

import argparse
import json
import tempfile
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer
from turns import Turn


class Steps(TrainerCallback):
    """Counts real tokens, reports every so many steps and waits for the next turn."""

    def __init__(self, count: int) -> None:
        self.count, self.tokens, self.first_loss = count, 0, 0.0

    def saw(self, inputs, loss) -> None:  # noqa: ANN001
        mask = inputs.get("attention_mask")
        self.tokens += int(inputs["input_ids"].numel() if mask is None else mask.sum())
        self.first_loss = self.first_loss or loss.item()

    def on_train_begin(self, *_args, **_more) -> None:
        self.turn = Turn()

    def on_step_end(self, _args, state, _control, **_more) -> None:
        if state.global_step % self.count == 0:
            self.turn.done(first_loss=self.first_loss, tokens=self.tokens)
            self.tokens = 0


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--packing", choices=("padded", "packed"), required=True)
    for name in ("turn", "examples", "length", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    tokenizer = AutoTokenizer.from_pretrained(args.folder / "model")
    model = AutoModelForCausalLM.from_pretrained(args.folder / "model", dtype=torch.float32)
    steps = json.loads((args.folder / "steps.json").read_text(encoding="utf-8"))
    examples = [example for step in steps for example in step]
    data = Dataset.from_dict(
        {
            "input_ids": [prompt + response for prompt, response in examples],
            "labels": [[-100] * len(prompt) + response for prompt, response in examples],
        }
    )
    packed = args.packing == "packed"
    tokens = sum(len(prompt) + len(response) for prompt, response in examples)
    callback = Steps(args.turn)
    with tempfile.TemporaryDirectory() as out:
        config = SFTConfig(
            output_dir=out,
            use_cpu=True,
            bf16=False,
            gradient_checkpointing=False,
            packing=packed,
            packing_strategy="bfd",
            # Packed rows are full: as many of them as hold the tokens of so many examples
            per_device_train_batch_size=round(tokens / len(steps) / args.length) if packed else args.examples,
            train_sampling_strategy="random" if packed else "sequential",
            max_steps=len(steps),
            max_length=args.length,
            learning_rate=2e-5,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            logging_steps=10_000,
            seed=1,
        )
        trainer = SFTTrainer(
            model=model, args=config, train_dataset=data, processing_class=tokenizer, callbacks=[callback]
        )
        compute_loss = trainer.compute_loss

        def watched(model, inputs, *rest, **more):  # noqa: ANN001, ANN002, ANN003, ANN202
            loss = compute_loss(model, inputs, *rest, **more)
            callback.saw(inputs, loss)
            return loss

        trainer.compute_loss = watched
        trainer.train()


if __name__ == "__main__":
    main()
