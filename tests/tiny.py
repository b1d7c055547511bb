"""Tiny model folders, as transformers saves them: random weights, a real byte-level BPE tokenizer, chat templates of several styles."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from gguf import MODEL_ARCH, GGMLQuantizationType, GGUFWriter, TokenType, get_tensor_name_map, quantize
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

CONTEXT = 256
VOCABULARY = 320
END_OF_TEXT, TURN_START, TURN_END, THINK = "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<think>"

_SENTENCES = (
    "The quick brown fox jumps over the lazy dog, and the dog does not mind.",
    "A language model continues a text; a post-trained one answers the person who wrote it.",
    "Same seed, same temperature, same prompt: what differs is the weights.",
)

_TURN = "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
_ANSWER = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"

# One template for each thing that templates are known to do with a conversation.
CHATML = "{{ bos_token }}{% for message in messages %}" + _TURN + "{% endfor %}" + _ANSWER
WITHOUT_BOS = CHATML.removeprefix("{{ bos_token }}")
STRIPS = CHATML.replace("message['content']", "message['content'].strip()")
REFUSES_SYSTEM = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    + _TURN
    + "{% endfor %}"
    + _ANSWER
)
# As Llama 3.2's: a head with today's date.
DATED = (
    "{{- bos_token }}\n"
    "{%- if not date_string is defined %}\n"
    "    {%- if strftime_now is defined %}\n"
    '        {%- set date_string = strftime_now("%d %b %Y") %}\n'
    "    {%- else %}\n"
    '        {%- set date_string = "26 Jul 2024" %}\n'
    "    {%- endif %}\n"
    "{%- endif %}\n"
    "{{- '<|im_start|>system\\nToday Date: ' + date_string + '<|im_end|>\\n' }}\n"
    "{%- for message in messages %}\n"
    "    {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>\\n' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|im_start|>assistant\\n' }}\n"
    "{%- endif %}\n"
)
# As Qwen3's: what an earlier reply thought is left out. It names <think>, which makes that a control token.
FORGETS_REASONING = (
    "{% for message in messages %}"
    "{% set content = message['content'] %}"
    "{% if message['role'] == 'assistant' and '</think>' in content %}"
    "{% set content = content.split('</think>')[-1].lstrip('\n') %}"
    "{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + content + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
    "{% endif %}"
)
# As Gemma's: the system prompt goes to the head of the first user turn, and the assistant is called model.
SYSTEM_IN_FIRST_TURN = (
    "{{ bos_token }}"
    "{%- if messages[0]['role'] == 'system' -%}"
    "{%- set first_prefix = messages[0]['content'] + '\n\n' -%}{%- set loop_messages = messages[1:] -%}"
    "{%- else -%}{%- set first_prefix = '' -%}{%- set loop_messages = messages -%}{%- endif -%}"
    "{%- for message in loop_messages -%}"
    "{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}"
    "{{ '<|im_start|>' + role + '\n' + (first_prefix if loop.first else '') }}{{ message['content'] | trim }}"
    "{{ '<|im_end|>\n' }}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{ '<|im_start|>model\n' }}{%- endif -%}"
)
TEMPLATES = {
    "ChatML with BOS": CHATML,
    "ChatML without BOS": WITHOUT_BOS,
    "strips": STRIPS,
    "dated, as Llama 3.2": DATED,
    "forgets reasoning, as Qwen3": FORGETS_REASONING,
    "system in the first turn, as Gemma": SYSTEM_IN_FIRST_TURN,
}


@cache
def _trained() -> str:
    """Byte-level BPE, as JSON: ids 0 to 2 are special tokens, THINK is an added token that is not special."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 1,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(_SENTENCES, trainer)
    backend.add_tokens([AddedToken(THINK, special=False, normalized=False)])
    return backend.to_str()


def tokenizer(
    template: str | None = None, *, eos: str = END_OF_TEXT, adds_bos: bool = False
) -> PreTrainedTokenizerFast:
    """Every call gives the same vocabulary; `adds_bos` puts END_OF_TEXT before every text that is encoded."""
    backend = Tokenizer.from_str(_trained())
    if adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, backend.token_to_id(END_OF_TEXT))]
        )
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=END_OF_TEXT,
        eos_token=eos,
        pad_token=END_OF_TEXT,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = template
    return wrapped


