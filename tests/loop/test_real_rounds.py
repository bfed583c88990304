"""The recipes on real comparisons, made small: two rounds of each, from a base folder of one's own."""

import os
from pathlib import Path

import pytest

from loopwright.data.readers import read_records
from loopwright.errors import ConfigError
from loopwright.loop import load_config, run
from loopwright.loop.plan import make_plan
from loopwright.models.loading import LlamaShape, new_llama
from loopwright.schemas import Prompt, Ranking, is_ai
from tests.loop.test_rounds import made as made_anew
from tests.loop.test_run import Log
from tests.tiny import saved, tiny_tokenizer

ROOT = Path(__file__).parents[2]
DATA = Path(os.environ.get("LOOPWRIGHT_DATA", ROOT.parent / "shared" / "data"))
needs_data = pytest.mark.skipif(
    not (DATA / "hh_harmless.jsonl.gz").is_file(), reason=f"no real data in {DATA}; set LOOPWRIGHT_DATA to its folder"
)
TRAINED = ("epochs=0.1", "warmup_steps=0", "reference_samples=8", "sampling.max_new_tokens=8")
METHODS = {
    "hh": ("ppo", "steps=1", "rollouts_per_step=4", "minibatch_size=4", "microbatch_size=4", "max_new_tokens=8"),
    "judged": ("rejection", "max_prompts=4", "samples_per_prompt=2", "max_new_tokens=8", "epochs=1"),
}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A random model of bytes, with room for a short dialogue."""
    shape = LlamaShape(hidden_size=16, layers=1, heads=2, intermediate_size=24, max_positions=512)
    return saved(new_llama(shape, tiny_tokenizer(), seed=0), tiny_tokenizer(), tmp_path_factory.mktemp("base"))


def small(name, base):
    """The recipe's own settings, but for how much of everything there is, and two rounds of three."""
    method, *settings = METHODS[name]
    trained = [f"{section}.{one}" for section in ("annotator", "judge") for one in TRAINED]
    rounds = []
    for one in ("rounds.schedule.v1", "rounds.schedule.v2-v3"):
        trained += [f"{one}.reward.{setting}" for setting in TRAINED]
        rounds += [f"{one}.{method}.{setting}" for setting in settings]
        rounds += [f"{one}.evaluate.held_out_prompts=6", f"{one}.evaluate.sampling.max_new_tokens=8"]
    asked = ["prompts=4", "responses_per_prompt=2", "sampling.max_new_tokens=8"]
    return [
        f"data_dir={DATA}",
        "dataset.longest_prompt=70",
        f"sft.model={base}",
        "sft.epochs=0.2",
        "sft.warmup_steps=0",
        *trained,
        *rounds,
        *(f"rounds.schedule.v2-v3.feedback.{one}" for one in asked),
        "rounds.until=2",
        "evaluate={held_out_prompts: 6, sampling: {max_new_tokens: 8}, greedy: false, best_of: 0}",
        "tensorboard=false",
    ]


@needs_data
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(METHODS))
def test_two_rounds_from_a_base_folder(name, base, tmp_path):
    config = load_config(ROOT / "recipes" / f"{name}.yaml", small(name, base))
    summary = run(config, tmp_path / "run", render=lambda _: None)
    stages, made = (
        summary["stages"],
        {path.name.rsplit("-", 1)[0]: path for path in (tmp_path / "run" / "artifacts").iterdir()},
    )
    assert list(summary["versions"]) == ["sft", "v1", "v2"]
    assert all(0 < one["gold"] < 1 for one in summary["versions"].values())
    assert stages["evaluate"]["judge_accuracy"] == pytest.approx(stages["judge"]["accuracy"], abs=1e-5)

    held_out = read_records(made["dataset"] / "prompts_held_out.jsonl", Prompt).records
    rankings = read_records(made["v2.feedback"] / "rankings.jsonl", Ranking).records
    assert len(rankings) >= 4 and all(is_ai(one.annotator) for one in rankings)
    assert not {one.prompt for one in rankings} & {one.messages for one in held_out}
    # V1 learned from the file's comparisons alone, V2 from them and from what was said of V1's answers.
    assert stages["v2.reward"]["pairs"] > stages["v1.reward"]["pairs"] > 0
    judged = [stages[step]["judgements_of_ai"] for step in ("v1.reward", "v2.reward")]
    assert judged[1] == judged[0] + len(rankings) and (judged[0] > 0) == (name == "judged")

    log = Log()
    run(config, tmp_path / "run", display=log, render=lambda _: None)
    assert made_anew(log) == []


@pytest.mark.parametrize("name", sorted(METHODS))
def test_where_a_team_of_ones_own_comes_in(name, tmp_path):
    """As the recipes' comments say."""
    for file in ("hh_harmless.jsonl.gz", "judged_comparisons.jsonl.gz", "judged_reference.jsonl.gz"):
        (tmp_path / file).touch()
    people = "{store: http://127.0.0.1:8600, project: p, wait: {rankings: 150}, prompts: 150, off_topic_share: 0}"
    settings = [f"data_dir={tmp_path}", f"sft.model={tmp_path}", f"rounds.schedule.v2-v3.feedback={people}"]
    path = ROOT / "recipes" / f"{name}.yaml"
    with pytest.raises(ConfigError, match="annotator has no effect where people judge"):
        make_plan(load_config(path, settings))
    plan = make_plan(load_config(path, [*settings, "annotator=false", "dataset.annotators_share=0"]))
    assert "annotator" not in [step.name for step in plan.steps]


def test_a_weight_of_earlier_rounds_where_none_has_labels_is_found_before_anything_runs(tmp_path):
    """V1 learns from the file's comparisons, which are of no round."""
    (tmp_path / "hh_harmless.jsonl.gz").touch()
    settings = [
        f"data_dir={tmp_path}",
        f"sft.model={tmp_path}",
        "rounds.schedule.v2-v3.reward.earlier_rounds_weight=0.5",
    ]
    make_plan(load_config(ROOT / "recipes" / "hh.yaml", settings))
    with pytest.raises(ConfigError, match="earlier_rounds_weight has no effect without rounds in which labels"):
        make_plan(
            load_config(
                ROOT / "recipes" / "hh.yaml", [*settings, "rounds.schedule.v1.reward.earlier_rounds_weight=0.5"]
            )
        )
