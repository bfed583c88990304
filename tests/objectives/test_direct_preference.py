"""DPO, IPO and KTO by hand, against what they reduce to, and against plain numbers written down from the papers."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from loopwright.objectives.direct_preference import dpo_loss, ipo_loss, kto_loss, mismatched_kl
from loopwright.objectives.preference import bradley_terry_loss

BETAS = st.floats(0.01, 2.0)
SEEDS = st.integers(0, 2**31)


def drawn(seed, *shape, scale=3.0):
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slope(loss, at):
    """d loss / d h at a difference h of log-ratios."""
    h = torch.tensor([at], dtype=torch.float64, requires_grad=True)
    loss(h, torch.zeros(1, dtype=torch.float64)).sum().backward()
    return float(h.grad)


def test_dpo_by_hand():
    # beta h = 0, log 3: sigmoid 1/2, 3/4
    chosen, rejected = torch.tensor([2.0, 2 * math.log(3.0)]), torch.tensor([2.0, 0.0])
    assert_close(dpo_loss(chosen, rejected, beta=0.5), torch.tensor([math.log(2.0), -math.log(0.75)]))
    smoothed = dpo_loss(chosen, rejected, beta=0.5, label_smoothing=0.1)
    assert_close(smoothed[1], torch.tensor(-0.9 * math.log(0.75) - 0.1 * math.log(0.25)))


def test_ipo_by_hand():
    got = ipo_loss(torch.tensor([1.0, 3.0]), torch.tensor([1.0, 1.0]), beta=0.25)  # drawn to 2
    assert_close(got, torch.tensor([4.0, 0.0]))


def test_kto_by_hand():
    # beta (r - z_0) = log 3 and -log 3
    ratios, good = torch.tensor([1.0 + 2 * math.log(3.0), 1.0 - 2 * math.log(3.0)]), torch.tensor([1.0, 0.0])
    given = dict(beta=0.5, desirable_weight=2.0, undesirable_weight=3.0)
    assert_close(kto_loss(ratios, good, torch.tensor(1.0), **given), torch.tensor([2 * 0.25, 3 * 0.25]))
    assert_close(kto_loss(ratios, 1 - good, torch.tensor(1.0), **given), torch.tensor([3 * 0.75, 2 * 0.75]))
    half = kto_loss(ratios[:1], torch.tensor([0.25]), torch.tensor(1.0), **given)
    assert_close(half, torch.tensor([0.25 * 2 * 0.25 + 0.75 * 3 * 0.75]))
    assert not kto_loss(ratios, good, torch.tensor(1.0, requires_grad=True), **given).requires_grad


def test_mismatched_kl_by_hand():
    found = mismatched_kl(torch.tensor([3.0, -1.0], requires_grad=True))
    assert found == 1.0 and not found.requires_grad
    assert mismatched_kl(torch.tensor([1.0, -3.0])) == 0.0
    assert mismatched_kl(torch.zeros(0)) == 0.0


def from_the_paper(row, beta, eps):
    """Rafailov et al. eq. 7, with Mitchell's eq. 3, from probabilities of responses."""
    w, ref_w, lose, ref_l = (math.exp(x) for x in row)
    p = 1 / (1 + math.exp(-(beta * math.log(w / ref_w) - beta * math.log(lose / ref_l))))
    return -(1 - eps) * math.log(p) - eps * math.log(1 - p)


@given(seed=SEEDS, beta=BETAS, eps=st.floats(0, 0.5))
def test_dpo_agrees_with_the_paper(seed, beta, eps):
    logprobs = -drawn(seed, 5, 4).abs()
    expected = [from_the_paper(row, beta, eps) for row in logprobs.tolist()]
    ratios = logprobs[:, 0] - logprobs[:, 1], logprobs[:, 2] - logprobs[:, 3]
    got = dpo_loss(*ratios, beta=beta, label_smoothing=eps)
    assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@given(seed=SEEDS, beta=BETAS)
