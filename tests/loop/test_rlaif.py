"""From a judge's labels to a policy: the recipe's own stages, in a small world, with a model that knows little."""

import json
from pathlib import Path

import pytest

from loopwright.data.readers import read_records
from loopwright.loop import load_config, run
from loopwright.responders.judges import open_judge
from loopwright.schemas import Comparison, is_ai
from loopwright.stages import ai_feedback
from tests.responders.judges import read

RECIPE = Path(__file__).parents[2] / "recipes" / "rlaif.yaml"
SMALL = (
    "world={documents: 150, held_out_documents: 5, demonstrations: 60, train_prompts: 60, test_prompts: 10, "
    "skills: [judge], skill_share: 0.5}",
    "pretrain={vocab_size: 400, max_length: 512, shape: {hidden_size: 32, layers: 2, heads: 2, intermediate_size: 64, "
    "max_positions: 512}, max_steps: 4, batch_size_per_device: 4}",
    "sft={max_steps: 4, batch_size_per_device: 4, max_length: 512}",
    "ai_feedback={prompts: 24, sampling: {max_new_tokens: 12}, judge: {reasoning: {max_new_tokens: 6}}, "
    "people: {share: 0.25, control_share: 0.1}, canaries: 4, constitution: world}",
    "reward={max_steps: 4, batch_size_per_device: 4, reference_samples: 8, sampling: {max_new_tokens: 12}}",
    "ppo={steps: 2, rollouts_per_step: 8, minibatch_size: 8, max_new_tokens: 12}",
    "evaluate=false",
)


class Decided:
    """The model's own reasons, and a liking for short answers: after four steps it prefers a position to any answer."""

    def __init__(self, chooser):
        self.chooser, self.name, self.policy, self.write = chooser, chooser.name, chooser.policy, chooser.write

    def choose(self, conversations, choices):
        seen = [read(messages[0].content) for messages in conversations]
        return [[-0.1 * len(one[letter]) for letter in choices] for one in seen]


@pytest.mark.slow
def test_a_judge_trains_a_policy(tmp_path, monkeypatch):
    monkeypatch.setattr(ai_feedback, "open_judge", lambda *given: Decided(open_judge(*given)))
    summary = run(load_config(RECIPE, SMALL), tmp_path / "run")
    stages = summary["stages"]
    labels = read_records(next(tmp_path.glob("run/artifacts/ai_feedback-*/comparisons.jsonl")), Comparison).records
    of_ai = [label for label in labels if is_ai(label.annotator)]
    assert stages["ai_feedback"]["labels_of_ai"] == len(of_ai) > 0
    assert stages["ai_feedback"]["labels_of_people"] == len(labels) - len(of_ai) > 0
    assert {label.guideline for label in of_ai} == {"harmless", "polite", "brief"}
    assert {label.annotator for label in of_ai} == {f"ai:{artifact_id(tmp_path, 'sft')}"}
    assert stages["reward"]["judgements_of_ai"] == len(of_ai)
    assert stages["ppo"]["steps"] == 2


def artifact_id(folder, stage):
    return json.loads(next(folder.glob(f"run/artifacts/{stage}-*/manifest.json")).read_text())["id"]
