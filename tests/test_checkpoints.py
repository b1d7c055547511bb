"""Where weights come from, what is refused with which sentence, and that the fingerprint is of the values."""

import json
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BertConfig, GPTNeoConfig, LlamaConfig, T5Config, modeling_utils

from core import pairs, prompts
from core.checkpoints import loading, memory, sources
from core.checkpoints.fingerprint import weights_sha256
from core.checkpoints.loading import Checkpoint
from core.checkpoints.siblings import kinship
from core.checkpoints.sources import find, whereabouts
from core.checkpoints.tokenizers import stop_ids
from core.checkpoints.whole import tensor_names
from core.engine import packed
from core.engine.device import Placement, place
from core.errors import NotEnoughMemory, UserError
from core.hub import WANTED, Repository
from core.lease import Kinship
from core.pool import Pool
from core.settings import Settings
from core.types import SIDES
from core.ui import sidebar
from tests import tiny
from tests.engines import answer, request, tokens

SETTINGS = Settings(device="cpu", dtype="float32", slots=2, threads=1)
COMMIT = "0123456789abcdef0123456789abcdef01234567"


class FolderHub:
    """A Hub of one repository, owner/name, that is a folder here."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.asked: list[tuple[str, ...]] = []

    def look_up(self, id: str, revision: str | None) -> Repository:
        assert (id, revision) in (("owner/name", None), ("owner/name", "v1")), "no other is ever asked for"
        return Repository(id, COMMIT, {file.name: file.stat().st_size for file in self.folder.iterdir()})

    def download(self, repository: Repository, report, only=WANTED) -> Path:
        self.asked.append(tuple(only))
        report(0.5)
        return self.folder


NO_HUB = FolderHub(Path("/nowhere"))


@pytest.fixture(scope="session")
def pair(tmp_path_factory) -> tuple[Path, Path]:
    return tiny.save_pair(tmp_path_factory.mktemp("pair"))


@pytest.fixture
def copy(pair, tmp_path) -> Path:
    """A copy of the base model's folder, to be spoiled."""
    return shutil.copytree(pair[0], tmp_path / "spoiled")


@pytest.fixture
def load():
    """Loads a model, and closes its engine in the end."""
    loaded: list[Checkpoint] = []

    def load_it(spec: Path | str, base: Path | None = None, *, hub=NO_HUB, settings=SETTINGS, report=print):
        source = find(str(spec), hub, str(base) if base else None)
        loaded.append(loading.load(source, hub, settings, place(settings), report))
        return loaded[-1]

    yield load_it
    for checkpoint in loaded:
        checkpoint.close()


def reply(checkpoint: Checkpoint, **settings) -> list[int]:
    return tokens(answer(checkpoint.engine, request([5, 6, 7], **settings))[0])


# --- folders and the Hub ---------------------------------------------------------------------------


def test_a_folder_is_loaded_with_its_tokenizer_its_ends_and_no_path_in_its_name(pair, load):
    base, post = load(pair[0]), load(pair[1])
    assert base.info.name == base.info.source == "tiny-base"
    assert base.info.revision is None
    assert base.info.parameters == sum(parameter.numel() for parameter in tiny.model(seed=1).parameters())
    assert base.stop_ids == {0}
    assert post.stop_ids == {0, 2}, "the tokenizer's end of turn and all that generation_config lists"
    assert len(reply(base)) == 12
    assert kinship(base.card, post.card) == Kinship()


def test_the_commit_that_a_name_stands_for_is_recorded_and_progress_is_reported(pair, load):
    said: list[tuple[str, float | None]] = []
    checkpoint = load("owner/name@v1", hub=FolderHub(pair[0]), report=lambda *news: said.append(news))
    assert (checkpoint.info.name, checkpoint.info.source, checkpoint.info.revision) == ("name", "owner/name", COMMIT)
    assert any(text.startswith("Downloading name (") and fraction == 0.5 for text, fraction in said)
    assert next(text for text, fraction in said if fraction is None) == "Loading name"


