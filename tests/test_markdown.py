"""Markdown of strangers: nothing in it leaves its reply, no text is lost, and grown is the same as drawn at once."""

import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.ui.markdown import GrowingMarkdown, markdown

ELEMENTS = {"p", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "hr", "br", "em", "strong", "s", "a"}
ELEMENTS |= {"table", "thead", "tbody", "tr", "th", "td"}
ATTRIBUTES = {"a": {"href", "rel", "target"}, "code": {"class"}, "ol": {"start"}, "th": {"style"}, "td": {"style"}}
VOID = {"br", "hr"}

# Everything that begins or ends a piece of Markdown.
PARTS = ["```", "````", "~~~", "``", "`", "<b>x</b>", "<b>", '<i title="', "\\", "- ", "1. ", "10) ", "  ", "    ", " ", "\t"]  # fmt: skip
PARTS += ["\u00a0", "> ", "> > > ", "+ + + ", "\n", "\n", "\n", "\n\n", "\r\n", "\r", "a", "word", "|", "|-|:-:|\n", "*", "**", "~~"]  # fmt: skip
PARTS += ["[a]: ", "[a](", ")", "]", "![", "![a](/x.png)", "# ", "---\n", "===\n", "&lt;b>", "$$", "\\(", "'", '"', "<!--", "-->"]  # fmt: skip
PARTS += ["<http://a.b>", "<javascript:x>", "[a](javascript:x)", '[a](b "t")', "[a](data:image/png;x)", "\x00", "\u2028", "\U0001f642"]  # fmt: skip
TEXTS = st.lists(st.sampled_from(PARTS), max_size=30).map("".join)


class Found(HTMLParser):
    """The elements of a piece of HTML, how many are at its top, and the text outside of them."""

    def __init__(self, html: str):
        super().__init__()
        self.open: list[str] = []
        self.top, self.bare, self.text = 0, "", ""
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)
        self.close()
        assert self.open == [], html

    def handle_starttag(self, tag, attrs):
        self.top += not self.open
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID
        self.handle_starttag(tag, attrs)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if not self.open:
            self.bare += data

    def handle_comment(self, data):
        raise AssertionError(data)

    handle_decl = handle_pi = unknown_decl = handle_comment


def check(html: str) -> Found:
    """Nothing in it can do anything but be read, and links that open elsewhere."""
    found = Found(html)
    for tag, attributes in found.elements:
        assert tag in ELEMENTS
        assert set(attributes) <= ATTRIBUTES.get(tag, set())
        if tag == "a":
            assert (attributes["rel"], attributes["target"]) == ("noopener noreferrer nofollow", "_blank")
            assert not re.match(r"\s*(javascript|data|vbscript)\s*:", attributes["href"] or "", re.IGNORECASE)
        assert re.fullmatch("text-align:(left|center|right)", attributes.get("style") or "text-align:left")
        assert re.fullmatch(r"language-\S*", attributes.get("class") or "language-")
    return found


@settings(max_examples=250)
@given(TEXTS)
def test_nothing_that_a_stranger_composes_becomes_anything_but_an_element_of_markdown(text):
    check(markdown(text))


@settings(max_examples=150)
@given(TEXTS)
def test_a_block_is_one_element_which_the_page_counts(text):
    for block in GrowingMarkdown().blocks(text):
        found = check(block)
        assert (found.top, found.bare) == (1, "")


@settings(max_examples=250)
@given(TEXTS, st.lists(st.integers(0, 90), max_size=12))
def test_a_text_that_grew_is_drawn_as_one_that_came_at_once(text, lengths):
    growing = GrowingMarkdown()
    for length in [*sorted(lengths), len(text)]:
        assert "".join(growing.blocks(text[:length])) == markdown(text[:length])


def test_every_character_of_an_answer_can_be_one_view():
    text = "# A\r\n\r\npara\rsecond\n- one\n- two\n\n  more\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n```py\nx < 1\n\ny\n```\n***\n> q\n1. z\n"
    growing = GrowingMarkdown()
    for length in range(len(text) + 1):
        assert "".join(growing.blocks(text[:length])) == markdown(text[:length])
    assert [Found(block).elements[0][0] for block in growing.blocks(text)] == [
        "h4", "p", "ul", "table", "pre", "hr", "blockquote", "ol",
    ]  # fmt: skip


def test_a_text_that_was_replaced_is_drawn_anew():
    growing = GrowingMarkdown()
    growing.blocks("one\n\ntwo\n\nthree\n\nfour")
    assert growing.blocks("other\n\ntwo") == ["<p>other</p>", "<p>two</p>"]


