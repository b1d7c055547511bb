"""Text is what the tokens spell: over every kind of decoder, every character, broken bytes, and wherever a prompt ends."""

from functools import cache
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from core.detokenizer import UNREADABLE, Detokenizer
from tests import tiny

BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def wrapped(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>")


@cache
def byte_level() -> PreTrainedTokenizerFast:
    return tiny.tokenizer()


@cache
def byte_fallback() -> PreTrainedTokenizerFast:
    """As Llama 2's and Gemma's: few characters are tokens, all others are bytes, and a run with one wrong byte is lost whole."""
    vocabulary = ["<s>", *BYTES, "▁", "▁a", *"abcdefgh\nß三", "ab", "cd"]
    merges = [("▁", "a"), ("a", "b"), ("c", "d")]
    backend = Tokenizer(
        models.BPE({token: id for id, token in enumerate(vocabulary)}, merges, byte_fallback=True, fuse_unk=True)
    )
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens(["<s>"])
    return wrapped(backend)


@cache
def sentencepiece() -> PreTrainedTokenizerFast:
    """A unigram model, whose decoder takes the space off the very first piece."""
    pieces = [("<unk>", 0.0), ("<s>", 0.0), ("▁", -3.0), ("▁a", -2.0), ("ab", -2.5), *((c, -4.0) for c in "abcdeß三")]
    backend = Tokenizer(models.Unigram(pieces, 0, byte_fallback=False))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    backend.add_special_tokens(["<s>"])
    return wrapped(backend)


@cache
def word_piece() -> PreTrainedTokenizerFast:
    vocabulary = {token: id for id, token in enumerate(["[UNK]", "<s>", "a", "##a", "b", "##b", ".", "'", "n't"])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    backend.add_special_tokens(["<s>"])
    return wrapped(backend)


KINDS = [byte_level, byte_fallback, sentencepiece, word_piece]
SPELL_ALL = [byte_level, byte_fallback]

every_plane = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
texts = st.lists(
    st.one_of(every_plane, st.sampled_from(["ab cd", " a", "三ß", "👩\u200d🚀", "\n", "ક", UNREADABLE]))
).map("".join)
often = settings(deadline=None, max_examples=60, derandomize=True, database=None)


def ids_of(tokenizer) -> st.SearchStrategy:
    """Any ids whatever: broken bytes, special tokens, long runs of bytes."""
    any_id = st.integers(0, len(tokenizer) - 1)
    spelled = texts.map(lambda text: encoded(tokenizer, text))
    return st.lists(st.one_of(st.lists(any_id, max_size=6), spelled), max_size=5).map(lambda runs: [*chain(*runs)])


def encoded(tokenizer, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def decoded(tokenizer, ids) -> str:
    return tokenizer.backend_tokenizer.decode(list(ids), skip_special_tokens=True)


def behind(tokenizer, before, *runs) -> Detokenizer:
    detokenizer = Detokenizer(tokenizer, before)
    for ids in runs:
        detokenizer.take(*ids)
    return detokenizer


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@often
@given(st.data())
def test_all_of_it_is_what_the_tokenizer_itself_decodes(kind, data):
    tokenizer = kind()
    ids = data.draw(ids_of(tokenizer))
    one_by_one = Detokenizer(tokenizer)
    for id in ids:
        one_by_one.take(id)
        assert UNREADABLE in one_by_one.text or one_by_one.readable == one_by_one.text
    assert one_by_one.text == decoded(tokenizer, ids)
    assert behind(tokenizer, (), ids).text == decoded(tokenizer, ids)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@often
@given(st.data())
def test_behind_any_prompt_it_is_what_the_decoding_of_both_adds(kind, data):
    """A prompt is the encoding of a text, so it ends where a character ends."""
    tokenizer = kind()
    before, ids = encoded(tokenizer, data.draw(texts)), data.draw(ids_of(tokenizer))
    whole, earlier = decoded(tokenizer, [*before, *ids]), decoded(tokenizer, before)
    text = behind(tokenizer, before, ids).text
    assert text == behind(tokenizer, before, *([id] for id in ids)).text
    assert whole.endswith(text)
    if whole.startswith(earlier):
        assert text == whole[len(earlier) :]
    else:
        assert text.startswith(UNREADABLE), "a byte that fits nowhere makes bytes of the prompt unreadable, too"
        assert len(text) <= len(whole) - len(earlier.rstrip()) + 40


@pytest.mark.parametrize("kind", SPELL_ALL, ids=lambda kind: kind.__name__)
@often
@given(text=texts, before=texts, data=st.data())
def test_a_text_that_streams_only_grows_and_lacks_no_more_than_a_character(kind, text, before, data):
    tokenizer = kind()
    ids, asked = encoded(tokenizer, text), encoded(tokenizer, before)
    detokenizer, whole = Detokenizer(tokenizer, asked), behind(tokenizer, asked, ids).text
    shown = ""
    for count, id in enumerate(ids, 1):
        detokenizer.take(id)
        assert whole.startswith(detokenizer.readable) and detokenizer.readable.startswith(shown)
        shown = detokenizer.readable
        complete = behind(tokenizer, asked, ids[:count]).text.rstrip(UNREADABLE)
        assert shown.startswith(complete)
    assert shown == whole or whole.endswith(UNREADABLE)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@often
@given(st.data())
def test_wherever_it_is_split_nothing_of_the_prompt_is_shown_and_nothing_raises(kind, data):
    """Also inside a character: what both parts make together belongs to the second."""
    tokenizer = kind()
    ids = data.draw(ids_of(tokenizer))
    for split in range(len(ids) + 1):
        text = behind(tokenizer, ids[:split], ids[split:]).text
        whole = decoded(tokenizer, ids)
        assert whole.endswith(text) or text.startswith(UNREADABLE), "or bytes of the prompt were given up"
        most = sum(len(decoded(tokenizer, [id])) + 1 for id in ids[split:])
        assert len(text) <= most


# --- what was seen to go wrong ----------------------------------------------------------------------------------


def bytes_of(text: str) -> list[int]:
    return [byte_fallback().get_vocab()[f"<0x{byte:02X}>"] for byte in text.encode()]


def test_a_rare_character_a_stray_byte_and_a_letter_do_not_raise():
    tokenizer = byte_fallback()
    stray, letter = bytes_of("é")[:1], [tokenizer.get_vocab()["b"]]
    detokenizer = behind(tokenizer, encoded(tokenizer, "a"), bytes_of("ક"))
    assert detokenizer.readable == "ક"
    detokenizer.take(*stray)
    assert detokenizer.readable == "ક", "the byte may become a character yet"
    detokenizer.take(*letter)
    assert detokenizer.readable == UNREADABLE * 4 + "b", "as the tokenizer has it"


def test_a_reply_in_the_script_of_the_prompt_is_readable_where_both_are_bytes():
    tokenizer = byte_fallback()
    asked = encoded(tokenizer, "a કખગઘઙચછ")
    detokenizer, shown = Detokenizer(tokenizer, asked), []
    for id in bytes_of("જઝ"):
        detokenizer.take(id)
        shown.append(detokenizer.readable)
    assert shown == ["", "", "જ", "જ", "જ", "જઝ"]


def test_a_character_whose_first_bytes_stand_before_belongs_to_what_completes_it():
    tokenizer, ids = byte_fallback(), bytes_of("ક")
    for split in (1, 2):
        detokenizer = behind(tokenizer, [*encoded(tokenizer, "a"), *ids[:split]], ids[split:])
        assert detokenizer.text == "ક"


def test_a_stray_byte_behind_a_prompt_of_bytes_shows_nothing_of_the_prompt():
    tokenizer = byte_fallback()
    detokenizer = behind(tokenizer, encoded(tokenizer, "a કખ"), bytes_of("ક")[1:2])
    assert (detokenizer.readable, detokenizer.text) == ("", UNREADABLE)


@pytest.mark.parametrize("id", [-1, 2**32, 2**40, 10**6])
def test_ids_that_no_tokenizer_has_say_nothing(id):
    assert behind(byte_fallback(), [id], [id]).text == ""


@pytest.mark.parametrize("kind", [byte_level, byte_fallback], ids=lambda kind: kind.__name__)
def test_a_long_text_of_which_no_token_begins_a_character_is_settled_as_it_goes(kind):
    """Else every token would decode all of it anew."""
    tokenizer, text = kind(), "日本語文字" * 400
    detokenizer = Detokenizer(tokenizer)
    for id in encoded(tokenizer, "a" + text):
        detokenizer.take(id)
        assert len(detokenizer._taken) <= 1030
    assert detokenizer.text == decoded(tokenizer, encoded(tokenizer, "a" + text))


def test_thousands_of_bytes_that_are_no_characters_are_read_as_the_tokenizer_reads_them():
    tokenizer = byte_fallback()
    stray = bytes_of("é")[1:] * 1500
    detokenizer = Detokenizer(tokenizer, encoded(tokenizer, "a"))
    for id in stray:
        detokenizer.take(id)
    assert detokenizer.text == UNREADABLE * 1500
