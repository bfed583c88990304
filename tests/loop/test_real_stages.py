"""The real stages, as the loop sees them."""

from pathlib import Path

import pytest

from loopwright.errors import ConfigError
from loopwright.loop import config_from, load_config
from loopwright.loop.config import resolved_text
from loopwright.loop.plan import make_plan
from loopwright.loop.table import STAGES, load_stages

ROOT = Path(__file__).parents[2]
CRASH = ROOT / "benchmarks" / "crash.yaml"


def test_the_table_is_in_the_order_of_the_loop():
    """Of whatever a stage needs, something stands above it."""
    done = set()
    for name, stage in load_stages(STAGES).items():
        assert stage.name == name
        assert all(done.intersection(candidates) for role, candidates in stage.needs.items() if "*" not in role)
        done.add(name)


def test_nothing_is_trained_from_the_comparison():
    stages = load_stages(STAGES)
    assert [name for name in stages if "sft_clean" in sum(stages[name].needs.values(), ())] == ["evaluate"]


@pytest.mark.parametrize(
    "recipe", [CRASH, *(ROOT / "recipes" / f"{name}.yaml" for name in ("people", "rlaif", "judge"))]
)
def test_a_resolved_config_means_the_same_run(recipe, tmp_path):
    """`loopwright run RUN` and `show RUN` read config.yaml: same settings, same keys, nobody blamed for a default."""
    config = load_config(recipe)
    path = tmp_path / "config.yaml"
    path.write_text(resolved_text(config))
    again = load_config(path, resolved=True)
    assert again.model_dump() == config.model_dump()
    origins = [[plan.origin(step, {}).key() for step in plan.steps] for plan in (make_plan(config), make_plan(again))]
    assert origins[0] == origins[1]


def test_the_longer_recipe_is_the_quickstart_with_more_of_everything():
    quick, longer = (load_config(ROOT / "recipes" / f"{name}.yaml") for name in ("quickstart", "front_desk_long"))
    assert list(longer.sections) == list(quick.sections)
    assert longer.sections["pretrain"].shape == quick.sections["pretrain"].shape
    assert longer.sections["pretrain"].max_steps > quick.sections["pretrain"].max_steps
    assert longer.sections["feedback"].prompts > quick.sections["feedback"].prompts


def test_people_demonstrate_to_sft_and_to_no_stage_else():
    asked = {"store": "http://127.0.0.1:8600", "project": "write", "wait": {"demonstrations": 9}}
    before = {"name": "x", "world": {}, "pretrain": {}, "demonstrations": asked}
    values = before | {"sft": {}, "sft_clean": {}, "feedback": {}, "reward": {}, "ppo": {}}
    steps = make_plan(config_from(values, "here")).steps
    assert [step.name for step in steps] == list(values)[1:]
    assert [step.name for step in steps if "demonstrations" in step.parents.values()] == ["sft"]


def test_the_recipe_with_people_asks_no_more_than_its_items_can_bring():
    asked = load_config(ROOT / "recipes" / "people.yaml").sections["feedback"]
    assert asked.store == "http://127.0.0.1:8600"
    assert asked.wait["comparisons"] < asked.prompts
    assert asked.responses_per_prompt == 2


def test_the_constitutional_recipe_asks_people_about_helpfulness_alone():
    config = load_config(ROOT / "recipes" / "constitutional.yaml")
    steps = {step.name: step for step in make_plan(config).steps}
    assert set(config.sections["feedback"].tasks) & set(config.sections["ai_feedback"].tasks) == set()
    assert "harmful" not in config.sections["feedback"].tasks and config.sections["world"].helpful_only
    assert steps["constitutional"].parents["policy"] == "sft"
    assert steps["feedback"].parents["policy"] == steps["ppo"].parents["policy"] == "constitutional"
    assert steps["ai_feedback"].parents["policy"] == "constitutional"
    assert steps["ai_feedback"].parents["judge_model"] == "sft"  # which was taught to judge
    judged = config.sections["ai_feedback"]
    assert judged.constitution == "world" and judged.judge.reasoning is not None and judged.judge.clamp == 0.1


@pytest.mark.parametrize("name", ["movie_reviews", "movie_reviews_large"])
def test_the_recipes_of_movie_reviews_find_their_data(name, tmp_path):
    config = load_config(ROOT / "recipes" / f"{name}.yaml", [f"data_dir={tmp_path}"])
    assert config.name == name
    assert list(config.sections) == ["pretrain", "reward", "ppo", "evaluate"]
    assert config.sections["reward"].labelled == tmp_path / "sst2_train.tsv"
    assert config.sections["evaluate"].judge.check == tmp_path / "sst2_dev.tsv"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("ppo.clip_rage=0.1", "--set ppo.clip_rage=0.1: unknown key ppo.clip_rage; did you mean ppo.clip_range?"),
        ("ppo.clip_range=1.5", "ppo.clip_range = 1.5"),
        ("ppo.kl_target=null", "kl_target"),
        ("sft.epochs=2", "max_steps"),
        ("sft.muon_learning_rate=0.1", "muon_learning_rate"),
        ("sft.trainable={mode: all, layers: 2}", "layers"),
        ("sft.max_steps=lots", "sft.max_steps = 'lots'"),
        ("rewards={}", "unknown key rewards; did you mean reward?"),
    ],
)
def test_mistakes_in_a_real_recipe_are_one_sentence(override, message):
    with pytest.raises(ConfigError) as error:
        load_config(CRASH, [override])
    assert message in str(error.value)
    assert "\n" not in str(error.value)
