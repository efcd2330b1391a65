"""Every name of the table is its paper's: the configuration comes from the name, what is wanted from the paper.

Several rewards, chains of unequal length; a name that is missing in ``tests.reference.papers`` fails.
"""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from configs.algorithms import ALGORITHMS
from configs.checks.validate import validate
from configs.load import layered
from rl.advantage.assign import assign_advantages
from rl.advantage.combine import RewardTerm
from rl.advantage.overlong import overlong_terms, with_overlong
from rl.denoising.step_selection import picture_draws
from rl.loss.actions import Actions, ActionScores
from rl.loss.kl import kl_terms
from rl.loss.policy_loss import policy_loss
from tests.reference import loss as reference
from tests.reference.actions import cases, listed
from tests.reference.groups import image_segment, make_group, make_scores, text_segment
from tests.reference.papers import ADVANTAGES, DENOISING, TOKEN_LOSSES, TokenLoss

quick = settings(deadline=None, max_examples=40)
numbers = st.integers(-80, 80).map(lambda n: n / 8)  # exact in float32
WEIGHTS = (0.5, 2.0, 1.0)
NUM_STEPS = 10
CHAINS = {
    "token": ("text", {"answer": {"kind": "text", "policy": "text", "max_tokens": 100}}),
    "denoising": (
        "image",
        {"picture": {"kind": "image", "policy": "image", "size_px": 64, "num_steps": NUM_STEPS}},
    ),
}


def named(name, kind, **more):
    """The run that a name alone makes, of one block."""
    policy, chain = CHAINS[kind]
    content = {
        "algorithm": name,
        "chain": chain,
        "policies": {policy: {"kind": kind, "source": "a/b"}},
        "rewards": {reward: {"target": "a:B", "weight": w} for reward, w in zip("abc", WEIGHTS, strict=True)},
        **more,
    }
    config = layered(content, [])
    validate(config, paths=False)
    return config


def kind_of(name):
    return "denoising" if name in DENOISING and name not in TOKEN_LOSSES else "token"


def assigned(config, rewards, lengths):
    """Advantages group by group, as a step makes them."""
    (block,) = config.chain
    groups = []
    for index, sizes in enumerate(lengths):
        scores = {
            name: make_scores(name, by_group[index]) for name, by_group in zip("abc", rewards, strict=True)
        }
        segment = (
            text_segment
            if block == "answer"
            else lambda counts: image_segment(block, num_actions=counts[block])
        )
        segments = [[segment({block: size})] for size in sizes]
        groups.append(with_overlong(make_group(f"g{index}", scores, segments=segments), config))
    terms = {
        name: RewardTerm(weight=w, blocks=(block,), best=10.0, missing=0.0)
        for name, w in zip("abc", WEIGHTS, strict=True)
    }
    got = assign_advantages(groups, terms | overlong_terms(config), (block,), config.advantage)
    return [[got[chain.chain_id][0] for chain in group.chains] for group in groups]


@st.composite
def steps(draw):
    """Three rewards of a step's groups, and every chain's number of actions."""
    sizes = draw(st.lists(st.integers(2, 5), min_size=1, max_size=3))
    rewards = [[draw(st.lists(numbers, min_size=n, max_size=n)) for n in sizes] for _ in WEIGHTS]
    lengths = [draw(st.lists(st.integers(1, 100), min_size=n, max_size=n)) for n in sizes]
    return rewards, lengths


def test_the_papers_and_the_table_have_the_same_names():
    assert set(ADVANTAGES) == set(ALGORITHMS) == set(TOKEN_LOSSES) | set(DENOISING)


# ------------------------------------------------------------------------------- advantages


