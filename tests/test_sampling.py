"""The draw: known answers, the right distribution, and nothing that depends on who else is drawn."""

import math
import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import MinPLogitsWarper, RepetitionPenaltyLogitsProcessor, TopKLogitsWarper, TopPLogitsWarper

from core.engine import sampling, warpers
from core.types import DEFAULT_SAMPLING, Sampling
from tests.arithmetics import Numpy, Shuffled

KNOWN_KEYS = [8502297052727420365, -6771718086269025406, 7259075206555650826]
KNOWN_NOISE = [
    [0.24231292936451346, 1.1814034862971659, -1.3790303590083743, 0.5508812220346136],
    [3.70334695870282, 1.388312089190437, 0.19642926538720354, 0.33040216774240627],
    [0.7859543658277948, 2.056882467633991, -0.20705918831485798, -0.20937857550234762],
]


def settings_of(**changes) -> Sampling:
    return Sampling.model_validate({**DEFAULT_SAMPLING.model_dump(), "temperature": 1.0, **changes})


def nothing_seen(logits: torch.Tensor) -> torch.Tensor:
    return torch.zeros(logits.shape, dtype=torch.bool)


def draw_one(logits: torch.Tensor, row: Sampling, step: int = 0) -> sampling.Draw:
    return sampling.draw(logits[None], nothing_seen(logits[None]), [row], [step])[0]


def independent_uniform(seed: int, step: int, token: int) -> float:
    """The rule of the documentation in plain integers, without torch."""
    import hashlib

    mask = (1 << 64) - 1
    key = int.from_bytes(hashlib.blake2b(f"v1|{seed}|{step}".encode(), digest_size=8).digest(), "little")
    z = (token * 0x9E3779B97F4A7C15 + key) & mask
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & mask
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
    z ^= z >> 31
    return ((z >> 12) + 0.5) * 2.0**-52


def test_noise_has_known_answers():
    """Written down once: a change of these numbers is a change of the sampler's version."""
    keys = torch.tensor([sampling.key(1234, 0), sampling.key(1234, 1), sampling.key(0, 7)])
    assert keys.tolist() == KNOWN_KEYS
    noise = sampling.gumbel(keys, torch.tensor([0, 1, 2, 151_935]))
    assert noise.tolist() == [pytest.approx(row, rel=1e-14) for row in KNOWN_NOISE]


@given(st.integers(0, 2**53 - 1), st.integers(0, 100_000), st.integers(0, 300_000))
def test_noise_follows_the_documented_integers(seed, step, token):
    drawn = sampling.uniform(torch.tensor([sampling.key(seed, step)]), torch.tensor([token]))
    assert drawn.item() == independent_uniform(seed, step, token)


def test_noise_is_finite_at_both_ends():
    ends = sampling.midpoint(torch.tensor([0, 2**52 - 1]))
    assert 0 < ends[0] < ends[1] < 1
    assert torch.isfinite(-torch.log(-torch.log(ends))).all()


WARPERS = [
    {},
    {"temperature": 0.5},
    {"temperature": 1.5, "top_k": 12},
    {"top_p": 0.7},
    {"min_p": 0.08},
    {"repetition_penalty": 1.4},
    {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2},
]


@pytest.mark.parametrize("changes", WARPERS, ids=str)
def test_draws_follow_softmax_of_the_warped_logits(changes):
    """Chi-square over 8,000 seeds; the statistic stays under the 99.99% quantile (Wilson-Hilferty)."""
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(1, 40, generator=generator) * 2
    seen = torch.zeros(1, 40, dtype=torch.bool)
    seen[0, :9] = True
    count = 8000
    rows = [settings_of(**changes, seed=seed) for seed in range(count)]
    drawn = sampling.draw(logits.expand(count, -1), seen.expand(count, -1), rows, [5] * count)
    observed = torch.bincount(torch.tensor([d.token for d in drawn]), minlength=40).double()
    probability = torch.softmax(sampling.warp(logits, seen, rows[:1])[0], dim=0)
    assert observed[probability == 0].sum() == 0, "a token that the warpers removed was drawn"
    expected = probability * count
    cells = expected >= 5
    statistic = float(((observed - expected) ** 2 / expected)[cells].sum())
    freedom = int(cells.sum()) - 1
    assert statistic < freedom * (1 - 2 / (9 * freedom) + 3.72 * math.sqrt(2 / (9 * freedom))) ** 3


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 1.6])
def test_warpers_agree_with_transformers(temperature):
    """Same order, same result as the library's own processors, on logits without ties."""
    generator = torch.Generator().manual_seed(11)
    for trial in range(20):
        logits = (torch.randn(1, 3000, generator=generator) * 4).double()
        ids = torch.randint(0, 3000, (1, 30), generator=generator)
        seen = torch.zeros(1, 3000, dtype=torch.bool).scatter(1, ids, True)
        penalty, k, p, share = (
            1.3,
            [5, 50, 700][trial % 3],
            [0.2, 0.9, 0.999][trial % 3],
            [0.3, 0.01, 0.0001][trial % 3],
        )
        expected = RepetitionPenaltyLogitsProcessor(penalty)(ids, logits.clone()) / temperature
        expected = MinPLogitsWarper(share)(ids, TopPLogitsWarper(p)(ids, TopKLogitsWarper(k)(ids, expected)))
        row = settings_of(temperature=temperature, top_k=k, top_p=p, min_p=share, repetition_penalty=penalty)
        got = sampling.warp(logits, seen, [row])
        assert torch.equal(torch.isinf(got), torch.isinf(expected))
        kept = ~torch.isinf(got)
        torch.testing.assert_close(got[kept], expected[kept], rtol=1e-12, atol=1e-12)