def test_a_models_own_generation_config_fills_nothing_in(pair, copy, load):
    plain = reply(load(pair[0]), temperature=1.0, max_new_tokens=30)
    file = copy / "generation_config.json"
    wishes = {"temperature": 0.1, "top_k": 1, "top_p": 0.1, "repetition_penalty": 1.9, "do_sample": True}
    file.write_text(json.dumps({**json.loads(file.read_text()), **wishes}))
    assert reply(load(copy), temperature=1.0, max_new_tokens=30) == plain


# --- the fingerprint ---------------------------------------------------------------------------------


def test_the_fingerprint_is_of_the_values_not_of_how_they_are_stored(pair, tmp_path, load):
    sharded = tiny.model(seed=1).float()
    sharded.save_pretrained(tmp_path / "sharded", max_shard_size="20KB")
    tiny.tokenizer(adds_bos=True).save_pretrained(tmp_path / "sharded")
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1
    bfloat16 = Settings(device="cpu", dtype="bfloat16", slots=2, threads=1)
    assert len({load(pair[0]).weights_sha256, load(pair[0], settings=bfloat16).weights_sha256, load(tmp_path / "sharded").weights_sha256}) == 1  # fmt: skip


def test_one_changed_weight_or_name_changes_the_fingerprint():
    model, other = tiny.model(seed=1), tiny.model(seed=1)
    assert weights_sha256(model) == weights_sha256(other)
    with torch.no_grad():
        weight = other.model.layers[1].mlp.up_proj.weight
        weight[3, 4] = torch.nextafter(weight[3, 4], torch.tensor(torch.inf, dtype=torch.bfloat16))
    assert weights_sha256(model) != weights_sha256(other)
    layers = model.model.layers
    before = weights_sha256(model)
    layers[0].mlp.gate_proj, layers[0].mlp.up_proj = layers[0].mlp.up_proj, layers[0].mlp.gate_proj
    assert weights_sha256(model) != before, "the same numbers under other names are another model"


def test_chatting_changes_no_weight(pair, load):
    checkpoint = load(pair[1])
    answer(checkpoint.engine, *(request(range(1, 30 + i), seed=i, max_new_tokens=40) for i in range(6)))
    assert weights_sha256(checkpoint.model) == checkpoint.weights_sha256
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in checkpoint.model.parameters())


# --- adapters ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def adapter(pair, tmp_path_factory) -> Path:
    """A LoRA adapter on the tiny base, with weights that matter."""
    torch.manual_seed(7)
    config = LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False, task_type="CAUSAL_LM")
    folder = tmp_path_factory.mktemp("adapter") / "tiny-adapter"
    get_peft_model(AutoModelForCausalLM.from_pretrained(pair[0]), config).save_pretrained(folder)
    return folder


def test_an_adapter_is_merged_into_its_own_copy_of_the_base(pair, adapter, load):
    base = load(pair[0])
    before, weights = reply(base), base.weights_sha256
    merged = load(adapter, pair[0])
    assert merged.info.name == "tiny-adapter"
    assert merged.info.source == "tiny-adapter on tiny-base"
    assert merged.info.parameters == base.info.parameters
    assert weights_sha256(base.model) == weights != merged.weights_sha256
    assert reply(base) == before != reply(merged)
    factors = load_file(adapter / "adapter_model.safetensors")
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    scale = json.loads((adapter / "adapter_config.json").read_text())["lora_alpha"] / 4
    change = factors[name.format("B")] @ factors[name.format("A")] * scale
    layer = merged.model.model.layers[0].self_attn.q_proj.weight
    expected = base.model.model.layers[0].self_attn.q_proj.weight + change
    assert torch.allclose(layer, expected, atol=1e-5)


def saved_adapter(base: Path, folder: Path, *, tokens: int = 0, **settings) -> Path:
    """A LoRA adapter on `base`, with random weights; `tokens` rows are added to the embedding first."""
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if tokens:
        model.resize_token_embeddings(tiny.VOCABULARY + tokens, mean_resizing=False)
    config = LoraConfig(r=4, init_lora_weights=False, task_type="CAUSAL_LM", **settings)
    get_peft_model(model, config).save_pretrained(folder)
    return folder


