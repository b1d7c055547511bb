"""Exact sums and functions: held against fractions, libm, other orders, numpy's kernels and planted faults."""

import json
import math
import os
import subprocess
import sys
from fractions import Fraction

import pytest
import torch

from core.engine import exact
from tests.arithmetics import Numpy, Shuffled

PROCESSES = [
    {"ATEN_CPU_CAPABILITY": "default"},
    {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
    {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "OMP_NUM_THREADS": "2"},
    {"MKL_CBWR": "COMPATIBLE", "ATEN_CPU_CAPABILITY": "default"},
    {"ONEDNN_MAX_CPU_ISA": "AVX2"},
]


def hard_rows(terms: int) -> list[torch.Tensor]:
    """Rows [1, terms] that need all the room there is: every number as large as can be, mixed signs, wide ranges."""
    random = exact.samples(1, terms)
    return [
        torch.ones(1, terms, dtype=torch.float64),
        torch.full((1, terms), 1 - 2.0**-53, dtype=torch.float64),
        random.abs() + 1,
        random * 1e30,
        random * 2.0 ** (random * 60),
    ]


TERMS = [1, 2, 3, 31, 32, 33, 576, 4096, 5000]


@pytest.mark.parametrize("terms", TERMS)
def test_products_and_sums_are_exact_in_the_worst_case(terms):
    bits = exact.room(terms)
    for row in hard_rows(terms):
        a, b = exact.grid(row, (bits + 1) // 2), exact.grid(row.flip(1).t(), bits // 2, 0)
        wanted = sum(Fraction(x) * Fraction(y) for x, y in zip(a[0].tolist(), b[:, 0].tolist(), strict=True))
        assert Fraction(exact.product(a, b).item()) == wanted
        terms_of_it = exact.grid(row, bits)[0].tolist()
        assert Fraction(exact.total(row, (0, 1)).item()) == sum(map(Fraction, terms_of_it))
        running, wanted = exact.running_total(row, 1)[0].tolist(), Fraction(0)
        for term, found in zip(terms_of_it, running, strict=True):
            wanted += Fraction(term)
            assert Fraction(found) == wanted


@pytest.mark.parametrize("bits", [1, 18, 26, 51])
def test_a_grid_holds_whole_numbers_of_one_unit_and_a_second_time_changes_nothing(bits):
    for row in hard_rows(33):
        once = exact.grid(row, bits)
        unit = Fraction(exact.magnitude(row.abs().max()).item()) / 2**bits
        assert all(
            (Fraction(x) / unit).denominator == 1 and abs(Fraction(x) / unit) <= 2**bits for x in once[0].tolist()
        )
        assert torch.equal(exact.grid(once, bits), once)
        assert float((once - row).abs().max()) <= unit / 2


def test_the_magnitude_is_the_smallest_power_of_two_that_is_large_enough():
    for top in (1.0, 1 + 2.0**-52, 1 - 2.0**-53, 3.0, 2.0**-300, 2.0**300, 2.0**300 * (1 + 2.0**-52)):
        found = exact.magnitude(torch.tensor(top, dtype=torch.float64)).item()
        assert math.frexp(found)[0] == 0.5
        assert found / 2 < top <= found
    assert exact.magnitude(torch.zeros(1, dtype=torch.float64)).item() == 2.0**-399


def test_weights_stay_in_their_own_dtype_on_a_grid():
    """A number of 8 or 24 bits that is rounded to a coarser unit has no more bits than before."""
    for dtype in (torch.bfloat16, torch.float32):
        weight = (exact.samples(64, 768) ** 9).to(dtype)
        rounded = exact.grid(weight.double(), exact.room(768) // 2)
        assert not torch.equal(rounded, weight.double()), "nothing was rounded, so nothing is shown"
        assert torch.equal(rounded.to(dtype).double(), rounded)


FUNCTIONS = {
    exact.exp: (math.exp, 2.0**-37, True, [-699.0, -40.0, -1e-9, 0.0, 1e-9, 0.5, 1.0, 88.0, 708.0]),
    exact.share: (math.exp, 2.0**-37, True, [-40.0, -39.9, -8.0, -1e-9, 0.0]),
    exact.log: (math.log, 2.0**-49, True, [2.0**-53, 1e-9, 0.5, 0.7071, 0.7072, 0.999999, 1.000001, 2.0, 1e30, 1e-300]),
    exact.tanh: (math.tanh, 2.0**-37, False, [-30.0, -1.0, -1e-5, 0.0, 0.3, 5.0]),
    exact.erf: (math.erf, 2e-10, False, [-30.0, -6.1, -3.0, -0.5, -1e-5, 0.0, 0.1, 1.0, 2.0, 5.9]),
    exact.sin: (math.sin, 2.0**-49, False, [-1e6, -3.2, -0.7854, 0.0, 0.7853, 1.5708, 1024.0, 131072.0]),
    exact.cos: (math.cos, 2.0**-49, False, [-1e6, -3.2, -0.7854, 0.0, 0.7853, 1.5708, 1024.0, 131072.0]),
    exact.softplus: (lambda x: math.log1p(math.exp(x)), 2.0**-32, False, [-30.0, -1.0, -1e-5, 0.0, 0.3, 5.0, 20.0]),
    exact.sigmoid: (lambda x: 1 / (1 + math.exp(-x)), 2.0**-37, False, [-600.0, -1.0, 0.0, 3.0, 50.0]),
}


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_functions_keep_the_error_that_they_state(function):
    reference, bound, relative, places = FUNCTIONS[function]
    low, high = min(places), max(places)
    between = (exact.samples(3000).abs() * (high - low) + low).tolist()
    near = [place * (1 + step) for place in places for step in exact.samples(40, scale=0.01).tolist()]
    x = torch.tensor([*places, *between, *(y for y in near if low <= y <= high)], dtype=torch.float64)
    for given, found in zip(x.tolist(), function(x).tolist(), strict=True):
        wanted = reference(given)
        assert abs(found - wanted) <= bound * (abs(wanted) if relative else 1), given


def test_the_logarithm_of_one_number_has_the_bits_of_the_logarithm_of_many():
    x = torch.cat(
        [
            exact.samples(3000).abs(),
            2.0 ** exact.samples(3000, scale=1000.0),
            torch.tensor([1.0, 2.0, 1e-300], dtype=torch.float64),
        ]
    )
    assert [exact.log_of(y) for y in x.tolist()] == exact.log(x).tolist()
    assert all(math.isnan(exact.log_of(y)) for y in (0.0, -1.0, math.nan))


def test_roots_are_right_in_float32_and_within_a_bit_in_float64():
    x = torch.exp(exact.samples(3000, scale=80.0))
    narrow = x.float()
    assert torch.equal(
        exact.sqrt(narrow), torch.tensor([math.sqrt(y) for y in narrow.tolist()], dtype=torch.float64).float()
    )
    for given, found in zip(x.tolist(), exact.sqrt(x).tolist(), strict=True):
        assert abs(found - math.sqrt(given)) <= math.ulp(found)
    assert exact.sqrt(torch.tensor([0.0, -1.0], dtype=torch.float64)).tolist() == [0.0, 0.0]


def test_the_ends_of_functions():
    x = torch.tensor([-math.inf, -701.0, 1e9, math.nan], dtype=torch.float64)
    assert exact.exp(x)[:2].tolist() == [0.0, 0.0]
    assert math.isfinite(exact.exp(x)[2]) and math.isnan(exact.exp(x)[3])
    assert exact.log(torch.tensor([0.0, -1.0, math.nan], dtype=torch.float64)).isnan().all()
    masked = torch.tensor([[0.0, -math.inf, 1.0]], dtype=torch.float64)
    assert exact.softmax(masked, 1)[0, 1] == 0
    assert exact.logsumexp(masked, 1).item() == pytest.approx(math.log1p(math.e), rel=1e-11)


def test_known_answers():
    assert exact.self_test() == []


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_a_sum_does_not_matter(seed):
    with Shuffled(seed) as shuffled:
        assert exact.self_test() == []
    assert shuffled.calls == 6, "a sum of the self-test went unshuffled"


def test_numpy_and_its_matrix_product_give_the_same_bits():
    with Numpy() as numpy:
        assert exact.self_test() == []
    assert numpy.calls > 500


def test_threads_and_flushed_denormals_do_not_matter():
    threads = torch.get_num_threads()
    try:
        torch.set_flush_denormal(True)
        for count in (1, 2):
            torch.set_num_threads(count)
            assert exact.self_test() == []
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)


def fused_horner(x, *coefficients):
    """As a compiler would that is allowed to fuse: one rounding for a product and a sum (Dekker's product, Knuth's sum)."""

    def halves(a):
        high = a * 134217729.0 - (a * 134217729.0 - a)
        return high, a - high

    y, (x_high, x_low) = torch.full_like(x, coefficients[0]), halves(x)
    for c in coefficients[1:]:
        y_high, y_low = halves(y)
        rounded = y * x
        lost = ((y_high * x_high - rounded) + y_high * x_low + y_low * x_high) + y_low * x_low
        y = rounded + c
        lost = lost + ((rounded - (y - (y - rounded))) + (c - (y - rounded)))
        y = y + lost
    return y


# What is replaced, by what, whether the order matters then, and which known answers are missed.
FAULTS = {
    "a product without a grid": ("grid", lambda x, bits, dim=-1: x, True, {"product", "running total"}),
    "sums without a grid": ("snap", lambda x, size, bits: x, True, {"product", "total", "softmax"}),
    "a grid that is too fine": ("room", lambda terms: min(51, 60 - terms.bit_length()), True, {"total"}),
    "libm's exp": ("exp", torch.exp, False, {"exp", "softmax", "tanh", "erf"}),
    "a fused product and sum": ("_horner", fused_horner, False, {"exp", "log", "sin"}),
    "libm's log": ("log", torch.log, False, {"log"}),
    "a root by the kernel": ("sqrt", lambda x: torch.sqrt(x.float()).to(x.dtype), False, {"sqrt"}),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_noticed(name, monkeypatch):
    function, fault, _, where = FAULTS[name]
    monkeypatch.setattr(exact, function, fault)
    assert where <= set(exact.self_test())


@pytest.mark.parametrize("name", [name for name in FAULTS if FAULTS[name][2]])
def test_sums_that_are_not_exact_depend_on_their_order(name, monkeypatch):
    """So the shuffling has teeth: what it finds equal above is different here."""
    function, fault, _, _ = FAULTS[name]
    monkeypatch.setattr(exact, function, fault)
    plain = exact.answers()
    with Shuffled():
        assert exact.answers() != plain


@pytest.mark.slow
@pytest.mark.parametrize("environment", PROCESSES, ids=str)
def test_other_instruction_sets_give_the_known_answers(environment):
    code = "import json; from core.engine import exact; print(json.dumps(exact.self_test()))"
    run = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert json.loads(run.stdout.splitlines()[-1]) == []
