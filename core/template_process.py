"""What runs in the process that core/apart.py starts: chat templates, which are other people's programs, and patterns.

It reads requests, which it trusts, and writes answers, which nobody has to trust: whether it went well, and a text.
It is started by its path, with nothing of this product around it.
"""

import os
import pickle
import struct
from collections.abc import Callable
from functools import lru_cache
from typing import IO, Any

MEMORY = 2**30  # bytes that a template may take, where the system can hold a process to it
MOST_CHARACTERS = 16_000_000  # that a template may write: eight times the longest conversation
MOST_BYTES = 2**28  # of one message
MOST_SECONDS = 60  # of a processor for one request
DONE = b"\0"  # what an answer begins with where it is what was asked for


def read(stream: IO[bytes]) -> bytes:
    """The next message of a stream. Raises EOFError at its end, ValueError for one that is too long."""
    head = stream.read(4)
    if len(head) < 4:
        raise EOFError
    length = struct.unpack("!I", head)[0]
    if length > MOST_BYTES:
        raise ValueError("too long a message")
    return stream.read(length)


def write(stream: IO[bytes], message: bytes) -> None:
    stream.write(struct.pack("!I", len(message)) + message)
    stream.flush()


def prepare(template: str) -> str:
    """Import what rendering needs, before its time and its memory are counted."""
    import transformers.utils.chat_template_utils  # noqa: F401

    hold_memory()
    return ""


def render(template: str, chat: list[dict[str, Any]], begin_reply: bool, variables: dict[str, Any]) -> str:
    """What transformers makes of a conversation."""
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered: Any = render_jinja_template(
        conversations=[chat], chat_template=template, add_generation_prompt=begin_reply, **variables
    )
    text: str = rendered[0][0]
    if len(text) > MOST_CHARACTERS:
        raise ValueError(f"it writes more than {MOST_CHARACTERS:,} characters")
    return text


def names(template: str) -> str:
    """A line for each variable that a template reads and does not set; jinja computes with its constants to find them."""
    from jinja2 import Environment, meta

    environment = Environment(extensions=["jinja2.ext.loopcontrols"])
    return "\n".join(sorted(meta.find_undeclared_variables(environment.parse(template)) - set(environment.globals)))


@lru_cache(8)
def tokenizer(template: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(template)


def encode(template: str, texts: list[str]) -> str:
    """Cut texts as this tokenizer does, and say only that it could."""
    for text in texts:
        tokenizer(template).encode(text, add_special_tokens=False)
    return ""


def search(template: str, texts: list[str]) -> str:
    """For each text whether this regular expression finds something in it, as 1 or 0."""
    import re

    pattern = re.compile(template)
    return "".join("01"[pattern.search(text) is not None] for text in texts)


def answer(do: str, **request: Any) -> bytes:
    known: dict[str, Callable[..., str]] = {
        "prepare": prepare,
        "render": render,
        "names": names,
        "encode": encode,
        "search": search,
    }
    try:
        return DONE + known[do](**request).encode("utf-8", "surrogatepass")
    except MemoryError:
        return b"it takes more memory than a template may"
    except Exception as error:  # of somebody else's program, in every way
        return (str(error)[:1000] or type(error).__name__).encode("utf-8", "surrogatepass")
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # how the tokenizers' engine for patterns gives up
            raise
        return b"it tries too many ways to cut this text"


def hold_memory() -> None:
    """Where there are no such limits, whoever started this process watches it."""
    try:
        import resource

        import psutil

        room = psutil.Process().memory_info().vms + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (room, resource.getrlimit(resource.RLIMIT_AS)[1]))
    except (ImportError, ValueError, OSError):
        pass


def hold_time() -> None:
    """Whoever started this process may be gone, with nobody left to end it."""
    try:
        import resource

        used = resource.getrusage(resource.RUSAGE_SELF)
        most = int(used.ru_utime + used.ru_stime) + MOST_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))
    except (ImportError, ValueError, OSError):
        pass


def main() -> None:
    hold_memory()
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)  # whatever prints writes into no answer
    while True:
        try:
            request = pickle.loads(read(requests))
        except EOFError:
            return
        hold_time()
        write(answers, answer(**request))


if __name__ == "__main__":
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    main()