def test_ipo_agrees_with_the_paper(seed, beta):
    """Azar et al. eq. 17: h = log(pi(w) pi_ref(l) / (pi(l) pi_ref(w))), (h - 1 / (2 tau))^2."""
    logprobs = -drawn(seed, 5, 4).abs()
    expected = []
    for w, ref_w, lose, ref_l in logprobs.exp().tolist():
        expected.append((math.log(w * ref_l / (lose * ref_w)) - 1 / (2 * beta)) ** 2)
    got = ipo_loss(logprobs[:, 0] - logprobs[:, 1], logprobs[:, 2] - logprobs[:, 3], beta=beta)
    assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@given(seed=SEEDS, beta=BETAS, weights=st.tuples(st.floats(0.1, 3), st.floats(0.1, 3)))
def test_kto_agrees_with_the_paper(seed, beta, weights):
    """Ethayarajh et al. eq. 8: lambda_y - v, v = lambda sigmoid(+-beta (r - z_0)), z_0 = max(0, mean)."""
    ratios, wrong = drawn(seed, 6), drawn(seed + 1, 4)
    good = [True, False, True, True, False, False]
    z_0 = max(0.0, sum(wrong.tolist()) / 4)
    expected = []
    for r, liked in zip(ratios.tolist(), good, strict=True):
        weight = weights[0] if liked else weights[1]
        gain = beta * (r - z_0) if liked else beta * (z_0 - r)
        expected.append(weight - weight / (1 + math.exp(-gain)))
    given = dict(beta=beta, desirable_weight=weights[0], undesirable_weight=weights[1])
    got = kto_loss(ratios, torch.tensor(good).float(), mismatched_kl(wrong), **given)
    assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=1e-6)


@given(seed=SEEDS, beta=BETAS)
def test_dpo_is_bradley_terry_of_implicit_rewards(seed, beta):
    chosen, rejected = drawn(seed, 2, 5)
    assert_close(dpo_loss(chosen, rejected, beta=beta), bradley_terry_loss(beta * chosen, beta * rejected))


def test_a_small_beta_leaves_the_difference_of_log_ratios():
    """-log sigmoid(x) = log 2 - x / 2 + O(x^2): the policy gradient of a margin, whatever its sign."""
    chosen, rejected = drawn(0, 2, 5)
    beta = 1e-6
    got = (math.log(2.0) - dpo_loss(chosen, rejected, beta=beta)) * 2 / beta
    assert_close(got, chosen - rejected, rtol=1e-4, atol=1e-4)


@given(beta=BETAS)
def test_a_label_that_says_nothing_holds_the_margin_at_zero(beta):
    assert slope(lambda w, lose: dpo_loss(w, lose, beta=beta, label_smoothing=0.5), 0.0) == 0.0
    for h in (-1.0, 1.0):
        assert slope(lambda w, lose: dpo_loss(w, lose, beta=beta, label_smoothing=0.5), h) * h > 0


@given(beta=BETAS, eps=st.floats(0.01, 0.49))
def test_conservative_dpo_stops_where_the_label_is_as_sure_as_it_is_right(beta, eps):
    margin = math.log((1 - eps) / eps) / beta
    assert abs(slope(lambda w, lose: dpo_loss(w, lose, beta=beta, label_smoothing=eps), margin)) < 1e-12


@given(beta=BETAS, probability=st.floats(0, 1))
def test_ipo_has_its_minimum_at_half_the_inverse_of_beta(beta, probability):
    assert abs(slope(lambda w, lose: ipo_loss(w, lose, beta=beta), 0.5 / beta)) < 1e-9
    soft = torch.tensor([probability], dtype=torch.float64)
    at = (2 * probability - 1) / (2 * beta)
    assert abs(slope(lambda w, lose: ipo_loss(w, lose, beta=beta, probability=soft), at)) < 1e-9


