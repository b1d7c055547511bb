"""Markdown of strangers: nothing in it leaves its reply, no text is lost, and grown is the same as drawn at once."""

import re
from html.parser import HTMLParser
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.ui import formulas
from core.ui.highlighting import LANGUAGES, LONGEST, highlighted
from core.ui.markdown import MOST, GrowingMarkdown, markdown

ELEMENTS = {"p", "h4", "h5", "h6", "ul", "ol", "li", "blockquote", "pre", "code", "hr", "br", "em", "strong", "s", "a"}
ELEMENTS |= {"table", "thead", "tbody", "tr", "th", "td", "span", "math", *formulas._CHILDREN}
ATTRIBUTES = {"a": {"href", "rel", "target"}, "code": {"class"}, "ol": {"start"}, "th": {"style"}, "td": {"style"}}
ATTRIBUTES |= {
    "span": {"class"},
    "math": {"display", "tabindex"},
    "pre": {"tabindex"},
    **{tag: {*formulas._ATTRIBUTES, "class"} for tag in formulas._CHILDREN},
}
VOID = {"br", "hr"}

# Everything that begins or ends a piece of Markdown.
PARTS = ["```", "````", "~~~", "``", "`", "<b>x</b>", "<b>", '<i title="', "\\", "- ", "1. ", "10) ", "  ", "    ", " ", "\t"]  # fmt: skip
PARTS += ["\u00a0", "> ", "> > > ", "+ + + ", "\n", "\n", "\n", "\n\n", "\r\n", "\r", "a", "word", "|", "|-|:-:|\n", "*", "**", "~~"]  # fmt: skip
PARTS += ["[a]: ", "[a](", ")", "]", "![", "![a](/x.png)", "# ", "---\n", "===\n", "&lt;b>", "$$", "$", "\\(", "\\)", "\\[", "\\]", "{", "}", "^", "\\text{<b>}", "\\frac", "'", '"', "<!--", "-->"]  # fmt: skip
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
        assert re.fullmatch(r"(language|code)-\S*|left|right", attributes.get("class") or "language-")
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
        assert growing.blocks(text[:length]) == GrowingMarkdown().blocks(text[:length])


def test_every_character_of_an_answer_can_be_one_view():
    text = "x\n\\[\n= a\n- b\n\\] c\n# A\r\n\r\npara\rsecond\n- one\n- two\n\n  more\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n```py\nx < 1\n\ny\n```\n***\n> q\n1. z\n"
    growing = GrowingMarkdown()
    for length in range(len(text) + 1):
        assert growing.blocks(text[:length]) == GrowingMarkdown().blocks(text[:length])
    assert [Found(block).elements[0][0] for block in growing.blocks(text)] == [
        "p", "p", "h4", "p", "ul", "table", "pre", "hr", "blockquote", "ol",
    ]  # fmt: skip


def test_a_text_that_was_replaced_is_drawn_anew():
    growing = GrowingMarkdown()
    growing.blocks("one\n\ntwo\n\nthree\n\nfour")
    assert growing.blocks("other\n\ntwo") == ["<p>other</p>", "<p>two</p>"]


def test_what_is_settled_is_not_parsed_again(monkeypatch):
    from core.ui import markdown as module

    growing, parsed = GrowingMarkdown(), []
    parse = module._MARKDOWN.parse
    monkeypatch.setattr(module._MARKDOWN, "parse", lambda text, env: parsed.append(text) or parse(text, env))
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
        (
            "```nothing\nif a < b & c:\n```",
            '<pre tabindex="0"><code class="language-nothing">if a &lt; b &amp; c:\n</code></pre>',
        ),
        ("```'\"><b>\nx\n```", '<pre tabindex="0"><code class="language-&#x27;&quot;&gt;&lt;b&gt;">x\n</code></pre>'),
        ("```\na < b", '<pre tabindex="0"><code>a &lt; b</code></pre>'),  # still being written
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


@pytest.mark.parametrize(
    "language", ["mermaid", "latex", "math", "katex", "html", "svg", "vega", "plotly", "dot", "json-doc"]
)
def test_a_fence_that_other_programs_would_draw_is_its_text(language):
    code = 'graph TD; A["<img src=x onerror=alert(1)>"] --> B\nclick A href "javascript:alert(1)"'
    found = check(markdown(f"```{language}\n{code}\n```"))
    assert [tag for tag, _ in found.elements if tag != "span"] == ["pre", "code"] and found.text.strip() == code