@pytest.mark.parametrize("name", [name for name, advantage in ADVANTAGES.items() if advantage])
@quick
@given(steps())
def test_advantages_of_several_rewards_and_unequal_lengths_are_the_papers(name, step):
    rewards, lengths = step
    if kind_of(name) == "denoising":
        lengths = [[NUM_STEPS - 1] * len(sizes) for sizes in lengths]
    got = assigned(named(name, kind_of(name)), rewards, lengths)
    want = ADVANTAGES[name](rewards, WEIGHTS, lengths)
    for group, paper in zip(got, want, strict=True):
        assert group == pytest.approx(paper, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", [name for name, advantage in ADVANTAGES.items() if advantage is None])
def test_a_name_that_is_about_something_else_leaves_the_advantage_alone(name):
    plain = {"credit": "chain", "combine": "sum", "baseline": "leave_one_out", "scale": "none"}
    config = named(name, kind_of(name), advantage=plain)
    assert config.advantage == named("", kind_of(name), advantage=plain).advantage


def test_dapos_slight_penalty_leaves_a_right_answer_right():
    right = [[1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]]
    nothing = [[0.0] * 8]
    config = named("dapo", "token", rewards={"b": {"target": "a:B", "weight": 1.0}})
    penalised = [[81, 9, 30, 55, 12, 80, 1, 40]]  # one token of the twenty: -0.05
    groups = [
        with_overlong(
            make_group(
                "g",
                {"b": make_scores("b", right[0]), "a": make_scores("a", nothing[0])},
                segments=[[text_segment({"answer": size})] for size in penalised[0]],
            ),
            config,
        )
    ]
    terms = {"b": RewardTerm(weight=1.0, blocks=("answer",), best=1.0, missing=0.0)} | overlong_terms(config)
    got = assign_advantages(groups, terms, ("answer",), config.advantage)
    assert got["g/0"][0] == pytest.approx(0.864, abs=5e-4)
    assert got["g/1"][0] == pytest.approx(0.958, abs=5e-4)


# ------------------------------------------------------------------------------- losses of tokens


@pytest.mark.parametrize("name", TOKEN_LOSSES)
@quick
@given(cases())
def test_the_loss_of_sequences_of_unequal_length_is_the_papers(name, case):
    paper: TokenLoss = TOKEN_LOSSES[name]
    policy = named(name, "token").policies["text"]
    actions = case.actions
    proximal = ActionScores(logprobs=(case.scores.logprobs + actions.behaviour.logprobs) / 2)
    sums = policy_loss(
        policy.loss,
        case.scores,
        actions,
        max_actions=7,
        reference=case.reference if policy.loss.kl_weight else None,
        proximal=proximal,
    )
    if not actions.mask.any():
        return
    new, behaviour, near, frozen, advantages, mask = listed(
        case.scores.logprobs,
        actions.behaviour.logprobs,
        proximal.logprobs,
        case.reference.logprobs,
        actions.advantages,
        actions.mask,
    )
    values, _ = reference.surrogate(
        paper.surrogate, new, near if paper.correction else behaviour, advantages, mask
    )
    if paper.correction:
        values = [
            corrected(paper.correction, *row) for row in zip(values, near, behaviour, mask, strict=True)
        ]
    want = -reference.aggregated(paper.aggregation, values, mask, 7)
    if paper.kl:
        weight, estimator = paper.kl
        terms = [
            [reference.kl(estimator, a, b) for a, b in zip(*row, strict=True)]
            for row in zip(new, frozen, strict=True)
        ]
        want += weight * reference.aggregated(paper.aggregation, terms, mask, 7)
    assert policy.loss.kl_weight == (paper.kl[0] if paper.kl else 0.0)
    got = (sums.loss / sums.divisor_share).item()
    assert got == pytest.approx(want, rel=1e-5, abs=1e-6)


def corrected(method, values, near, behaviour, mask):
    trained = [index for index, is_trained in enumerate(mask) if is_trained]
    gaps = [near[index] - behaviour[index] for index in trained]
    out = list(values)
    for place, index in enumerate(trained):
        out[index] *= reference.correction_factor(method, gaps, place)
    return out


def test_the_baseline_form_of_reinforce_pp_has_the_k2_kl():
    assert named("reinforce_pp_baseline", "token").policies["text"].loss.kl_estimator == "k2"


# ------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("name", DENOISING)
def test_pictures_are_sampled_and_trained_as_in_the_paper(name):
    paper, policy = DENOISING[name], named(name, "denoising").policies["image"]
    if paper.sampler:
        assert (policy.rollout.sampler, policy.rollout.noise_level) == (paper.sampler, paper.noise_level)
    if paper.kl:
        assert (policy.loss.kl_weight, policy.loss.kl_estimator) == paper.kl
    assert policy.loss.step_weighting == paper.step_weighting
    draws = {
        group: [
            picture_draws(policy.rollout, NUM_STEPS, picture_seed=picture, group_seed=group, grpo_step=0)
            for picture in range(4)
        ]
        for group in range(60)
    }
    for pictures in draws.values():
        noises = {seed for seed, _ in pictures}
        assert (noises != {None}) == paper.shared_noise
        assert len(noises) == 1
        if paper.starts is not None:
            assert len({plan for _, plan in pictures}) == 1  # one way to the trained steps for the group
    plans = [plan for pictures in draws.values() for _, plan in pictures]
    if paper.num_trained is not None:
        assert {len(plan.trained) for plan in plans} == {paper.num_trained}
    if paper.starts is not None:
        assert {plan.trained[0] for plan in plans} == paper.starts


@pytest.mark.parametrize("name", DENOISING)
def test_bounds_of_mean_log_probs_are_small_enough_to_hold_anything(name):
    """A mean over a latent's elements moves by 1e-4 or so; PPO's 0.2 would never hold it."""
    paper, policy = DENOISING[name], named(name, "denoising").policies["image"]
    std = torch.full((1, 2), 0.5)
    means = torch.zeros(1, 2, 4)
    old = ActionScores(logprobs=torch.tensor([[-1.0, -1.0]]), step_mean=means, step_std=std)
    now = ActionScores(logprobs=torch.tensor([[-0.999, -1.001]]), step_mean=means, step_std=std)
    actions = Actions(
        mask=torch.ones(1, 2).bool(),
        advantages=torch.tensor([[1.0, -1.0]]),
        block_of=torch.zeros(1, 2, dtype=torch.int64),
        behaviour=old,
    )
    sums = policy_loss(
        policy.loss, now, actions, max_actions=9, reference=now if policy.loss.kl_weight else None
    ).sums
    held = (sums["clip_frac_low"].item(), sums["clip_frac_high"].item())
    assert held == ((0, 0) if paper.clip is None else (1, 1))
    if paper.clip is not None:
        assert (policy.loss.surrogate.clip_low, policy.loss.surrogate.clip_high) == (paper.clip, paper.clip)


def test_flow_grpos_kl_at_ten_even_steps_is_the_released_one():
    """Released: 0.04 times the gap's square over twice ``sigma_t^2``, without the step's length; ours has it."""
    policy = named("flow_grpo", "denoising").policies["image"]
    generator = torch.Generator().manual_seed(0)
    own, other = torch.randn(2, 3, NUM_STEPS - 1, 16, generator=generator)
    sigma_t = 0.2 + torch.rand(3, NUM_STEPS - 1, generator=generator)
    step_std = sigma_t * (1 / NUM_STEPS) ** 0.5
    blank = torch.zeros(3, NUM_STEPS - 1)
    terms = kl_terms(
        policy.loss.kl_estimator,
        ActionScores(logprobs=blank, step_mean=own, step_std=step_std),
        ActionScores(logprobs=blank, step_mean=other, step_std=step_std),
        blank == 0,
    )
    released = ((own - other) ** 2).mean(dim=2) / (2 * sigma_t**2)
    torch.testing.assert_close(policy.loss.kl_weight * terms, 0.04 * released)
