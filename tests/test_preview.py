"""What a framing makes of a prompt, in three lines: the end of what would really be sent, and nothing is loaded for it."""

import html
import re
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from core.checkpoints.tokenizers import tokenizers_at_hand
from core.hub import HuggingFaceHub
from core.pairs import default_pair
from core.pool import Pool
from core.prompts import texts
from core.settings import Settings
from core.types import SIDES
from core.ui.preview import NOT_HERE, preview
from tests.browser import ask, ended
from tests.pairs import comparison
from tests.rooms import House

TOKENIZERS: Any = tokenizers_at_hand(default_pair(Settings()))


def shown(drawn: str) -> dict[str, str]:
    """What is shown of each side, as text."""
    found = re.findall(r"<section class='sent (\w+)'.*?(?:<pre tabindex='0'>|<p class='muted'>)(.*?)</(?:pre|p)>", drawn, re.DOTALL)  # fmt: skip
    plain = {side: re.sub("<i class='newline'.*?</i>", "", text) for side, text in found}
    return {side: html.unescape(re.sub("<[^>]*>", "", text)) for side, text in plain.items()}


@pytest.mark.parametrize("base", ["document", "transcript", "chat"])
@pytest.mark.parametrize("post", ["document", "transcript", "chat"])
@pytest.mark.parametrize("system", ["", "Be brief."])
def test_it_is_the_end_of_what_is_sent(base, post, system):
    asked = comparison("Who are you?", framing_base=base, framing_post=post, conversation={"system": system})
    sent: Any = texts(asked, SIDES, TOKENIZERS)
    for side, text in shown(preview(asked, TOKENIZERS)).items():
        assert sent[side].endswith(text.removeprefix("\u2026")), side
        assert len(text.removesuffix("\n").split("\n")) <= 3
        assert text.startswith("\u2026") is (text.removeprefix("\u2026") != sent[side])


def test_what_people_wrote_is_cut_short_and_what_the_framing_adds_is_not():
    text = shown(preview(comparison("word " * 5000 + "\n\n" * 50 + "end"), TOKENIZERS))["post"]
    assert text.startswith("<|endoftext|><|im_start|>user\nword word") and len(text) < 120
    assert text.endswith("\u2026<|im_end|>\n<|im_start|>assistant\n")


def test_only_what_the_template_writes_is_a_control_token_and_nothing_is_anybodys_markup():
    drawn = preview(comparison("<|im_end|> <b>\u202e"), TOKENIZERS)
    assert "<mark><bdi>&lt;|im_end|&gt;" in drawn and "<span><bdi>&lt;|im_end|&gt; &lt;b&gt;" in drawn
    assert "<b>\u202e" not in drawn and "U+202E" in drawn


def test_it_costs_no_model_and_says_where_it_cannot_be_told():
    with Pool(Settings(), HuggingFaceHub()) as pool:
        sidebar = House(pool).visitor.sidebar
        assert "capital of France" in sidebar._preview(" ", "embedded", "", "document", "chat", ""), "an example"
        assert sidebar._preview("Hello", "smollm2-135m", "", "document", "chat", "") == NOT_HERE
        assert "has no switch &#x27;x&#x27;" in sidebar._preview("Hello", "embedded", "", "document", "chat", "x=1")
        assert "written as name=value" in sidebar._preview("Hello", "embedded", "", "document", "chat", "x")
        assert pool._entries == {}


def test_a_model_without_a_template_says_so_where_one_was_chosen():
    bare = tokenizers_at_hand(default_pair(Settings()))
    assert bare is not None
    bare["post"].chat_template = None
    assert "These models have no chat template" in shown(preview(comparison("Hello"), bare))["post"]


def test_the_sidebar_shows_it_for_what_stands_in_the_box(visitor, scripted):
    page = visitor(scripted("a base reply", "a post-trained reply"))
    base, post = (page.locator(f"#framed .sent.{side} pre") for side in ("base", "post"))
    page.get_by_role("button", name="More sampling and framing").click()
    expect(post).to_contain_text("What is the capital of France?")
    page.locator("#prompt textarea").press_sequentially("Who are you?")
    expect(post).to_contain_text("Who are you?")
    expect(base).not_to_contain_text("User:")
    page.locator("#framing_base input").click()
    page.get_by_role("option", name="Transcript").click()
    expect(base).to_contain_text("User: Who are you?")
    page.locator("#system textarea").fill("Be brief.")
    expect(base).to_contain_text("\u2026")
    assert Axe().run(page).response["violations"] == []
    ask(page, "Who are you?")
    ended(page)
    page.locator(".turn").last.locator("[data-do=sent]").click()
    expect(page.locator(".turn .sent.base pre")).to_contain_text("User: Who are you?")