@pytest.mark.parametrize("mark", ["> ", "- ", "+ ", "1. ", "> - "])
def test_however_deep_it_goes_no_text_is_lost(mark):
    found = check(markdown(f"{mark * 60}deep\n\nbehind"))
    assert "deep" in found.text and found.text.endswith("behind")
    assert len(found.elements) < 60


def test_the_work_grows_with_the_text_and_not_with_a_power_of_it():
    """With the square of its length, each of them would take minutes."""
    for text in (
        "a " + "`" * 5000 + "a" * 5000,
        "`a``" * 5000,
        "\\" * 20_000,
        "[a](" * 3000,
        "*a **b " * 2000,
        "$a" * 20_000,
        "$a$1" * 9000,
        "\\(" * 20_000,
        "$$" * 20_001,
        "\\[\n" * 9000,
        "*" * 50_000 + "a",
        "**a*b" * 3000,
    ):
        markdown(text)


# --- formulas ----------------------------------------------------------------------------------------------

X_SQUARED = "<mrow><msup><mi>x</mi><mn>2</mn></msup></mrow></math>"


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("so $x^2$.", f"<p>so <math>{X_SQUARED}.</p>"),
        (r"so \(x^2\).", f"<p>so <math>{X_SQUARED}.</p>"),
        ("$$x^2$$", f'<p><math display="block" tabindex="0">{X_SQUARED}</p>'),
        ("so\n\\[\nx^2\n\\]\nthen", f'<p>so</p><p><math display="block" tabindex="0">{X_SQUARED}</p><p>then</p>'),
        ("- a\n  \\[ x^2 \\]\n- b", f'<ul>\n<li>a<math display="block" tabindex="0">{X_SQUARED}</li>\n<li>b</li>\n</ul>'),
        (r"**\(x^2\)**", f"<p><strong><math>{X_SQUARED}</strong></p>"),
        ("| a |\n|-|\n| $x^2$ |", f"<table>\n<thead>\n<tr>\n<th>a</th>\n</tr>\n</thead>\n<tbody>\n<tr>\n<td><math>{X_SQUARED}</td>\n</tr>\n</tbody>\n</table>"),
        (r"$\text{<script>}$", "<p><math><mrow><mtext>&lt;script&gt;</mtext></mrow></math></p>"),
        (r"$a \in \mathbb{R}$", "<p><math><mrow><mi>a</mi><mo>\u2208</mo><mi>\u211d</mi></mrow></math></p>"),
    ],
)  # fmt: skip
def test_a_formula_is_drawn(text, html):
    assert markdown(text) == html
    check(html)


def test_environments_that_models_write_are_drawn():
    aligned, boxed = (
        check(markdown(f"\\[{latex}\\]"))
        for latex in (r"\begin{aligned} a &= b \\ c &= d \end{aligned}", r"\boxed{42}")
    )
    assert [tag for tag, _ in aligned.elements].count("mtr") == 2 and "&" not in aligned.text
    assert "menclose" in dict(boxed.elements)


@pytest.mark.parametrize(
    "text",
    [
        "It costs $5 and $6.",
        "I have $20 and you have 30$.",
        "US$5 and A$6",
        "$5-$6, or $ 7 $",
        "a $ b$, a$b$c, $x",
        "`$x^2$` and `\\(x\\)`",
        "```\n$x^2$\n\\[x\\]\n```",
        "    $x^2$",
    ],
)
def test_what_is_no_formula_stays_text(text):
    assert "math" not in dict(check(markdown(text)).elements)


@pytest.mark.parametrize(
    "latex",
    [r"\frac{1", r"\frac{1}", "x^", r"\foo{x}", "{x", "x}", r"\left( x", r"\begin{pmatrix} 1", "", " ", r"\href{javascript:x}{y}",
     r"\newcommand{\a}{\a\a}\a", r"\def\a{\a\a}\a", r"\style{position:fixed}{x}", r"\class{code}{x}", "a_b_c", "*a* [b](c)^"],
)  # fmt: skip
@pytest.mark.parametrize("marks", [("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$")])
def test_what_is_no_latex_is_shown_as_it_was_written(latex, marks):
    text = f"so {latex.join(marks)} then"
    found = check(markdown(text))
    assert found.text == text and [tag for tag, _ in found.elements] == ["p"]


@pytest.mark.parametrize("text", ["so \\(x_1 * y_1 * z_1", "\\[\nx *y* z\n- q", "$$\nx\n= *y*", "```py\nx = 1"])
def test_what_is_not_closed_yet_does_not_change_its_form_while_it_grows(text):
    growing, tags = GrowingMarkdown(), set()
    for length in range(3, len(text) + 1):
        tags |= {tag for tag, _ in check("".join(growing.blocks(text[:length]))).elements}
    assert not tags & {"em", "math", "ul", "h4", "span"}


