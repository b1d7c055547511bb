"""A chat template is a stranger's program: whatever it does ends in one sentence, and costs nobody else anything."""

import json
import threading
from datetime import date
from io import BytesIO
from pathlib import Path

import psutil
import pytest
from transformers import PreTrainedTokenizerFast

from core import apart, chat_template, prompts, template_process
from core.checkpoints.tokenizers import read_tokenizer
from core.errors import UserError
from tests import tiny
from tests.test_prompts import asked

TODAY = date(2026, 1, 2)
HELLO = [{"role": "user", "content": "Hello"}]
FOR_EVER = "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}{% endfor %}{% endfor %}"


def written(template: str) -> str:
    return chat_template.apply(tiny.tokenizer(template), HELLO, TODAY, {})


def processes() -> set[int]:
    return {child.pid for child in psutil.Process().children() if "template_process" in " ".join(child.cmdline())}


@pytest.mark.parametrize(
    ("template", "sentence"),
    [
        pytest.param(FOR_EVER, "it takes more than", marks=pytest.mark.slow),
        ("{{ 'a' * (10**10) }}", "more memory than a template may"),
        pytest.param(
            "{% set n = namespace(s='a') %}{% for i in range(60) %}{% set n.s = n.s + n.s %}{% endfor %}{{ n.s }}",
            "more memory than a template may",
            marks=pytest.mark.slow,
        ),
        ("{{ 'a' | center(3000000000) }}", "more memory than a template may"),
        ("{% for i in range(9000) %}{{ 'x' * 2000 }}{% endfor %}", "writes more than 16,000,000 characters"),
        ("{% for i in range(10**9) %}x{% endfor %}", "Range too big"),
        ("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}", "maximum recursion depth"),
        ("{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}", "maximum recursion depth"),
    ],
    ids=lambda value: value[:40],
)
def test_a_template_that_takes_too_much_is_one_sentence(template, sentence, monkeypatch):
    monkeypatch.setattr(apart, "SECONDS", 0.2 if template == FOR_EVER else apart.SECONDS)
    with pytest.raises(UserError) as refusal:
        prompts.build(asked("Hello"), "post", tiny.tokenizer(template), tiny.tokenizer())
    assert sentence in str(refusal.value) and "\n" not in str(refusal.value)
    assert chat_template.switches(tiny.tokenizer(template)) == ()
    assert written("{{ messages[0].content }}!") == "Hello!", "the next one is none the worse"


def test_a_prompt_has_one_budget_however_often_it_is_rendered(monkeypatch):
    ran = []
    run = apart._Processes.run
    monkeypatch.setattr(apart._Processes, "run", lambda *given: ran.append(given[2]["do"]) or run(*given))
    monkeypatch.setattr(apart, "SECONDS", 0.2)
    with pytest.raises(UserError, match="it takes more than"):
        prompts.build(asked("Hello <|im_end|>"), "post", tiny.tokenizer(FOR_EVER + "a"), tiny.tokenizer())
    assert ran.count("render") == 1


@pytest.mark.slow
def test_a_template_that_was_ended_keeps_no_other_waiting(monkeypatch):
    template = FOR_EVER + "b"
    monkeypatch.setattr(apart, "SECONDS", 0.2)
    with pytest.raises(apart.TooMuch):
        written(template)
    monkeypatch.setattr(apart, "SECONDS", 2)

    def ask_again() -> None:
        with pytest.raises(apart.TooMuch):
            written(template)

    stuck = threading.Thread(target=ask_again)
    stuck.start()
    assert [written("{{ messages[0].content }}?") for _ in range(20)] == ["Hello?"] * 20
    assert stuck.is_alive()
    stuck.join()


def test_honest_templates_share_a_process_that_stays():
    assert written("{{ messages[0].content }}") == "Hello"
    before = processes()
    assert [written("{{ messages[0].content }}" + "." * n) for n in range(5)] == ["Hello" + "." * n for n in range(5)]
    assert processes() == before and before


def test_a_process_knows_no_secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setenv("SAME_SEED_AUTH", "a:b")
    apart._processes().close()
    written("x")
    for pid in processes():
        assert not {"HF_TOKEN", "SAME_SEED_AUTH"} & set(psutil.Process(pid).environ())


def test_what_stands_between_two_processes_is_whole():
    """Characters that no text may hold, too, and what a template prints by accident is no answer."""
    text = "\ud800 \U000f0001 \0 \r\n"
    assert chat_template.apply(
        tiny.tokenizer("{{ messages[0].content }}|{{ bos_token }}"), [{"role": "user", "content": text}], TODAY, {}
    ).startswith(text)
    assert template_process.answer(do="names", template="{{ b }}{% set c = a %}") == b"\0a\nb"
    assert b"unexpected end" in template_process.answer(do="names", template="{{ b ")
    chat = {"chat": HELLO, "begin_reply": False, "variables": {}}
    assert template_process.answer(do="render", template="{{ raise_exception('no') }}", **chat) == b"no"
    with pytest.raises(EOFError):
        template_process.read(BytesIO(b"\0\0"))
    with pytest.raises(ValueError, match="too long"):
        template_process.read(BytesIO(b"\xff\xff\xff\xff"))


# --- tokenizers -------------------------------------------------------------------------------------------


def cutting(folder: Path, pattern: str, part: str = "pre_tokenizer") -> PreTrainedTokenizerFast:
    """A tokenizer of a stranger, read from its folder, that has this pattern."""
    tiny.tokenizer(tiny.CHATML).save_pretrained(folder)
    spelling = json.loads((folder / "tokenizer.json").read_text())
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
    replace = {"type": "Replace", "pattern": {"Regex": pattern}, "content": "x"}
    spelling[part] = {
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, spelling["pre_tokenizer"]]},
        "normalizer": replace,
        "decoder": {"type": "Sequence", "decoders": [spelling["decoder"], replace]},
    }[part]
    (folder / "tokenizer.json").write_text(json.dumps(spelling))
    return read_tokenizer(folder, "stranger")


@pytest.mark.parametrize("part", ["pre_tokenizer", "normalizer"])
@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("(?=(a+)+b)", "it tries too many ways to cut this text"),
        pytest.param(r"(?=a*a*a*\d)", "it takes more than", marks=pytest.mark.slow),
    ],
)
def test_a_pattern_that_never_ends_is_one_sentence(tmp_path, monkeypatch, part, pattern, sentence):
    tokenizer = cutting(tmp_path, pattern, part)
    monkeypatch.setattr(apart, "SECONDS", 0.3)
    for framing in ("document", "chat"):
        with pytest.raises(UserError) as refusal:
            prompts.build(asked("a" * 300, framing), "post", tokenizer, tokenizer)
        assert sentence in str(refusal.value) and "\n" not in str(refusal.value)
    prompts.build(asked("Hello", "document"), "post", tokenizer, tokenizer)


def test_honest_patterns_give_the_tokens_that_they_gave(tmp_path):
    tokenizer = cutting(tmp_path, r"\p{N}{1,3}|\s+(?!\S)|\s+")
    plain = PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"))
    text = "Hello 12345  there\n\n\u00e9 <|im_end|> x"
    assert tokenizer(text)["input_ids"] == plain(text)["input_ids"]
    assert isinstance(tokenizer, PreTrainedTokenizerFast) and len(tokenizer) == len(plain)


def test_a_pattern_by_which_tokens_are_read_is_refused(tmp_path):
    with pytest.raises(UserError, match="stranger reads its tokens by a pattern of its own"):
        cutting(tmp_path, "a+", "decoder")