def test_what_is_settled_is_not_parsed_again(monkeypatch):
    from core.ui import markdown as module

    growing, parsed = GrowingMarkdown(), []
    parse = module._MARKDOWN.parse
    monkeypatch.setattr(module._MARKDOWN, "parse", lambda text: parsed.append(text) or parse(text))
    text = "".join(f"Paragraph {n}.\n\n" for n in range(20))
    growing.blocks(text)
    assert growing.blocks(f"{text}The end") == [*(f"<p>Paragraph {n}.</p>" for n in range(20)), "<p>The end</p>"]
    assert parsed == [text, "Paragraph 19.\n\nThe end"]


# --- what is drawn ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("one **two** *three* ~~four~~", "<p>one <strong>two</strong> <em>three</em> <s>four</s></p>"),
        ("one\ntwo", "<p>one<br />\ntwo</p>"),
        ("# A\n\n### B\n\n###### C", "<h4>A</h4><h6>B</h6><h6>C</h6>"),
        ("3. a", '<ol start="3">\n<li>a</li>\n</ol>'),
        ("```python\nif a < b & c:\n```", '<pre><code class="language-python">if a &lt; b &amp; c:\n</code></pre>'),
        ("```\na < b", "<pre><code>a &lt; b</code></pre>"),  # still being written
        ("`<b>`", "<p><code>&lt;b&gt;</code></p>"),
        ("<b onclick=x>&amp;</b>", "<p>&lt;b onclick=x&gt;&amp;&lt;/b&gt;</p>"),
        ("", ""),
        (" \n\n ", ""),
    ],
)
def test_markdown_is_drawn(text, html):
    assert markdown(text) == html


def test_the_columns_of_a_table_are_aligned():
    cells = [
        (tag, attributes.get("style"))
        for tag, attributes in check(markdown("| a | b |\n|:-:|---|\n| 1 | 2 |")).elements
        if tag in ("th", "td")
    ]
    assert cells == [("th", "text-align:center"), ("th", None), ("td", "text-align:center"), ("td", None)]


@pytest.mark.parametrize(
    "text",
    [
        "![a](https://a.b/x.png)",
        '![a](/x.png "t")',
        "![a][b]\n\n[b]: /x.png",
        "[![a](/x.png)](https://a.b)",
    ],
)
def test_a_picture_stays_text(text):
    found = check(markdown(text))
    assert "img" not in dict(found.elements) and "!" in found.text


@pytest.mark.parametrize(
    "text",
    [
        "[a](javascript:alert(1))",
        "[a](JavaScript:alert(1))",
        "[a](<java\tscript:alert(1)>)",
        "[a](javascript&colon;alert(1))",
        "[a](javascript&#58;alert(1))",
        "[a](&#1;javascript:alert(1))",
        "[a](vbscript:x)",
        "[a](data:text/html,x)",
        "[a](data:image/png;base64,x)",
        "[a](file:///etc/passwd)",
        "<javascript:alert(1)>",
        "<data:text/html,x>",
        "[a][b]\n\n[b]: javascript:alert(1)",
    ],
)
def test_a_link_runs_nothing(text):
    links = [attributes["href"] or "" for tag, attributes in check(markdown(text)).elements if tag == "a"]
    assert all(urlsplit(link).scheme == "" for link in links)


def test_a_link_opens_elsewhere():
    [_, (tag, attributes)] = check(markdown('[a](https://a.b/?x=1&y="2" "title")')).elements
    assert (tag, attributes["href"]) == ("a", "https://a.b/?x=1&y=%222%22")


def test_a_definition_of_a_link_is_text_so_that_no_later_line_changes_an_earlier_one():
    assert markdown("[a] [b][a]\n\n[a]: /x") == "<p>[a] [b][a]</p><p>[a]: /x</p>"


@pytest.mark.parametrize("mark", ["> ", "- ", "+ ", "1. ", "> - "])
def test_however_deep_it_goes_no_text_is_lost(mark):
    found = check(markdown(f"{mark * 60}deep\n\nbehind"))
    assert "deep" in found.text and found.text.endswith("behind")
    assert len(found.elements) < 60


def test_the_work_grows_with_the_text_and_not_with_a_power_of_it():
    """With the square of its length, each of them would take minutes."""
    for text in ("a " + "`" * 5000 + "a" * 5000, "`a``" * 5000, "\\" * 20_000, "[a](" * 3000, "*a **b " * 2000):
        markdown(text)
