"""GGUF files are the models that were written into them, or are refused in one sentence; folders of quantised weights likewise."""

import json
import struct
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, dequantize, quantize
from safetensors.torch import save_file
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from core import pairs
from core.checkpoints import gguf_files, loading, memory, quantised, sources
from core.checkpoints.fingerprint import weights_sha256
from core.checkpoints.sources import find
from core.checkpoints.tokenizers import read_tokenizer, tokenizers_at_hand
from core.engine.device import Placement, place
from core.errors import UserError
from core.hub import Repository
from core.pairs import OnHub, Pair
from core.settings import Settings
from core.types import CheckpointInfo
from core.ui.compare import render
from tests import tiny
from tests.engines import answer, request, tokens
from tests.test_checkpoints import COMMIT, NO_HUB, FolderHub

SETTINGS = Settings(device="cpu", dtype="float32", slots=2, threads=1)
PLACEMENT = place(SETTINGS)
WRITTEN = tiny.model(seed=1, intermediate_size=64)
Q8_0 = GGMLQuantizationType.Q8_0


@pytest.fixture(scope="session")
def file(tmp_path_factory) -> Path:
    """A whole and sound one."""
    return tiny.save_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", WRITTEN, tiny.tokenizer(tiny.CHATML))


def read(path: Path, placement: Placement = PLACEMENT):
    config = loading.read_config(path, path.name)
    return loading.read_weights(path, config, placement, "eager", path.name)[0]


# --- a file is the model that was written into it ---------------------------------------------------------------


def test_a_file_is_served_as_the_model_and_with_the_tokenizer_that_are_in_it(file):
    checkpoint = loading.load(find(str(file), NO_HUB), NO_HUB, SETTINGS, PLACEMENT, lambda text, share: None)
    replied = tokens(answer(checkpoint.engine, request([5, 6, 7]))[0])
    checkpoint.close()
    assert checkpoint.weights_sha256 == weights_sha256(WRITTEN)
    assert len(replied) == 12 and checkpoint.engine.info().certified
    info = checkpoint.info
    assert (info.name, info.source, info.revision) == ("tiny.gguf", "tiny.gguf", None), "no path of this machine"
    assert (info.quantization, info.left_out) == ("GGUF F32", ())
    own, theirs = tiny.tokenizer(tiny.CHATML), checkpoint.tokenizer
    for text in ("Hello <|im_end|> 12 <think>", "  The quick\n\nbrown fox's 3.14", ""):
        assert theirs(text).input_ids == own(text).input_ids
    assert theirs.chat_template == own.chat_template and checkpoint.stop_ids == {0, 2}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_quantised_weights_are_what_their_values_stand_for_in_the_dtype_that_is_asked(tmp_path, dtype):
    path = tiny.save_gguf(tmp_path / "q.gguf", WRITTEN, tiny.tokenizer(), quantized=Q8_0)
    placement = place(replace(SETTINGS, dtype=dtype))
    weights = read(path, placement).state_dict()
    name = "model.layers.1.mlp.down_proj.weight"
    expected = dequantize(quantize(WRITTEN.state_dict()[name].float().numpy(), Q8_0), Q8_0)
    assert torch.equal(weights[name], torch.from_numpy(expected).to(placement.dtype))
    assert {tensor.dtype for tensor in weights.values()} == {placement.dtype}
    assert gguf_files.open_gguf(path, "q").quantization == "GGUF Q8_0, F32"


def test_what_lies_beside_a_file_is_no_part_of_it(file, tmp_path):
    tiny.save(tmp_path, tiny.model(seed=2), tiny.tokenizer(tiny.STRIPS))
    beside = tmp_path / "x.gguf"
    beside.write_bytes(file.read_bytes())
    assert read_tokenizer(beside, "x").chat_template == tiny.CHATML != read_tokenizer(beside.parent, "y").chat_template
    assert torch.equal(
        read(beside).state_dict()["model.norm.weight"], WRITTEN.state_dict()["model.norm.weight"].float()
    )


def test_digits_stand_apart_where_the_file_says_so_and_transformers_does_not_know_how(tmp_path):
    path = tiny.save_gguf(tmp_path / "d.gguf", WRITTEN, tiny.tokenizer(), more={"tokenizer.ggml.pre": "smollm"})
    cut = read_tokenizer(path, "d").backend_tokenizer.pre_tokenizer.pre_tokenize_str("a 12")
    assert [piece for piece, _ in cut] == ["a", "Ġ", "1", "2"]