def beside(adapter: Path, base: Path, tokens: int = 0) -> torch.Tensor:
    """Log-probabilities [4, vocabulary] of the adapter beside its base, as PEFT runs it."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if tokens:
        model.resize_token_embeddings(tiny.VOCABULARY + tokens, mean_resizing=False)
    return logprobs(PeftModel.from_pretrained(model, adapter).eval())


def logprobs(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.tensor([[5, 6, 7, 8]]), use_cache=False).logits[0].log_softmax(-1)


@pytest.mark.parametrize("matrix", ["lm_head", "embed_tokens"])
@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT asks whether both of two tied matrices were meant
def test_an_adapter_of_one_of_two_tied_matrices_changes_only_that_one(pair, tmp_path, load, matrix):
    """Merged into the tied matrix it changed the other too, by 2 to 5 nats, in silence."""
    adapter = saved_adapter(pair[0], tmp_path / "tied", target_modules=[matrix, "q_proj"])
    merged = load(adapter, pair[0])
    assert torch.allclose(logprobs(merged.model), beside(adapter, pair[0]), atol=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning")  # PEFT asks whether both of two tied matrices were meant
def test_an_adapter_with_added_tokens_enlarges_the_base(pair, tmp_path, load):
    adapter = saved_adapter(
        pair[0], tmp_path / "more", tokens=8, target_modules=["q_proj"], modules_to_save=["embed_tokens", "lm_head"]
    )
    merged = load(adapter, pair[0])
    assert merged.model.get_input_embeddings().num_embeddings == tiny.VOCABULARY + 8
    assert torch.allclose(logprobs(merged.model), beside(adapter, pair[0], tokens=8), atol=1e-4)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of PEFT, which only warns
def test_an_adapter_whose_weights_fit_nothing_is_refused_by_name(pair, adapter, tmp_path, load):
    folder = shutil.copytree(adapter, tmp_path / "elsewhere")
    weights = load_file(folder / "adapter_model.safetensors")
    renamed = {name.replace(".layers.", ".blocks."): tensor for name, tensor in weights.items()}
    save_file(renamed, folder / "adapter_model.safetensors")
    with pytest.raises(
        UserError, match=r"The weights of the adapter elsewhere lack .*proj\.lora_A\.weight and \d+ more; "
    ):
        load(folder, pair[0])


def test_an_adapter_that_merges_into_another_model_is_refused_with_the_figure(pair, adapter, load, monkeypatch):
    monkeypatch.setattr("peft.tuners.lora.layer.Linear.get_delta_weight", lambda self, name: 0 * self.weight)
    with pytest.raises(UserError, match=r"tiny-adapter is not served: merged .*\(off by \d\S* nats, where the dtype"):
        load(adapter, pair[0])


def test_an_adapter_without_a_base_is_refused(adapter):
    with pytest.raises(UserError, match="tiny-adapter is a PEFT adapter; give the model that it was trained on as"):
        find(str(adapter), NO_HUB)


def test_an_adapter_of_another_shape_is_refused(adapter, tmp_path, load):
    wider = tiny.save(tmp_path / "wider", tiny.model(hidden_size=64), tiny.tokenizer())
    with pytest.raises(UserError, match="The adapter tiny-adapter does not fit its base model: "):
        load(adapter, wider)


def test_a_pickled_adapter_is_refused(pair, adapter, tmp_path):
    folder = shutil.copytree(adapter, tmp_path / "pickled")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(UserError, match="The adapter pickled holds no safetensors weights"):
        find(str(folder), NO_HUB, str(pair[0]))


# --- what cannot be loaded -------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"There is no folder 'nothing-here' on this machine; check the path\."):
        find("./nothing-here", NO_HUB)


def test_what_holds_no_safe_weights_is_refused_before_anything_is_read(copy):
    (copy / "model.safetensors").rename(copy / "pytorch_model.bin")
    with pytest.raises(UserError, match="only as pickle files, which can run code when they are loaded; convert it"):
        find(str(copy), NO_HUB)
    (copy / "pytorch_model.bin").unlink()
    with pytest.raises(UserError, match="holds no safetensors weights; convert it to safetensors first"):
        find(str(copy), NO_HUB)
    (copy / "config.json").unlink()
    with pytest.raises(UserError, match=r"has no config\.json, so it is not a model"):
        find(str(copy), NO_HUB)


def test_a_pickle_beside_the_safetensors_is_never_opened(copy, load):
    (copy / "pytorch_model.bin").write_bytes(b"not even a pickle")
    assert reply(load(copy))


def spoil(folder: Path, how: str) -> None:
    config = json.loads((folder / "config.json").read_text())
    match how:
        case "cut short":
            weights = (folder / "model.safetensors").read_bytes()
            (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
        case "no tokenizer":
            for file in folder.glob("tokenizer*"):
                file.unlink()
        case "unknown kind":
            (folder / "config.json").write_text(json.dumps({**config, "model_type": "from-the-future"}))
        case "not JSON":
            (folder / "config.json").write_text("{")
        case "encoder and decoder":
            T5Config().save_pretrained(folder)
        case "linear attention":
            kinds = {"layer_types": ["linear_attention", "full_attention"], "model_type": "qwen3"}
            (folder / "config.json").write_text(json.dumps({**config, **kinds}))
        case "code":
            (folder / "config.json").write_text(
                json.dumps({**config, "model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}})
            )
            (folder / "mine.py").write_text("raise SystemExit('code from a repository was run')")


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("cut short", "spoiled could not be loaded: "),
        ("no tokenizer", "spoiled has no tokenizer that can be loaded here"),
        ("unknown kind", "cannot be loaded with this version of transformers"),
        ("not JSON", "cannot be loaded with this version of transformers"),
        ("encoder and decoder", "is a t5 model, not a decoder that continues text"),
        ("linear attention", "has Qwen3DecoderLayer layers, which keep what they have read in a place of their own"),
        ("code", "code from repositories is never run"),
    ],
)
def test_what_cannot_be_loaded_is_one_sentence(copy, load, how, sentence):
    spoil(copy, how)
    with pytest.raises(UserError) as refusal:
        load(copy)
    assert sentence in str(refusal.value)
    assert "\n" not in str(refusal.value) and str(copy.parent) not in str(refusal.value)


@pytest.mark.parametrize(
    ("how", "sentence"),
    [
        ("a layer left out", r"The weights of spoiled lack model\.layers\.1\.\S+ and 8 more; save the whole model"),
        ("the head left out", r"The weights of spoiled lack lm_head\.weight; save the whole model"),
        ("a layer too many", r"The weights of spoiled have no place for model\.layers\.2\.\S+ and 8 more; "),
        ("a layer of another shape", r"The weights of spoiled have another shape of model\.norm\.weight; "),
    ],
)
def test_weights_that_are_not_whole_are_refused_by_name(tmp_path, load, how, sentence):
    """transformers fills what is missing with random values, differently at every start, and only logs it."""
    folder = tiny.save(tmp_path / "spoiled", tiny.model(tie_word_embeddings=False), tiny.tokenizer())
    weights = load_file(folder / "model.safetensors")
    layer = {name: tensor for name, tensor in weights.items() if ".layers.1." in name}
    match how:
        case "a layer left out":
            weights = {name: tensor for name, tensor in weights.items() if name not in layer}
        case "the head left out":
            del weights["lm_head.weight"]
        case "a layer too many":
            weights |= {name.replace(".layers.1.", ".layers.2."): tensor.clone() for name, tensor in layer.items()}
        case "a layer of another shape":
            weights["model.norm.weight"] = torch.ones(7)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=sentence):
        load(folder)


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "module._orig_mod."])
def test_weights_that_were_saved_from_a_wrapper_are_read_under_their_names(pair, copy, load, wrapper):
    weights = load_file(copy / "model.safetensors")
    save_file(
        {wrapper + name: tensor for name, tensor in weights.items()}, copy / "model.safetensors", {"format": "pt"}
    )
    assert load(copy).weights_sha256 == load(pair[0]).weights_sha256


def test_ids_may_have_gaps(pair, copy, load):
    """The largest id is not the number of tokens: an end of turn behind a gap exists."""
    spelling = json.loads((copy / "tokenizer.json").read_text())
    last = tiny.VOCABULARY - 1 + 40
    spelling["added_tokens"][-1]["id"] = spelling["model"]["vocab"][tiny.THINK] = last
    (copy / "tokenizer.json").write_text(json.dumps(spelling))
    weights = tiny.model(seed=1, vocab_size=tiny.VOCABULARY + 40)
    weights.save_pretrained(copy)
    checkpoint = load(copy)
    assert len(checkpoint.tokenizer) < last + 1 == checkpoint.engine.vocabulary
    assert prompts.has_token(checkpoint.tokenizer, last)
    assert not prompts.has_token(checkpoint.tokenizer, last - 1)
    assert not prompts.has_token(checkpoint.tokenizer, -1)


@pytest.mark.parametrize("kind", [BertConfig, T5Config])
def test_what_cannot_continue_text_is_refused_before_anything_is_downloaded(tmp_path, kind):
    kind().save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    hub = FolderHub(tmp_path)
    sentence = f"name is a {kind.model_type} model, not a decoder that continues text"
    settings = Settings(base="owner/name", post="owner/name@v1", device="cpu")
    with Pool(settings, hub) as pool, pytest.raises(UserError, match=sentence):
        pool.wait(pool.default.id)
    assert set(hub.asked) == {("config.json",)}


def test_weights_that_are_there_twice_are_read_and_fetched_once(tmp_path):
    """Mistral's repositories have theirs a second time, under names of their own, in consolidated.safetensors."""
    save_file({"layers.0.attention.wq.weight": torch.zeros(1)}, tmp_path / "consolidated.safetensors")
    save_file({"model.norm.weight": torch.zeros(1)}, tmp_path / "model-00001-of-00001.safetensors")
    assert tensor_names(tmp_path) == {"model.norm.weight"}
    files = {"config.json": 1, "consolidated.safetensors": 5, "model-00001-of-00001.safetensors": 5}
    assert set(Repository("owner/name", COMMIT, files).wanted()) == set(files) - {"consolidated.safetensors"}