def model(seed: int = 0, **changes) -> PreTrainedModel:
    """A Llama with random weights that bfloat16 holds exactly, reproducible by its seed."""
    config = LlamaConfig(
        **{
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": VOCABULARY,
            "max_position_embeddings": CONTEXT,
            "initializer_range": 0.3,
            "tie_word_embeddings": True,
            "bos_token_id": 0,
            "eos_token_id": 0,
            "pad_token_id": 0,
            **changes,
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).bfloat16().eval()


def save_gguf(
    path: Path,
    weights: PreTrainedModel,
    spelling: PreTrainedTokenizerFast,
    *,
    quantized: GGMLQuantizationType = GGMLQuantizationType.F32,
    more: Mapping[str, str | int | float] = MappingProxyType({}),
    tensors: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> Path:
    """A Llama as llama.cpp's converter writes it; its matrices `quantized`, with `more` keys and `tensors`."""
    config, file = weights.config, GGUFWriter(path, "llama")
    file.add_name("Tiny")
    file.add_context_length(config.max_position_embeddings)
    file.add_block_count(config.num_hidden_layers)
    file.add_embedding_length(config.hidden_size)
    file.add_feed_forward_length(config.intermediate_size)
    file.add_head_count(config.num_attention_heads)
    file.add_head_count_kv(config.num_key_value_heads)
    file.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    file.add_rope_freq_base(config.rope_parameters["rope_theta"])
    file.add_layer_norm_rms_eps(config.rms_norm_eps)
    for key, value in more.items():
        add = {str: file.add_string, int: file.add_uint32, float: file.add_float32}[type(value)]
        add(key, value)  # type: ignore[operator]
    _add_tokenizer(file, spelling, more)
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in weights.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        if "q_proj" in name or "k_proj" in name:
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            values = values.reshape(heads, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        kind = quantized if values.ndim > 1 else GGMLQuantizationType.F32
        file.add_tensor(names.get_name(name, (".weight",)), quantize(values, kind), raw_dtype=kind)
    for name, values in tensors.items():
        file.add_tensor(name, values)
    file.write_header_to_file()
    file.write_kv_data_to_file()
    file.write_tensors_to_file()
    file.close()
    return path


def _add_tokenizer(file: GGUFWriter, spelling: PreTrainedTokenizerFast, more: Mapping[str, object]) -> None:
    described = json.loads(spelling.backend_tokenizer.to_str())
    added = {
        token["id"]: TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        for token in described["added_tokens"]
    }
    by_id = {id: token for token, id in spelling.get_vocab().items()}
    file.add_tokenizer_model("gpt2")
    if "tokenizer.ggml.pre" not in more:
        file.add_tokenizer_pre("gpt-2")
    file.add_token_list([by_id[id] for id in range(len(by_id))])
    file.add_token_types([added.get(id, TokenType.NORMAL) for id in range(len(by_id))])
    file.add_token_merges([" ".join(pair) for pair in described["model"]["merges"]])
    file.add_bos_token_id(spelling.bos_token_id)
    file.add_eos_token_id(spelling.eos_token_id)
    file.add_add_bos_token(False)
    if spelling.chat_template:
        file.add_chat_template(spelling.chat_template)


def save(folder: Path, weights: PreTrainedModel, spelling: PreTrainedTokenizerFast) -> Path:
    """A model folder as people have them."""
    weights.save_pretrained(folder)
    spelling.save_pretrained(folder)
    return folder


def save_pair(folder: Path, *, context: int = CONTEXT, post_seed: int = 2) -> tuple[Path, Path]:
    """A base model without a chat template, and its sibling with other weights, a template and an end of turn.

    `post_seed` 1 gives the sibling the very weights of the base.
    """
    base = save(folder / "tiny-base", model(seed=1, max_position_embeddings=context), tokenizer(adds_bos=True))
    post = save(
        folder / "tiny-chat",
        model(seed=post_seed, max_position_embeddings=context, eos_token_id=[0, 2]),
        tokenizer(CHATML, eos=TURN_END, adds_bos=True),
    )
    return base, post