def test_the_rotary_frequencies_of_llama_3_are_those_that_the_file_holds(tmp_path):
    scaling = {"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0}
    scaling |= {"high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    model = tiny.model(seed=1, intermediate_size=64, hidden_size=64, head_dim=16, rope_parameters=scaling)
    plain = LlamaConfig(head_dim=16, rope_parameters={"rope_theta": 500_000.0, "rope_type": "default"})
    expected = LlamaRotaryEmbedding(model.config).inv_freq
    factors = (LlamaRotaryEmbedding(plain).inv_freq / expected).numpy()
    path = tiny.save_gguf(tmp_path / "3.gguf", model, tiny.tokenizer(), tensors={"rope_freqs.weight": factors})
    loaded = read(path).model.rotary_emb.inv_freq
    assert factors.max() == pytest.approx(32) and torch.allclose(loaded, expected, rtol=1e-5)
    path = tiny.save_gguf(tmp_path / "4.gguf", model, tiny.tokenizer(), tensors={"rope_freqs.weight": factors * 1.1})
    with pytest.raises(
        UserError, match=r"4\.gguf scales its rotary frequencies in a way that transformers has no rule for"
    ):
        read(path)


# --- what is refused -----------------------------------------------------------------------------------------


def _shortened(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def _of_version_one(path: Path) -> None:
    path.write_bytes(b"GGUF" + struct.pack("<I", 1) + path.read_bytes()[8:])


def _with_endless_counts(path: Path) -> None:
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 2**60, 2**60) + path.read_bytes()[24:])


def _written_by_hand(path: Path) -> None:
    path.write_text("This is no model.", "utf-8")


def _empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (
            _written_by_hand,
            "s.gguf is no GGUF file that can be read here: s.gguf does not start with the GGUF magic bytes",
        ),
        (_empty, "s.gguf is no GGUF file that can be read here"),
        (_of_version_one, "s.gguf is no GGUF file that can be read here: s.gguf is GGUF v1"),
        (_with_endless_counts, "s.gguf is no GGUF file that can be read here"),
        (_shortened, "s.gguf ends before its weights do; download or copy it again."),
    ],
)
def test_a_file_that_is_broken_or_another_kind_is_refused_in_one_sentence(file, tmp_path, spoil, sentence):
    path = tmp_path / "s.gguf"
    path.write_bytes(file.read_bytes())
    spoil(path)
    for reading in (lambda: loading.read_config(path, "s.gguf"), lambda: read_tokenizer(path, "s.gguf")):
        with pytest.raises(UserError) as refused:
            reading()
        assert str(refused.value).startswith(sentence) and "\n" not in str(refused.value)
        assert str(tmp_path) not in str(refused.value), "no path of this machine"


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({"split.count": 3}, "m.gguf is one of 3 files of a model; merge them (llama-gguf-split --merge) and name the whole one."),
        ({"llama.rope.scaling.type": "yarn"}, "m.gguf says llama.rope.scaling.type = yarn, which transformers does not read"),
        ({"llama.attention.sliding_window": 64}, "m.gguf says llama.attention.sliding_window = 64, which transformers does"),
        ({"llama.expert_count": 8}, "m.gguf says llama.expert_count = 8, which transformers does not read from GGUF files"),
        ({"llama.vocab_size": 2**30}, "The configuration of m.gguf says vocab_size: 1073741824, and no model here may have"),
        ({"tokenizer.ggml.pre": "deepseek-llm"}, "m.gguf cuts its text by the rule 'deepseek-llm', which transformers does not"),
    ],
)  # fmt: skip
def test_what_transformers_would_leave_out_without_a_word_is_refused_by_name(tmp_path, more, sentence):
    path = tiny.save_gguf(tmp_path / "m.gguf", WRITTEN, tiny.tokenizer(), more=more)
    with pytest.raises(UserError) as refused:
        loading.read_config(path, "m.gguf")
        read_tokenizer(path, "m.gguf")
    assert str(refused.value).startswith(sentence)


def test_keys_that_say_what_is_so_anyway_are_no_reason_to_refuse(tmp_path):
    more = {"llama.rope.scaling.type": "none", "llama.attention.key_length": 8, "llama.attention.value_length": 8}
    path = tiny.save_gguf(tmp_path / "k.gguf", WRITTEN, tiny.tokenizer(), more=more)
    assert loading.read_config(path, "k").num_hidden_layers == 2