def test_an_empty_line_ends_a_formula_that_nobody_closed():
    found = check(markdown("\\[ x\n\n**bold** \\]"))
    assert "strong" in dict(found.elements) and "math" not in dict(found.elements)


def test_a_formula_has_no_size_colour_or_place_of_its_own():
    latex = r"\hspace{-99em} \hspace{9999em} \raise{9em}{x} \color{red}{x} \colorbox{red}{x} \rule{99em}{99em} \Huge x \kern-9em x"
    for part in latex.split(" "):
        for _, attributes in check(markdown(f"$${part}$$")).elements:
            assert not {
                "style",
                "mathcolor",
                "mathbackground",
                "mathsize",
                "voffset",
                "height",
                "depth",
                "lspace",
            } & set(attributes)
            assert float((attributes.get("width") or "0em").removesuffix("em")) < 10 and "-" not in (
                attributes.get("width") or ""
            )


@pytest.mark.parametrize(
    "latex", ["x" * 50_000, "{" * 25_000 + "}" * 25_000, "{" * 900 + "}" * 900, "x^{" * 400 + "}" * 400, r"\sqrt" * 380]
)
def test_a_huge_formula_is_text_and_a_deep_one_breaks_nothing(latex):
    found = check(markdown(f"\\[{latex}\\] then"))
    assert found.text.endswith("then")
    assert len(latex) < formulas.LONGEST or "math" not in dict(found.elements)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(["\\frac", "\\text{<b>}", "{", "}", "^", "_", "a", "<", "&", "\\\\", "\\left(", "\\right)", "\\begin{align}", "\\end{align}", "\\href", "\\color{red}", "'", "\\not", "\\sqrt[", "]", "\\operatorname{a}", "&#x3c;", "\\mathbf{b}", "\\hspace{-3em}", "%", "\u202e"]), max_size=14).map("".join))  # fmt: skip
def test_no_latex_becomes_anything_but_a_formula_or_text(latex):
    check(markdown(f"$${latex}$$"))


# --- code ---------------------------------------------------------------------------------------------------


def test_code_has_colours_once_it_is_all_there():
    text = "```py\ndef f(x):\n    return 'a<b' # 1"
    assert "span" not in dict(check("".join(GrowingMarkdown().blocks(text))).elements), "it may go on"
    found = check("".join(GrowingMarkdown().blocks(f"{text}\n```")))
    assert found.text == "def f(x):\n    return 'a<b' # 1\n"
    kinds = [attributes["class"] for tag, attributes in found.elements if tag == "span"]
    assert kinds == ["code-word", "code-name", "code-word", "code-text", "code-comment"]
    assert check(markdown(text)).elements == found.elements, "or it was cut off"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(LANGUAGES)), TEXTS)
def test_colours_change_no_character(language, code):
    assert (
        Found(f"<pre>{highlighted(code, language)}</pre>").text == code.replace("\r\n", "\n").replace("\r", "\n")
        or "\r" in code
    )


def test_long_code_and_code_of_an_unknown_language_have_no_colours():
    assert "<span" in highlighted("x = 1", "PY") and "<span" not in highlighted("x = 1", "klingon")
    assert "<span" not in highlighted("x = 1\n" * LONGEST, "py")


def test_one_answer_gives_other_peoples_parsers_no_more_than_its_share(monkeypatch):
    """What comes after stands as it was written, and the whole text is there."""
    given = []
    monkeypatch.setattr(
        "core.ui.markdown.highlighted", lambda code, language: given.append(code) or highlighted(code, language)
    )
    fences = "".join(f"```py\nx = {number}{'1' * 1900}\n```\n\n" for number in range(30))
    drawn = markdown(fences)
    assert 0 < sum(map(len, given)) <= MOST
    assert drawn.count("<pre") == 30 and drawn.count("code-number") == len(given)
    formulas_ = [f"${'x' * 1900}+{number}$" for number in range(30)]
    drawn = markdown(" ".join(formulas_))
    assert 0 < drawn.count("<math") * 1900 <= MOST and formulas_[-1] in drawn


def test_code_that_is_mostly_blank_has_no_colours():
    """The time of some lexers grows with the square of a run of white space."""
    assert "<span" in highlighted("if x:\n" + " " * 90 + "y", "py")
    assert "<span" not in highlighted("if x:\n" + " " * 100 + "y", "py")