def test_what_this_machine_can_never_hold_is_refused_before_anything_is_downloaded(pair, monkeypatch):
    monkeypatch.setattr(memory, "total_bytes", lambda device: 1000)
    hub = FolderHub(pair[0])
    settings = Settings(base="owner/name", post="owner/name@v1", device="cpu")
    with Pool(settings, hub) as pool, pytest.raises(UserError, match="The weights of name take 0 GB and this machine"):
        pool.wait(pool.default.id)
    assert set(hub.asked) == {("config.json",)}


@pytest.mark.parametrize(
    ("files", "fits"),
    [
        ({"model.safetensors": 2000}, True),
        ({"model.safetensors": 2004}, False),
        ({"model-00001-of-00002.safetensors": 1500, "model-00002-of-00002.safetensors": 1500}, False),
        ({"model.safetensors": 2000, "consolidated.safetensors": 2000, "README.md": 9**9}, True),
        ({"weights.safetensors": 3000}, False),
    ],
    ids=str,
)
def test_weights_are_as_large_in_memory_as_in_their_files_but_for_the_dtype(files, fits, monkeypatch):
    monkeypatch.setattr(memory, "total_bytes", lambda device: 1000)
    given = files, LlamaConfig(dtype="float32"), Placement(torch.device("cpu"), torch.bfloat16), "name"
    if fits:
        memory.check_size(*given)
    else:
        with pytest.raises(UserError, match="take 0 GB"):
            memory.check_size(*given)


