"""A turn of a kept conversation -> code that runs it again: a command line, Python, and HTTP.

What people wrote stands in this code, so it is quoted for the language that it is in, and every character that
a terminal could obey or an eye could miss is escaped. This file runs nothing and knows no page.
"""

import json
import shlex
from pprint import pformat
from typing import Any

from . import canonical
from .errors import UserError
from .installation import COMMAND
from .settings import EMBEDDED
from .types import DEFAULT_SAMPLING, Chat, Comparison, Value

ADDRESS = "http://127.0.0.1:7860"  # of a server that was started without flags
_LONGEST_WORD = 30_000  # characters that every system takes as one word of a command


class Code(Value):
    """The same turn in three languages. `command` and `http` are for a POSIX shell."""

    command: str
    python: str
    http: str


def code(chat: Chat, index: int, address: str = ADDRESS) -> Code:
    """The code for one turn of a conversation; `address` is that of the page, with its path prefix.

    Raises:
        UserError: the turn came with a link, so how it was made is not known.
    """
    record = chat[index]
    if record.base is None and record.post is None:
        raise UserError(f"Turn {index + 1} came with a link, and how it was made is not known; choose a later turn.")
    comparison = record.comparison(chat[:index])
    data = comparison.model_dump(mode="json", exclude_defaults=True)
    return Code(command=_command(comparison, data), python=_python(data, address), http=_http(data, address))


def _command(comparison: Comparison, data: Any) -> str:
    models = _models(comparison.pair)
    flags = _flags(comparison)
    if flags is None:
        return f"{COMMAND} compare {models}--comparison - {_document(data)}"
    return f"{COMMAND} compare {models}{' '.join(map(_flag, flags.items()))}"


def _models(pair: str) -> str:
    """A pair of the person's own is called by its two models; one from a folder by the name of the folder."""
    base, own, post = pair.partition(" | ")
    named = {"base": base, "post": post} if own else {} if pair == EMBEDDED else {"pair": pair}
    return "".join(f"{_flag(item)} " for item in named.items())


def _flags(comparison: Comparison) -> dict[str, str] | None:
    """What differs from the defaults, by the names of the flags. None where no flag or no word of a command holds it."""
    whole = comparison.conversation.turns or comparison.prefill_base or comparison.prefill_post or comparison.dial
    if whole or not comparison.prompt.strip():  # the flag refuses a prompt without a word
        return None
    defaults = dict(DEFAULT_SAMPLING)
    flags = {"prompt": comparison.prompt, "system": comparison.conversation.system}
    flags |= {name: str(value) for name, value in comparison.sampling if value != defaults[name]}
    flags |= {
        name: getattr(comparison, name)
        for name in ("framing_base", "framing_post")
        if getattr(comparison, name) != Comparison.model_fields[name].default
    }
    if comparison.chat_template_kwargs:
        flags["chat_template_kwargs"] = canonical.text(comparison.chat_template_kwargs)
    flags["today"] = comparison.today
    if comparison.prompt == "-" or not all(map(_is_a_word, flags.values())):
        return None
    return {name: value for name, value in flags.items() if name == "prompt" or value}


def _is_a_word(text: str) -> bool:
    return len(text) <= _LONGEST_WORD and all(map(_is_plain, text))


def _flag(item: tuple[str, str]) -> str:
    name, value = f"--{item[0].replace('_', '-')}", item[1]
    return shlex.quote(f"{name}={value}") if value.startswith("-") else f"{name} {shlex.quote(value)}"


def _python(data: Any, address: str) -> str:
    return f"""from gradio_client import Client

comparison = {pformat(data, sort_dicts=False, width=100)}
client = Client({address!r})
answer = client.predict(comparison, api_name="/compare")
print(answer["base"]["text"], answer["post"]["text"], sep="\\n\\n")
"""


def _http(data: Any, address: str) -> str:
    call = f"{address.rstrip('/')}/gradio_api/call/compare"
    return f"curl -sS {shlex.quote(call)} -H 'Content-Type: application/json' -d @- {_document({'data': [data]}, after=_events(call))}"


def _events(call: str) -> str:
    """The first answer names an event; its stream ends with the reply."""
    return f" | cut -d '\"' -f 4 | xargs -I {{}} curl -sSN {shlex.quote(call + '/{}')}"


def _document(data: Any, after: str = "") -> str:
    """JSON on standard input. No line of it is the word that ends it."""
    text = json.dumps(data, indent=2, ensure_ascii=False)
    escaped = "".join(each if _is_plain(each) else json.dumps(each)[1:-1] for each in text)
    return f"<<'JSON'{after}\n{escaped}\nJSON"


def _is_plain(character: str) -> bool:
    return character.isprintable() or character == "\n"
