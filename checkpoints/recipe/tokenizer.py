"""The byte-level BPE tokenizer that both siblings share, and its chat template."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

DOCUMENT = "<|endoftext|>"  # begins every document and every conversation; ends the base model's page
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"

CHAT_TEMPLATE = (
    "{{- bos_token -}}"
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message['role'] + '\n' -}}"
    "{%- if message['role'] == 'assistant' -%}"
    "{% generation %}{{- message['content'] + '<|im_end|>' -}}{% endgeneration %}"
    "{%- else -%}{{- message['content'] + '<|im_end|>' -}}{%- endif -%}"
    "{{- '\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)


def train(texts: Iterable[str], vocabulary: int) -> Tokenizer:
    """Byte-level BPE with single-digit numbers, so that digits can be copied one by one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[DOCUMENT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{DOCUMENT} $A", special_tokens=[(DOCUMENT, tokenizer.token_to_id(DOCUMENT))]
    )
    return tokenizer


def for_transformers(tokenizer: Tokenizer, *, post_trained: bool, context: int) -> PreTrainedTokenizerFast:
    """The same vocabulary as transformers loads it. Only the end-of-text token and the template tell the siblings apart."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=DOCUMENT,
        eos_token=TURN_END if post_trained else DOCUMENT,
        pad_token=DOCUMENT,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
    )
    if post_trained:
        wrapped.chat_template = CHAT_TEMPLATE
    return wrapped