@pytest.mark.parametrize(
    "absurd",
    [
        {"num_hidden_layers": 10**9},
        {"num_hidden_layers": 10**400},
        {"num_attention_heads": 10**9},
        {"vocab_size": 10**12},
        {"max_position_embeddings": -(10**12)},
        {"model_type": "mixtral", "num_local_experts": 10**7},
        {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "num_hidden_layers": 1e12}},
        {"layer_types": ["full_attention"], "layers_block_type": [10**9]},
    ],
    ids=lambda absurd: str(absurd)[:60],
)
def test_absurd_numbers_in_a_config_are_a_sentence_before_anything_is_built(copy, absurd):
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **absurd}))
    with pytest.raises(UserError, match=r"The configuration of spoiled says .*, and no model here may have more than"):
        loading.read_config(copy, "spoiled")


@pytest.mark.parametrize(
    "more", [{"layer_rope_theta": [10_000.0, 500_000.0]}, {"depthwise_separable_out_channel": 1024}], ids=str
)
def test_what_only_sounds_like_a_number_of_layers_is_none(copy, more):
    """GraniteMoeSWA has a base of rotary angles for each layer, and Phi-4 multimodal convolutions by depth."""
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, **more}))
    assert loading.read_config(copy, "fine").model_type == "llama"