def test_a_penalty_makes_what_was_said_less_likely_whatever_the_sign_of_its_logit():
    logits = torch.tensor([[2.0, -2.0, 0.0, 2.0, -2.0]], dtype=torch.float64)
    seen = torch.tensor([[True, True, True, False, False]])
    penalty = torch.tensor([[2.0]], dtype=torch.float64)
    assert warpers.penalise(logits, seen, penalty).tolist() == [[1.0, -4.0, 0.0, 2.0, -2.0]]


def test_top_p_keeps_ties_in_the_order_of_their_ids():
    logits = torch.zeros(1, 5000)  # all equal: 10% of the mass is exactly the first 500 ids
    kept = torch.nonzero(
        ~torch.isinf(sampling.warp(logits, nothing_seen(logits), [settings_of(top_p=0.1)]))[0]
    ).flatten()
    assert kept.tolist() == list(range(500))


def test_top_p_always_keeps_the_most_likely_token():
    logits = torch.tensor([[0.0, 9.0, 1.0]])
    kept = ~torch.isinf(sampling.warp(logits, nothing_seen(logits), [settings_of(top_p=0.01)]))
    assert kept.tolist() == [[False, True, False]]


def test_a_masked_id_is_never_drawn():
    logits = torch.zeros(64)
    logits[10:] = -torch.inf
    assert {draw_one(logits, settings_of(seed=seed, temperature=2.0)).token for seed in range(400)} == set(range(10))


def test_temperature_zero_ignores_the_seed_and_takes_the_smallest_id_of_a_tie():
    logits = torch.tensor([0.5, 2.0, 2.0, -1.0])
    assert {draw_one(logits, settings_of(seed=seed, temperature=0)).token for seed in range(50)} == {1}


def test_at_temperature_zero_a_margin_is_that_of_the_logits_whatever_the_other_settings():
    drawn = draw_one(torch.tensor([0.5, 2.0, 1.0]), settings_of(temperature=0, top_k=1, top_p=0.1, min_p=0.9))
    assert (drawn.token, drawn.margin) == (1, 1.0)


def test_bfloat16_ties_are_broken_by_the_noise_alone():
    logits = torch.zeros(8, dtype=torch.bfloat16)
    assert len({draw_one(logits, settings_of(seed=seed)).token for seed in range(200)}) == 8


@settings(deadline=None, max_examples=40)
@given(st.randoms(use_true_random=False))
def test_a_row_does_not_depend_on_the_rows_drawn_with_it(randomness: random.Random):
    generator = torch.Generator().manual_seed(randomness.randrange(2**31))
    rows = [
        settings_of(
            seed=randomness.randrange(1000),
            temperature=randomness.choice([0, 0.4, 1.0, 1.7]),
            top_k=randomness.choice([0, 1, 30]),
            top_p=randomness.choice([1.0, 0.5, 0.95]),
            min_p=randomness.choice([0.0, 0.1]),
            repetition_penalty=randomness.choice([1.0, 1.3]),
        )
        for _ in range(4)
    ]
    logits = torch.randn(4, 2000, generator=generator) * 3
    seen = torch.rand(4, 2000, generator=generator) < 0.02
    steps = [randomness.randrange(50) for _ in rows]
    together = sampling.draw(logits, seen, rows, steps)
    alone = [sampling.draw(logits[i : i + 1], seen[i : i + 1], [rows[i]], [steps[i]])[0] for i in range(4)]
    assert [(d.token, d.margin) for d in together] == [(d.token, d.margin) for d in alone]


def test_margin_and_logprob_are_what_they_say():
    logits = torch.tensor([1.0, 0.2, -0.7, 0.9])
    row = settings_of(seed=5, temperature=0.8)
    drawn = draw_one(logits, row, step=3)
    noise = sampling.gumbel(torch.tensor([sampling.key(5, 3)]), torch.arange(4))[0]
    scores = sorted((logits.double() / 0.8 + noise).tolist(), reverse=True)
    assert drawn.margin == pytest.approx(scores[0] - scores[1], rel=1e-12)
    assert drawn.logprob == pytest.approx(torch.log_softmax(logits.double(), 0)[drawn.token].item(), rel=1e-12)


