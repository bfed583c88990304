import math

import pytest

from loopwright.models.heads import reward_model_from
from loopwright.rewards import PreferenceJudge, RewardModel, Sample
from loopwright.schemas import Prompt
from tests.tiny import tiny_model, tiny_tokenizer

PROMPT = Prompt.user("p", "How late is it?")


@pytest.mark.parametrize(("as_probability", "scale"), [(False, 1.0), (True, 3.0)])
def test_worth_is_the_sigmoid_of_the_score(as_probability, scale, monkeypatch):
    lm = tiny_model("llama")
    lm.config.pad_token_id = 257
    model = reward_model_from(lm, seed=0)
    model.config.preference_scale = 3.0
    reward = RewardModel(model, tiny_tokenizer())
    judge = PreferenceJudge(reward, as_probability=as_probability)
    score = float(reward.score([Sample(PROMPT, "Six.", [], [], finished=True, tokenizer=None)]).total)
    assert judge(PROMPT, "Six.") == pytest.approx(1 / (1 + math.exp(-scale * score)))
    assert judge(PROMPT, "Seven.") != judge(PROMPT, "Six.")
    said = judge(PROMPT, "Six.")
    monkeypatch.setattr(reward, "score", None)
    assert judge(PROMPT, "Six.") == said  # remembered