def test_tables_beside_the_weights_count_as_memory():
    """GPT-Neo keeps a square of its positions for each layer."""
    small, large = (
        memory.footprint(GPTNeoConfig(max_position_embeddings=positions, num_layers=2, attention_types=[[["global"], 2]]), place(SETTINGS)).weights
        for positions in (64, 2**17)
    )  # fmt: skip
    assert large - small > 2**34


@pytest.mark.parametrize("where", ["attn_implementation", "experts_implementation"])
def test_a_config_chooses_no_implementation(copy, load, monkeypatch, where):
    """transformers would fetch the kernel of this name and run it."""
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**config, where: "somebody/kernel"}))
    asked = []
    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", lambda *given, **named: asked.append(given))
    assert reply(load(copy))
    assert asked == []


def test_a_reply_ends_where_its_own_template_ends_a_turn_whatever_the_tokenizer_calls_its_end():
    """As adapters that were trained on another template than their base's."""
    model, tokenizer = tiny.model(), tiny.tokenizer(tiny.CHATML)
    assert stop_ids(tokenizer, model) == {0, 2}
    assert stop_ids(tiny.tokenizer(), model) == {0}
    assert stop_ids(tiny.tokenizer("{{ messages[0]['nothing'].x.y }}"), model) == {0}


def test_what_ends_the_reasoning_of_a_reply_does_not_end_the_reply():
    """As gpt-oss': reasoning is a message of its own, which ends as the answer does."""
    channels = (
        "{% for m in messages %}"
        "{% if m.reasoning_content and loop.last %}<|im_start|>thinks {{ m.reasoning_content }}<|im_end|>{% endif %}"
        "<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
    )
    assert stop_ids(tiny.tokenizer(channels), tiny.model()) == {0}


# --- what fits ---------------------------------------------------------------------------------------------


def test_too_little_memory_is_refused_with_the_numbers(pair, load, monkeypatch):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 2**28)
    with pytest.raises(NotEnoughMemory, match=r"need about 0\.\d GB with their caches, and 0\.2 GB is free; choose"):
        load(pair[0])


@pytest.mark.parametrize("tied", [True, False])
def test_the_estimate_of_the_weights_is_their_size(tied):
    model = tiny.model(tie_word_embeddings=tied)
    held = [*model.to(torch.bfloat16).parameters(), *(buffer.float() for buffer in model.buffers())]
    if tied and packed.can_pack(torch.device("cpu"), torch.bfloat16):  # the head is packed beside what is looked up
        held.append(model.lm_head.weight)
    found = memory.footprint(model.config, Placement(torch.device("cpu"), torch.bfloat16))
    assert found.weights == sum(tensor.nbytes for tensor in held)


def test_a_device_that_is_not_there_is_refused():
    absent = next(name for name in ("mps", "cuda") if not getattr(torch, name).is_available())
    with pytest.raises(UserError, match=f"--device {absent} was asked for, but torch finds none here"):
        place(Settings(device=absent))