# The machine's own log only guesses; whoever can win by its guess is scored again.
MIXED = [
    settings_of(seed=1),
    settings_of(seed=2, temperature=0.3, top_p=0.8),
    settings_of(seed=3, temperature=0),
    settings_of(seed=4, min_p=0.05, top_k=40, repetition_penalty=1.3),
]


def draws(seed: int, words: int = 700) -> list[sampling.Draw]:
    logits = torch.randn(len(MIXED), words, generator=torch.Generator().manual_seed(seed)) * 3
    seen = torch.rand(logits.shape, generator=torch.Generator().manual_seed(seed)) < 0.1
    return sampling.draw(logits, seen, MIXED, [seed] * len(MIXED))


@pytest.mark.parametrize("machine", [Shuffled, Numpy])
def test_no_bit_of_a_draw_depends_on_the_order_of_a_sum_or_on_whose_kernels_add(machine):
    wanted = draws(5)
    with torch.no_grad(), machine():
        assert draws(5) == wanted


def test_no_bit_of_a_draw_depends_on_the_machines_log(monkeypatch):
    wanted, own = [draws(seed) for seed in range(30)], sampling._gumbel

    def other(error: float):
        noise = torch.Generator().manual_seed(0)
        return lambda u: own(u) + error * torch.randn(u.shape, generator=noise, dtype=torch.float64)

    monkeypatch.setattr(sampling, "_gumbel", other(1e-8))
    assert [draws(seed) for seed in range(30)] == wanted
    monkeypatch.setattr(sampling, "_gumbel", other(0.1))
    assert [draws(seed) for seed in range(30)] != wanted, "the guess is not asked, so nothing was tried"


def test_few_finalists_or_many_are_the_same_draw(monkeypatch):
    wanted = [draws(seed) for seed in range(20)]
    monkeypatch.setattr(sampling, "_FINALISTS", 2)
    monkeypatch.setattr(sampling, "_CLOSE", 0.5)  # as if logs were bad: often more than two can win
    assert [draws(seed) for seed in range(20)] == wanted


def test_among_very_many_that_are_level_the_smallest_id_is_drawn():
    logits = torch.zeros(500)
    logits[:7] = -1.0
    drawn = draw_one(logits, settings_of(temperature=0))
    assert (drawn.token, drawn.margin) == (7, 0.0)
    assert drawn.logprob == pytest.approx(-math.log(493 + 7 / math.e))


def test_a_single_candidate_has_no_margin():
    assert draw_one(torch.tensor([0.0, 1.0, 2.0]), settings_of(top_k=1)).margin is None


def test_luck_is_keyed_by_token_id_so_unequal_vocabularies_stay_aligned():
    """A sibling with more rows in its output matrix draws the same tokens, as long as the extra ids are cut off or masked."""
    logits = torch.randn(500, generator=torch.Generator().manual_seed(1))
    masked = torch.cat([logits[:300], torch.full((200,), -torch.inf)])
    drawn = [draw_one(logits[:300], settings_of(seed=9), step).token for step in range(40)]
    assert drawn == [draw_one(masked, settings_of(seed=9), step).token for step in range(40)]
    assert len(set(drawn)) > 10


def test_a_row_that_is_not_a_number_leaves_the_others_alone():
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(2))
    rows, steps = [settings_of(seed=seed) for seed in range(3)], [0, 1, 2]
    expected = sampling.draw(logits, nothing_seen(logits), rows, steps)
    logits[1, 20] = torch.nan
    got = sampling.draw(logits, nothing_seen(logits), rows, steps)
    assert math.isnan(got[1].logprob)
    assert (got[0], got[2]) == (expected[0], expected[2])


def test_top_p_of_a_row_does_not_look_where_another_row_makes_it_look():
    """One flat row needs more than the candidates; the peaked row beside it keeps the bits it has alone."""
    peaked = torch.randn(1, 3000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 4
    flat = torch.zeros(1, 3000, dtype=torch.float64)
    logits, row = torch.cat([peaked, flat]), settings_of(top_p=0.9)
    together = sampling.warp(logits, nothing_seen(logits), [row, row])
    for place, alone in enumerate((peaked, flat)):
        assert torch.equal(together[place], sampling.warp(alone, nothing_seen(alone), [row])[0])
        drawn = [sampling.draw(logits, nothing_seen(logits), [row, row], [step] * 2)[place] for step in range(3)]
        assert drawn == [draw_one(alone[0], row, step) for step in range(3)]
    assert together[1].isfinite().sum() in (2700, 2701)  # a sum of 2,700 equal parts rounds
