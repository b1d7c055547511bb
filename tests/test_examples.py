"""The receipt that the docs ship is a real one of the embedded pair."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core import receipts
from core.replay import replay
from core.steps import finish
from core.types import Verdict

EXAMPLE = Path(__file__).parent.parent / "docs" / "examples" / "capital-of-france.json"


@pytest.mark.slow
@pytest.mark.parametrize("again", [False, True], ids=["read", "written again"])
def test_the_example_is_identical_to_the_last_bit_on_any_machine(portable, again):
    receipt = receipts.read(EXAMPLE.read_bytes())
    verdict = finish(replay(portable, receipt, again=again))
    assert (verdict.outcome, verdict.base.drift, verdict.post.drift) == ("identical", 0, 0)
    assert verdict.portable and verdict.warnings == ()


# Ways in which the libraries of this machine compute as those of another would; the arm64 one is `make other-machine`.
OTHER_MACHINES = [
    {"ATEN_CPU_CAPABILITY": "default", "MKL_CBWR": "COMPATIBLE"},
    {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
]


@pytest.mark.slow
@pytest.mark.first
@pytest.mark.parametrize("machine", OTHER_MACHINES, ids=lambda machine: " ".join(machine.values()))
def test_the_example_is_written_again_to_the_last_bit_with_other_instruction_sets(machine):
    command = [sys.executable, "app.py", "replay", str(EXAMPLE), "--again", "--json", "--context", "256"]
    ran = subprocess.run(
        command, env={**os.environ, **machine}, cwd=EXAMPLE.parents[2], capture_output=True, text=True, check=True
    )
    verdict = Verdict.model_validate_json(ran.stdout)
    assert (verdict.outcome, verdict.base.drift, verdict.post.drift) == ("identical", 0, 0)
    assert verdict.portable


@pytest.mark.slow
def test_in_fast_arithmetic_it_is_another_run_and_only_rounding_may_tell_them_apart(pool):
    receipt = receipts.read(EXAMPLE.read_bytes())
    verdict = finish(replay(pool, receipt))
    assert verdict.outcome != "not replayable", verdict.reasons
    assert verdict.warnings and not verdict.portable
    parted = [side.divergence for side in (verdict.base, verdict.post) if side and side.divergence]
    assert all(divergence.within_drift for divergence in parted)