# --- pairs ---------------------------------------------------------------------------------------------------


def test_the_embedded_pair_opens_the_page_unless_another_is_named():
    assert pairs.default_pair(Settings()).id == "embedded"
    assert pairs.default_pair(Settings(pair="qwen3-0.6b")).base == "Qwen/Qwen3-0.6B-Base"
    with pytest.raises(UserError, match=r"There is no pair 'nobody' here; `python app\.py pairs` lists them"):
        pairs.default_pair(Settings(pair="nobody"))


def test_the_rows_of_the_file_have_ids_of_their_own_and_two_different_models():
    rows = pairs.known_pairs(Settings())
    assert len({row.id for row in rows}) == len({row.title for row in rows}) == len(rows) >= 14
    assert all(row.base != row.post for row in rows)


LINEAGE = [{"name": name, "source": f"owner/{name}"} for name in ("base", "SFT", "final")]


def test_a_lineage_names_its_stages_from_the_base_to_the_last():
    row = pairs.find_pair(pairs.known_pairs(Settings()), "olmo2-1b")
    assert [stage.name for stage in row.stages] == ["base", "SFT", "DPO", "final"]
    assert [stage.source for stage in row.between] == ["allenai/OLMo-2-0425-1B-SFT", "allenai/OLMo-2-0425-1B-DPO"]
    own = pairs.default_pair(Settings())
    assert [stage.name for stage in own.stages] == ["base", "early", "chat"] and all(
        map(pairs.folder, (s.source for s in own.stages))
    )
    without = pairs.find_pair(pairs.known_pairs(Settings()), "smollm2-135m")
    assert without.stages == without.between == (), "of most lineages only two stages were kept"


@pytest.mark.parametrize(
    ("stages", "why"),
    [
        (LINEAGE[:2], "the value: its stages must begin with its base and end with its post"),
        ([*LINEAGE[:2], LINEAGE[1], LINEAGE[2]], "the value: two of its stages have one name or one source"),
        ([{"name": "base"}], "stages.0.source: field required"),
        (
            [*LINEAGE[:2], {"name": "", "source": "owner/final"}],
            "stages.2.name: string should have at least 1 character",
        ),
    ],
)
def test_a_row_that_is_none_is_named_in_one_sentence(stages, why, tmp_path, monkeypatch):
    monkeypatch.setattr(pairs, "HOME", tmp_path)
    row = 'id = "x"\ntitle = "X"\nbase = "owner/base"\npost = "owner/final"'
    listed = ", ".join("{" + ", ".join(f'{key} = "{value}"' for key, value in stage.items()) + "}" for stage in stages)
    (tmp_path / "pairs.toml").write_text(f"[[pair]]\n{row}\nstages = [{listed}]\n", "utf-8")
    with pytest.raises(UserError) as refused:
        pairs.known_pairs(Settings())
    assert str(refused.value) == f"The row 'x' of checkpoints/pairs.toml is no pair; {why}."
    (tmp_path / "pairs.toml").write_text("pair = [3, ", "utf-8")
    with pytest.raises(UserError, match=r"^checkpoints/pairs\.toml cannot be read: .* \(at end of document\)\.$"):
        pairs.known_pairs(Settings())


def test_the_smallest_pair_comes_first():
    def parameters(row: pairs.Pair) -> float:
        said = pairs.about(row.post).parameters or ""
        return float(said[:-1]) * {"M": 1e6, "B": 1e9}[said[-1]]

    sizes = [parameters(row) for row in pairs.known_pairs(Settings())]
    assert sizes == sorted(sizes)


def test_every_model_that_is_offered_has_a_row_of_what_is_known_and_no_other_has():
    rows = pairs.known_pairs(Settings())
    offered = {row.spec(side) for row in rows for side in SIDES} | {
        stage.source for row in rows for stage in row.stages
    }
    assert set(tomllib.loads((pairs.HOME / "pairs.toml").read_text("utf-8"))["models"]) == offered
    assert all(pairs.about(spec).parameters for spec in offered)
    assert pairs.about("HuggingFaceTB/SmolLM2-135M@main") == pairs.about("HuggingFaceTB/SmolLM2-135M")
    assert pairs.about("owner/name") == pairs.About(), "nothing is known of a model of one's own"