def test_tensors_that_are_lacking_or_left_over_are_refused_by_name(tmp_path):
    bias = {"blk.0.attn_q.bias": np.zeros(32, np.float32)}
    path = tiny.save_gguf(tmp_path / "b.gguf", WRITTEN, tiny.tokenizer(), tensors=bias)
    with pytest.raises(UserError, match=r"b\.gguf has blk\.0\.attn_q\.bias, which transformers has no place for"):
        read(path)
    path = tiny.save_gguf(tmp_path / "l.gguf", WRITTEN, tiny.tokenizer(), more={"llama.block_count": 3})
    with pytest.raises(UserError, match=r"The weights of l\.gguf lack model\.layers\.2\.\S+ and 8 more"):
        read(path)


def test_a_vocabulary_that_contradicts_itself_is_refused_in_one_sentence(file, tmp_path):
    path = tmp_path / "v.gguf"
    path.write_bytes(file.read_bytes().replace("Ġ t".encode(), "Ġ \x01".encode(), 1))
    with pytest.raises(UserError, match=r"^v\.gguf has no tokenizer that can be read: .*out of vocabulary\.$"):
        read_tokenizer(path, "v.gguf")


def test_no_file_is_read_where_the_library_would_fetch_code_for_it(file, monkeypatch):
    monkeypatch.setattr(gguf_files, "is_kernels_available", lambda: True)
    with pytest.raises(UserError, match="GGUF files are not read while the package kernels is installed"):
        loading.read_config(file, "x")


# --- where a file lies -----------------------------------------------------------------------------------------


def test_a_spec_names_a_file_here_or_on_the_hub(file, monkeypatch):
    monkeypatch.chdir(file.parent)
    for spec in (str(file), "tiny.gguf", "./tiny.gguf"):
        assert pairs.here(spec) == file and pairs.folder(spec) is None and pairs.label(spec) == "tiny.gguf"
        pairs.check_path(spec)
    for spec in ("other.gguf", "./other.gguf", "folder/other.gguf"):
        with pytest.raises(UserError, match=r"There is no file '.*other\.gguf' on this machine; check the path\."):
            pairs.check_path(spec)
        with pytest.raises(UserError, match=r"There is no file 'other\.gguf' on this machine"):
            pairs.here(spec)
    assert OnHub.of("owner/name") == ("owner/name", None, None)
    assert OnHub.of("owner/name@v1") == ("owner/name", "v1", None)
    assert OnHub.of("owner/name-GGUF/a.Q4_K_M.gguf") == ("owner/name-GGUF", None, "a.Q4_K_M.gguf")
    assert OnHub.of("owner/name/sub/a.gguf@v1") == ("owner/name", "v1", "sub/a.gguf")
    assert tokenizers_at_hand(Pair(id="x", title="X", base=str(file), post="tiny.gguf")) is not None


def test_a_receipt_chooses_a_commit_and_neither_repository_nor_file():
    pair = Pair(id="x", title="X", base="owner/name/a.gguf@v1", post="owner/other")
    for commit in (COMMIT, "v2/../b.gguf", "evil/repository/b.gguf", "@b.gguf"):
        asked = OnHub.of(pairs.at_commits(pair, {"base": commit, "post": commit}).base)
        assert asked == ("owner/name", commit, "a.gguf")
        assert OnHub.of(pairs.at_commits(pair, {"post": commit}).post) == ("owner/other", commit, None)


class FileHub(FolderHub):
    """Fetches what is asked for, and nothing else."""

    def download(self, repository: Repository, report, only=()) -> Path:
        assert repository.wanted() == {"tiny.gguf": (self.folder / "tiny.gguf").stat().st_size}
        return super().download(repository, report, only)


