"""Running a chat template as it stands: with its date pinned, and what it reads, writes and looks for.

A chat template is somebody else's program, in the sandbox of transformers and in a process apart (apart.py). What it
makes of a conversation is in rendering.py.
"""

import re
from ast import literal_eval
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import date
from functools import lru_cache
from string import ascii_letters
from typing import Any, Protocol

from jinja2 import Environment, TemplateError

from . import apart

# The library hands no functions to templates, so a macro takes the place of its strftime_now. The line break
# at its end is trimmed, and the template begins at the start of a line as it would without it.
_PIN_DATE = (
    "{% macro strftime_now(format) %}{% set pinned = namespace(text=format) %}"
    "{% for directive, value in pinned_date.items() %}"
    "{% set pinned.text = pinned.text.replace(directive, value) %}"
    "{% endfor %}{{ pinned.text }}{% endmacro %}\n"
)
FAULTS = (Exception,)  # a template is somebody else's program, and may fail in every way
_GENERATION = re.compile(r"{%-?\s*(?:end)?generation\s*-?%}")  # the library's own tags
# The names by which templates read a reply's reasoning, and one that is none: as a part of the message's content.
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
PART = "part"
REASONING, ANSWER = "\U000f0001", "\U000f0002"  # what no template says by itself
_NO_SWITCH = re.compile(
    r"messages|add_generation_prompt|pinned_date|.*_token|.*tools?(_.*)?|documents?|date_string|.*_now|.*exception"
)


class HasTemplate(Protocol):
    """What is used of transformers' PreTrainedTokenizerFast."""

    chat_template: Any

    @property
    def special_tokens_map(self) -> dict[str, Any]: ...


def of(tokenizer: HasTemplate) -> str:
    """The chat template; of several by name, the one that the library takes."""
    template = tokenizer.chat_template
    return (template.get("default") if isinstance(template, dict) else template) or ""


def apply(
    tokenizer: HasTemplate,
    chat: list[dict[str, Any]],
    today: date,
    switches: Mapping[str, Any],
    *,
    add_generation_prompt: bool = True,
) -> str:
    """The text of a conversation. Raises one of FAULTS."""
    variables = {**tokenizer.special_tokens_map, "pinned_date": _directives(today), **switches}
    return apart.ask(
        _PIN_DATE + of(tokenizer), do="render", chat=chat, begin_reply=add_generation_prompt, variables=variables
    )


@lru_cache
def _switches(template: str) -> tuple[str, ...]:
    try:
        names = apart.ask(_GENERATION.sub("", template), do="names").split("\n")
    except FAULTS:
        return ()
    return tuple(name for name in names if name and not _NO_SWITCH.fullmatch(name))


def switches(tokenizer: HasTemplate) -> tuple[str, ...]:
    """What the chat template reads beside the messages: the names that `chat_template_kwargs` may hold."""
    return _switches(of(tokenizer))


def as_dict(role: str, text: str, reasoning: str = "", key: str = "", *, in_parts: bool = False) -> dict[str, Any]:
    """A message as templates read it: with its reasoning under `key`, and its text as a list of parts if need be."""
    part = {"type": "text", "text": text}
    if reasoning and key == PART:
        return {"role": role, "content": [{"type": "thinking", "thinking": reasoning}, *([part] if text else [])]}
    return {"role": role, "content": [part] if in_parts else text} | ({key: reasoning} if reasoning else {})


@apart.one_budget()
def ends_of_reply(tokenizer: HasTemplate, control: Collection[str]) -> tuple[str, ...]:
    """The control tokens that the template writes right behind a reply, the last one of a conversation too.

    A token that also stands between reasoning and answer (as gpt-oss' <|end|>) is none.
    """
    asked = {"role": "user", "content": "Question?"}
    answered = {"role": "assistant", "content": ANSWER, **dict.fromkeys(REASONING_KEYS, REASONING)}
    found, between = [], ""
    for chat in ([asked, answered, asked], [asked, answered]):
        with suppress(*FAULTS):
            text = apply(tokenizer, chat, date(2000, 1, 1), {}, add_generation_prompt=False)
            before, _, behind = text.partition(ANSWER)
            between += before.partition(REASONING)[2]
            found.append(max((m for m in control if behind.lstrip().startswith(m)), key=len, default=""))
    return tuple(end for end in dict.fromkeys(found) if end and end not in between)


@lru_cache
def literals(template: str) -> tuple[str, ...]:
    """The strings that stand in a template's expressions."""
    found = set()
    with suppress(TemplateError):
        for _, kind, text in Environment().lex(template):
            if kind == "string":
                with suppress(ValueError, SyntaxError):
                    found.add(literal_eval(text).strip())
    return tuple(sorted(word for word in found if word))


def _directives(today: date) -> dict[str, str]:
    """What each directive of strftime stands for on this date; "%-d" is "%d" without zeros in front."""
    padded = {}
    for letter in ascii_letters:
        with suppress(ValueError):  # which letters there are depends on the system
            padded[f"%{letter}"] = today.strftime(f"%{letter}")
    plain = {f"%-{letter}": padded[f"%{letter}"].lstrip("0") or "0" for letter in "dHIjmMSUWy"}
    return {"%%": "\0", **padded, **plain, "\0": "%"}