def test_what_is_known_of_the_embedded_models_is_what_they_are():
    row = pairs.default_pair(Settings())
    for side in SIDES:
        file, known = pairs.HOME / row.spec(side) / "model.safetensors", pairs.about(row.spec(side))
        assert known.megabytes == round(file.stat().st_size / 1e6)
        assert known.parameters == f"{sum(value.numel() for value in load_file(file).values()) / 1e6:.1f}M"
        assert known.licence and (pairs.HOME.parent / known.licence).exists()
    assert pairs.facts(row) == "5.8M parameters each, checkpoints/LICENSE.md, 24 MB of weights"


def test_a_pair_says_whether_it_is_here_or_what_is_to_be_downloaded(pair, monkeypatch):
    rows = {row.id: row for row in pairs.known_pairs(Settings(base=str(pair[0]), post=str(pair[1])))}
    monkeypatch.setattr(sources, "is_cached", lambda id, revision, file: False)
    assert whereabouts(rows["tiny-base | tiny-chat"]) == whereabouts(rows["embedded"]) == "on this machine"
    assert whereabouts(rows["smollm2-135m"]) == "0.5 GB to download"
    assert whereabouts(rows["llama3.2-3b"]) == "13 GB to download"
    unknown = pairs.Pair(id="x", title="X", base="owner/name@v1", post="owner/other")
    assert whereabouts(unknown) == "to be downloaded" and pairs.facts(unknown) == ""
    assert (
        sidebar._titled(unknown) == "X \u00b7 to be downloaded"
        and sidebar._titled(rows["embedded"]) == rows["embedded"].title
    )
    monkeypatch.setattr(
        sources, "is_cached", lambda id, revision, _: (id, revision) in (("owner/name", "v1"), ("owner/other", None))
    )
    assert whereabouts(unknown) == "on this machine"
    assert whereabouts(rows["smollm2-135m"]) == "0.5 GB to download"


def test_what_differs_between_two_models_is_not_said_of_both():
    mixed = pairs.Pair(id="x", title="X", base="meta-llama/Llama-3.2-1B", post="Qwen/Qwen3-0.6B")
    assert pairs.facts(mixed) == "4.0 GB of weights"


def test_ones_own_pair_comes_first_and_shows_no_path(pair):
    own = Settings(base=str(pair[0]), post=str(pair[1]))
    row = pairs.known_pairs(own)[0]
    assert row == pairs.default_pair(own)
    assert row == pairs.Pair(
        id="tiny-base | tiny-chat", title="tiny-base and tiny-chat", base=str(pair[0]), post=str(pair[1])
    )
    assert pairs.default_pair(Settings(base="a/b", post="c/d@e", pair="embedded")).id == "a/b | c/d@e"
    assert pairs.default_pair(Settings(base="a/b", post="c/d", pair="smollm3-3b")).id == "smollm3-3b"


# --- where a spec lies ---------------------------------------------------------------------------------


def test_a_path_is_the_folder_that_one_stands_in_and_keeps_the_name_that_was_typed(tmp_path, monkeypatch):
    (tmp_path / "model-v3").mkdir()
    (tmp_path / "latest").symlink_to(tmp_path / "model-v3", target_is_directory=True)
    monkeypatch.chdir(tmp_path / "model-v3")
    monkeypatch.setenv("HOME", str(tmp_path))
    for spec, name in ((".", "model-v3"), ("./", "model-v3"), ("..", tmp_path.name), ("../latest", "latest"), ("~/latest", "latest")):  # fmt: skip
        found = pairs.folder(spec)
        assert found is not None and (found.name, found.resolve()) == (name, (Path(spec).expanduser()).resolve())
        assert pairs.label(spec) == name
    shipped = pairs.default_pair(Settings()).base
    assert pairs.folder(shipped) == pairs.HOME / shipped, "whatever one stands in"