def test_of_a_repository_one_file_is_fetched_and_its_commit_recorded(file, tmp_path, monkeypatch):
    for name in ("tiny.gguf", "tiny.Q4_K_M.gguf", "model.safetensors"):
        (tmp_path / name).write_bytes(file.read_bytes() if name == "tiny.gguf" else b"")
    hub = FileHub(tmp_path)
    source = find("owner/name/tiny.gguf@v1", hub)
    assert (source.name, source.origin, source.revision) == ("tiny.gguf", "owner/name/tiny.gguf", COMMIT)
    loading.check_kind(source, hub, PLACEMENT)
    assert hub.asked == [], "its configuration is in the file itself"
    assert sources.bring(source, hub, lambda text, share: None) == tmp_path / "tiny.gguf"
    assert hub.asked == [("tiny.gguf",)]
    with pytest.raises(UserError, match=r"^owner/name has no file 'b\.gguf'; it has tiny\.Q4_K_M\.gguf, tiny\.gguf\.$"):
        find("owner/name/b.gguf", hub)
    monkeypatch.setattr(memory, "total_bytes", lambda device: 1000)
    with pytest.raises(UserError, match=r"The weights of tiny\.gguf take 0 GB and this machine has 0 GB of memory"):
        loading.check_kind(source, hub, PLACEMENT)


# --- what is said of it ----------------------------------------------------------------------------------------


def test_how_weights_were_stored_is_said_above_the_replies_and_in_receipts():
    said = render.model("post", render.Model("Tiny", "ab" * 32, quantization="GGUF Q4_K, F32"))
    assert said.count("weights stored as GGUF Q4_K, F32") == 2, "in sight, and with the fingerprint"
    assert "stored" not in render.model("post", render.Model("Tiny", "ab" * 32))
    old = CheckpointInfo(name="a", source="a", revision=None, parameters=1)
    assert old.quantization == "" and "quantization" not in old.model_dump(), "as receipts were before"
    assert CheckpointInfo(**old.model_dump(), quantization="fp8").model_dump()["quantization"] == "fp8"


# --- folders of quantised weights ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "t is quantised (bitsandbytes), which cannot be loaded here: "),
        ({"quant_method": "gptq", "bits": 4}, "t is quantised (gptq), which cannot be loaded here: "),
        ({"quant_method": "awq", "bits": 4}, "t is quantised (awq), which cannot be loaded here: "),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "t is quantised (torchao), which cannot be loaded here: "),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "t is quantised (compressed-tensors), which cannot be "),
        ({"quant_method": "of my own"}, "t is quantised (of my own), which cannot be loaded here: Unknown quantization type"),
        ({"bits": 4}, "t is quantised (by an unknown method), which cannot be loaded here: "),
        ("x", "t cannot be loaded with this version of transformers"),
    ],
)  # fmt: skip
def test_quantised_weights_for_which_the_library_lacks_something_are_refused_before_a_download(
    tmp_path, config, sentence
):
    written = {**WRITTEN.config.to_dict(), "quantization_config": config}
    (tmp_path / "config.json").write_text(json.dumps(written), "utf-8")
    source = sources.Source("t", "t", None, tmp_path, None)
    with pytest.raises(UserError) as refused:
        loading.check_kind(source, NO_HUB, PLACEMENT)
    assert str(refused.value).startswith(sentence) and str(refused.value).count(". ") == 0


@pytest.mark.parametrize("static", [False, True], ids=["by blocks", "by tensors, with scales of activations"])
def test_weights_in_eight_bits_are_widened_into_the_dtype_that_is_asked(tmp_path, static):
    written, expected = {}, {}
    for name, tensor in WRITTEN.state_dict().items():
        if name != "lm_head.weight" and "proj" not in name:
            written[name] = tensor
        elif name != "lm_head.weight":
            scale = torch.tensor(2.0**-8)
            written[name] = (tensor.float() / scale).to(torch.float8_e4m3fn)
            written[f"{name}_scale_inv"] = scale if static else scale.reshape(1, 1)
            expected[name] = written[name].float() * scale
            if static:
                written[name.replace(".weight", ".activation_scale")] = torch.tensor(1.0)
    save_file(written, tmp_path / "model.safetensors", metadata={"format": "pt"})
    how = {"activation_scheme": "static", "weight_block_size": None} if static else {"weight_block_size": [128, 128]}
    said = {**WRITTEN.config.to_dict(), "quantization_config": {"quant_method": "fp8", **how}}
    (tmp_path / "config.json").write_text(json.dumps(said), "utf-8")
    config = loading.read_config(tmp_path, "t")
    quantised.check(config, PLACEMENT, "t")
    weights = loading.read_weights(tmp_path, config, PLACEMENT, "eager", "t")[0].state_dict()
    assert len(expected) == 14 and all(torch.equal(weights[name], tensor) for name, tensor in expected.items())
    assert quantised.method(config) == "fp8" and quantised.method(WRITTEN.config) == ""
