"""PPO on tasks so small that every response can be listed: its optimum is known, and what it reaches is no sample."""

import pytest
import torch

from loopwright.rewards import CallableReward
from loopwright.runtime.runtime import Runtime
from loopwright.schemas import Prompt
from loopwright.stages import ppo
from loopwright.stages.ppo import PPOConfig, PPOInputs
from tests.letters import LETTERS, distribution, letters_model

PROMPT = Prompt.user("p", LETTERS)  # after a prompt "a", attention would make the same of "aa" as of "a"
BETAS = (0.25, 0.5, 1.0)
SETTINGS = dict(
    steps=60, rollouts_per_step=256, minibatch_size=128, learning_rate=4e-3, critic_learning_rate=4e-3,
    schedule="cosine", save_steps=100,
)  # fmt: skip


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A policy that writes letters, some likelier than others, and EOS."""
    return letters_model(tmp_path_factory.mktemp("start"))


def trained(start, folder, responses, scores, **settings):
    """The distribution that PPO makes of the start's, where each response has its score."""
    table = dict(zip(responses, scores.tolist(), strict=True))
    reward = CallableReward(lambda prompts, sampled: [table[response] for response in sampled], "table")
    config, runtime = PPOConfig(**(SETTINGS | settings)), Runtime.temporary(folder, stage="ppo", seed=0)
    ppo.run(config, PPOInputs(start, [(reward, 1.0)], [PROMPT]), runtime)
    return distribution(folder / "output" / "model", PROMPT, config.max_new_tokens)[1]


def random_scores(responses):
    return torch.randn(len(responses), dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def optimum(reference, rewards, beta):
    """pi* ~ pi_ref exp(r / beta), where E[r] - beta KL(pi || pi_ref) is largest."""
    return torch.softmax(reference.log() + rewards / beta, 0)


def reward_and_kl(policy, reference, rewards):
    return policy.dot(rewards).item(), policy.dot((policy / reference).log()).item()


def entropy(policy):
    return -policy.dot(policy.log()).item()


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("max_new_tokens", [1, 2])
def test_the_optimum_of_each_beta_is_reached(start, tmp_path, beta, max_new_tokens):
    """Whatever the scores, less the penalty of truncated responses: reward and KL end within 2 % of the optimum's."""
    responses, reference = distribution(start, PROMPT, max_new_tokens)
    scores = random_scores(responses)
    rewards = scores - 0.5 * torch.tensor([float(len(response) == max_new_tokens) for response in responses])
    settings = dict(max_new_tokens=max_new_tokens, missing_eos_penalty=0.5, kl_coef=beta)
    reached = trained(start, tmp_path, responses, scores, **settings)

    best = {each: reward_and_kl(optimum(reference, rewards, each), reference, rewards) for each in BETAS}
    assert reward_and_kl(reached, reference, rewards) == pytest.approx(best[beta], rel=0.02)
    assert best[beta][0] > reference.dot(rewards).item() + 0.5  # far from the start
    for other in set(BETAS) - {beta}:  # and from what another beta asks for
        assert all(abs(a - b) > 0.05 * a for a, b in zip(best[beta], best[other], strict=True))


def test_with_lam_0_an_early_token_learns_through_the_critic_alone(start, tmp_path):
    """The first letter decides, the last token is paid: with TD(0) only V of what follows can tell the first."""
    responses, before = distribution(start, PROMPT, 4)
    scores = torch.tensor([float(response[:1] == "a" and len(response) == 4) for response in responses]).double()
    settings = dict(steps=20, max_new_tokens=4, missing_eos_penalty=0.0, kl_penalty="none", schedule="constant")
    settings |= dict(learning_rate=2e-3, value_clip_range=None)

    def reward(name, **varied):
        return trained(start, tmp_path / name, responses, scores, **settings, **varied).dot(scores)

    learns, frozen = dict(critic_learning_rate=1e-2), dict(critic_learning_rate=1e-12)
    assert before.dot(scores) < 0.05
    assert reward("bootstrapped", lam=0.0, **learns) > 0.95
    assert reward("nothing to bootstrap from", lam=0.0, **frozen) < 0.2
    assert reward("whole returns", lam=1.0, **frozen) > 0.95  # the critic is all that was missing


def test_only_the_kl_keeps_a_policy_from_collapsing(start, tmp_path):
    """A reward that hardly tells responses apart is whitened like any other: only beta says how little it matters."""
    responses, reference = distribution(start, PROMPT, 2)
    scores, beta = 1.0 + 0.05 * random_scores(responses), 0.1
    settings = dict(max_new_tokens=2, missing_eos_penalty=0.0)
    free = trained(start, tmp_path / "free", responses, scores, kl_penalty="none", **settings)
    held = trained(start, tmp_path / "held", responses, scores, kl_coef=beta, **settings)

    best = optimum(reference, scores, beta)
    assert reward_and_kl(held, reference, scores) == pytest.approx(reward_and_kl(best, reference, scores), rel=0.02)
    assert entropy(held) == pytest.approx(entropy(best), rel=0.02)
    assert entropy(best) > 0.9 * entropy(reference)
    assert entropy(free) < 0.02 * entropy(reference) and free.argmax() == scores.argmax()