@given(seed=SEEDS)
def test_soft_labels_are_the_mean_of_their_votes(seed):
    chosen, rejected = drawn(seed, 2, 5)
    share = torch.full((5,), 0.75, dtype=torch.float64)
    for loss in (dpo_loss, ipo_loss):
        votes = 0.75 * loss(chosen, rejected, beta=0.3) + 0.25 * loss(rejected, chosen, beta=0.3)
        assert_close(loss(chosen, rejected, beta=0.3, probability=share), votes)
    smoothed = dpo_loss(chosen, rejected, beta=0.3, probability=share, label_smoothing=0.5)
    assert_close(smoothed, dpo_loss(chosen, rejected, beta=0.3, label_smoothing=0.5))


def test_gains_and_losses_of_kto_matter_less_the_larger_they_are():
    """Its gradient is beta sigmoid' (Ethayarajh et al., sec. 4.1): an answer that cannot be learned is let go."""
    good, bad = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)

    def of(label, at):
        return slope(lambda r, zero: kto_loss(r, label, zero[0] + 2.0, beta=0.5), at)

    assert of(good, 2.0) == pytest.approx(-0.5 / 4)  # steepest at the baseline
    assert of(bad, 2.0) == pytest.approx(0.5 / 4)
    for distance in (1.0, 4.0, 30.0):
        assert (
            of(good, 2.0 + distance) == pytest.approx(of(good, 2.0 - distance)) == pytest.approx(-of(bad, 2 + distance))
        )
    assert abs(of(good, 32.0)) < 1e-6 < abs(of(good, 6.0)) < abs(of(good, 3.0))


def test_huge_log_ratios_neither_overflow_nor_stop_dpo():
    chosen = torch.tensor([-1e5], requires_grad=True)
    loss = dpo_loss(chosen, torch.zeros(1), beta=0.1)
    loss.sum().backward()
    assert_close(loss.detach(), torch.tensor([1e4]))
    assert_close(chosen.grad, torch.tensor([-0.1]))
    ratios = torch.tensor([1e5, -1e5], requires_grad=True)
    kto_loss(ratios, torch.tensor([1.0, 0.0]), torch.tensor(0.0), beta=0.1).sum().backward()
    assert ratios.grad.isfinite().all()


@pytest.mark.parametrize("loss", ["dpo", "ipo"])
def test_the_optimum_over_all_policies(loss):
    """Labels as Bradley and Terry draw them from rewards r. DPO's best policy is pi_ref exp(r / beta) / Z (Rafailov et
    al., eq. 4); IPO's log-ratios differ by (2 p - 1) / (2 beta), as near as differences of one function can."""
    rewards, reference = drawn(3, 4, scale=1.0), drawn(4, 4).log_softmax(0)
    policy, beta = reference.clone().requires_grad_(), 0.5
    first, second = torch.tensor([(a, b) for a in range(4) for b in range(4) if a < b]).T
    probability = torch.sigmoid(rewards[first] - rewards[second])
    optimizer = torch.optim.LBFGS([policy], max_iter=200, tolerance_grad=1e-12, line_search_fn="strong_wolfe")
    chosen_loss = dpo_loss if loss == "dpo" else ipo_loss

    def closure():
        optimizer.zero_grad()
        ratios = policy.log_softmax(0) - reference
        total = chosen_loss(ratios[first], ratios[second], beta=beta, probability=probability).mean()
        total.backward()
        return total

    optimizer.step(closure)
    ratios = policy.detach().log_softmax(0) - reference
    if loss == "dpo":
        assert_close(policy.detach().softmax(0), (reference + rewards / beta).softmax(0), rtol=1e-4, atol=1e-6)
    else:
        targets, aim = torch.zeros(4, 4, dtype=torch.float64), (2 * probability - 1) / (2 * beta)
        targets[first, second], targets[second, first] = aim, -aim
        assert_close(ratios - ratios.mean(), targets.mean(1), rtol=1e-4, atol=1e-6)  # least squares over all pairs
