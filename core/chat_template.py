"""Running a chat template as it stands: with its date pinned, and what it reads, writes and looks for.

A chat template is somebody else's program, in the sandbox of transformers. What it makes of a conversation
is in rendering.py.
"""

import re
from ast import literal_eval
from collections.abc import Collection, Mapping
from contextlib import suppress
from datetime import date
from functools import lru_cache
from string import ascii_letters
from typing import Any, Protocol

from jinja2 import Environment, TemplateError, meta

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
_NO_SWITCH = re.compile(
    r"messages|add_generation_prompt|pinned_date|.*_token|.*tools?(_.*)?|documents?|date_string|.*_now|.*exception"
)


class HasTemplate(Protocol):
    """What is used of transformers' PreTrainedTokenizerFast."""

    chat_template: Any

    def apply_chat_template(self, conversation: Any, **options: Any) -> Any: ...


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
    text: str = tokenizer.apply_chat_template(
        chat,
        chat_template=_PIN_DATE + of(tokenizer),
        tokenize=False,
        add_generation_prompt=add_generation_prompt,
        pinned_date=_directives(today),
        **switches,
    )
    return text


@lru_cache
def _switches(template: str) -> tuple[str, ...]:
    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    try:
        names = meta.find_undeclared_variables(environment.parse(_GENERATION.sub("", template)))
    except TemplateError:
        return ()
    return tuple(sorted(name for name in names - set(environment.globals) if not _NO_SWITCH.fullmatch(name)))


def switches(tokenizer: HasTemplate) -> tuple[str, ...]:
    """What the chat template reads beside the messages: the names that `chat_template_kwargs` may hold."""
    return _switches(of(tokenizer))


def end_of_reply(tokenizer: HasTemplate, control: Collection[str]) -> str | None:
    """The control token that the template writes right behind a reply, unless it ends the reasoning before it, too (as gpt-oss')."""
    asked = {"role": "user", "content": "Question?"}
    answered = {"role": "assistant", "content": "Answer.", "reasoning_content": "Reasoning."}
    with suppress(*FAULTS):
        ended, thought = (
            apply(tokenizer, chat, date(2000, 1, 1), {}, add_generation_prompt=False)
            for chat in ([asked, answered, asked], [asked, answered])
        )
        behind = ended.partition("Answer.")[2].lstrip()
        found = max((marker for marker in control if behind.startswith(marker)), key=len, default=None)
        between = thought.partition("Reasoning.")[2].partition("Answer.")[0]
        return found if found and found not in between else None
    return None


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
