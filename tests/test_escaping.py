"""Markdown of strangers: what is code stays code, and nothing else can become an element of the page."""

import random
import re
from typing import Any

import gradio as gr
import pytest

from core.ui.compare import render
from core.ui.escaping import safe_markdown, safe_plain
from tests import browser as chromium

RAW = re.compile(r"<(?!code class=\"ticks-\d+\">|/code>)")


def outside_fences(markdown: str) -> str:
    """What is left when the fences that the server wrote are cut out, each up to the next run like its own."""
    return re.sub(r"(`{3,}|~{3,}).*?(\1|\Z)", "", markdown, flags=re.DOTALL)


def code_blocks(markdown: str) -> list[str]:
    return [found[2] for found in re.finditer(r"(`{3,}|~{3,})[^\n]*\n(.*?)(\1|\Z)", markdown, re.DOTALL)]


@pytest.mark.parametrize(
    "text",
    [
        "```x```\n<b>",  # one line, so a code span and no fence
        "```\na\n```python\n<b>\n```\n<b>",  # a line with an info string closes nothing
        "\t```\n<b>\n```",  # a fence is indented by spaces, and
        "\u00a0```\n<b>",  # not by other white space
        "- a\n  ```\n  code\n<b>",  # the list item ends, and its fence with it
        "1. a\n   ```\n   code\n<b>\n   ```\n<b>",
        r"\`<b>\`",
        "``<b>`",
        "``<b>```",
        "- ```\n  ```\n<b>",
        "- a\n\n    ```\n  ```\n  <b>",
        "a `\n`<b>`",  # runs of backticks on two lines of one paragraph
        "| a |\n|-|\n| `a|b` `<b>` |",  # a cell ends inside a code span
        "~~a `~~<b>`",
        "[a]:\n```\n<b>\n```",  # a link definition takes the next line
        "```\n\r```\r<b>\r```\n<b>",
        "~~~ <b>",
        "\\\\<b>",
    ],
)
def test_markup_outside_code_is_never_raw(text):
    shown = outside_fences(safe_markdown(text))
    assert not RAW.search(shown), shown
    assert "`" not in shown and "~~~" not in shown, "no run of it can open a fence or a span of its own"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("```python\nif a < b & c:\n```", "if a < b & c:\n"),
        ("  ```\n  <b>\n  ```\n<i>", "  <b>\n"),
        ("~~~~\n~~~\n<b>\n~~~~", "~~~\n<b>\n"),
        ("```\n```python\n<b>\n```", "```python\n<b>\n"),
        ("1. a\n   ```sh\n   a < b\n\n   c\n   ```\n2. b", "   a < b\n\n   c\n   "),
        ("1. a\n    ```sh\n    a < b\n    ```\n2. b", "    a < b\n    "),
        ("- ```\n  a < b\n  ```", "  a < b\n  "),
        ("```\na < b", "a < b"),  # still being written
    ],
)
def test_fenced_code_is_shown_as_it_was_written(text, code):
    assert code_blocks(safe_markdown(text)) == [code]


def test_ordinary_markdown_goes_out_as_it_is():
    text = "# Title\n\n- **one**\n- two_three\n\n```python\nprint('<b>')\n```\n\n[link](https://example.org) ~~no~~ \\* 1 > 0\n"
    assert safe_markdown(text) == text


def test_the_work_grows_with_the_text_and_not_with_a_power_of_it():
    """With the cube of its length, as it once did, this would take weeks."""
    for text in ("a " + "`" * 5000 + "a" * 5000, "`a``" * 20_000, "\\" * 50_000, " ".join("`" * i for i in range(600))):
        safe_markdown(text)


def test_plain_text_has_no_markup():
    assert safe_plain("<b>&amp;`") == "&#x3C;b>&#x26;amp;`"


# --- the widget's own Markdown ---------------------------------------------------------------------------

PARTS = ["```", "````", "~~~", "``", "`", "<b>x</b>", "<b>", '<i title="', "\\", "- ", "1. ", "10) ", "  ", "    ", " ", "\t", "\u00a0", "> "]  # fmt: skip
PARTS += ["\n", "\n", "\n", "\n\n", "a", "python", "|", "|-|-|\n", "*", "**", "~~", "[a]: ", "[a](", ")", "]", "![", "# ", "---\n", "===\n"]  # fmt: skip
PARTS += ["&lt;b>", "$$", "\\(", "'", '"', "<!--", "-->", "\r"]


def test_nothing_that_a_stranger_composes_becomes_an_element(browser):
    """Random compositions of everything that begins or ends a piece of Markdown, drawn by the widget itself."""
    random_ = random.Random(20)
    texts = ["".join(random_.choices(PARTS, k=random_.randint(3, 40))) for _ in range(300)]
    messages: list[Any] = [render.message("assistant", safe_markdown(text)) for text in texts]
    with gr.Blocks(analytics_enabled=False) as demo:
        gr.Chatbot(
            messages,
            latex_delimiters=[],
            allow_tags=False,
            layout="panel",
            group_consecutive_messages=False,
        )
    _, url, _ = demo.launch(
        prevent_thread_lock=True, quiet=True, server_port=chromium.free_port(), ssr_mode=False, footer_links=[]
    )
    try:
        page = browser.new_page()
        page.goto(url)
        page.wait_for_function(
            f"() => document.querySelectorAll('.bot.message .md').length === {len(texts)}", timeout=60_000
        )
        page.wait_for_timeout(500)
        made = page.evaluate(
            "() => [...document.querySelectorAll('.bot.message')].map((m) => m.querySelectorAll('b, i[title], img').length)"
        )
        page.close()
    finally:
        demo.close(verbose=False)
    assert [text for text, count in zip(texts, made, strict=True) if count] == []
