"""The table of every family of transformers: served ones are right, refused ones say why, and nothing else hides."""

import re

import pytest
import torch
import transformers

from benchmarks import families
from core.checkpoints.loading import first_attention
from core.engine.device import Placement

pytestmark = pytest.mark.slow

SERVED = [
    "apertus",
    "arcee",
    "bloom",
    "codegen",
    "cohere2",
    "ernie4_5",
    "exaone4",
    "falcon",
    "falcon_h1",
    "gemma",
    "gemma2",
    "gemma3",
    "gemma4_text",
    "glm4",
    "gpt2",
    "gpt_neox",
    "gpt_oss",
    "gptj",
    "granite",
    "helium",
    "lfm2",
    "llama",
    "llama4_text",
    "mamba2",
    "mistral",
    "mpt",
    "nemotron",
    "olmo2",
    "olmo3",
    "olmo_hybrid",
    "opt",
    "phi3",
    "qwen2",
    "qwen3",
    "qwen3_5_text",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder2",
    "xglm",
]
REFUSED = {
    "bert": "is a bert model, not a decoder that continues text",
    "roberta": "is a roberta model, not a decoder that continues text",
    "gpt_neo": "computes other log-probabilities than the model itself",
    "rwkv": "has RwkvBlock layers, which keep what they have read in a place of their own",
    "deepseek_v32": "has indexed attention layers, which the engine does not run",
}


@pytest.fixture(autouse=True)
def quiet(caplog):
    caplog.set_level(100)


@pytest.mark.filterwarnings("ignore")  # some families are announced as deprecated
@pytest.mark.parametrize("family", SERVED)
def test_a_family_is_served_and_right(family, monkeypatch):
    monkeypatch.setattr(families, "_portably", lambda model: "")  # an engine more, of which the next test tells
    row = families.examine(family, "float32")
    assert row["verdict"] == "served", row
    assert float(row["differs"]) <= float(row["bound"]) == 0.001


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", ["gemma3", "gpt2", "gpt_oss"])
def test_how_far_a_family_is_in_portable_arithmetic_stands_in_its_row(family):
    row = families.examine(family, "float32")
    assert row["verdict"] == "served" and 0 < float(row["portable"]) < 1e-3, row


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "lacking"), [("bloom", "the attention of its own that it has"), ("mamba2", "layers that keep a state")]
)
def test_what_portable_arithmetic_lacks_for_a_family_stands_in_its_row(family, lacking):
    row = families.examine(family, "float32")
    assert row["verdict"] == "served" and row["portable"].startswith(f"no: {lacking}"), row


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("family", sorted(REFUSED))
def test_a_family_that_would_be_wrong_is_refused_in_a_sentence(family):
    verdict = families.examine(family, "float32")["verdict"]
    assert verdict.startswith("refused: ")
    assert REFUSED[family] in verdict
    assert "choose" in verdict


def test_a_family_that_takes_too_long_or_ends_its_process_is_a_row_too(monkeypatch):
    monkeypatch.setattr(families, "LIMIT", 0.01)
    (row,) = families.rows(["llama"], ("float32",))
    assert "took more than" in row["verdict"]
    monkeypatch.setattr(families, "LIMIT", 60)
    monkeypatch.setattr(families, "examine", lambda family, dtype: exit(3))
    (row,) = families.rows(["llama"], ("float32",))
    assert row["verdict"] == "not tried: its process ended"


def test_the_page_has_a_row_for_every_family_of_the_library():
    written = re.findall(r"^\| (\S+) +\|[^|]*\| (?:float32|bfloat16) ", families.PAGE.read_text("utf-8"), re.MULTILINE)
    assert sorted(set(written)) == families.families()


def test_what_has_no_sdpa_is_tried_with_eager_attention():
    on_a_gpu = Placement(torch.device("cuda"), torch.bfloat16)
    assert first_attention(transformers.GptOssConfig(), on_a_gpu) == "eager"
    assert first_attention(transformers.LlamaConfig(), on_a_gpu) == "sdpa"
    assert first_attention(transformers.Gemma2Config(), on_a_gpu) == "eager", "it caps its attention scores"
    assert first_attention(transformers.LlamaConfig(), Placement(torch.device("cpu"), torch.float32)) == "eager"


def test_rows_take_the_places_of_those_of_the_same_families():
    page = families.PAGE.read_text("utf-8")
    assert families.with_rows(page, []) == page
    old = [line for line in page.splitlines() if line.startswith("| llama ")]
    cells = {**dict.fromkeys(families.row_of("llama", "float32", ""), "-"), "family": "llama", "dtype": "float32"}
    new = families.with_rows(page, [cells])
    lines = new.splitlines()
    assert len(lines) == len(page.splitlines()) - len(old) + 1
    assert [line for line in lines if line.startswith("| llama ")] != old
