"""Code that a model wrote -> the same text with its words marked for colours. Pygments reads it; the style sheet has the colours."""

import html
import re
from collections.abc import Iterator
from functools import cache
from itertools import groupby

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Comment, Generic, Keyword, Literal, Name, _TokenType

LONGEST = 2_000  # characters; some lexers take a time that grows with the square of it, for white space most of all
_BLANK = re.compile(r"\s{100}")
# By the names that models write behind the fence. Pygments has hundreds more, which nobody has tried on hostile text.
LANGUAGES = frozenset({
    "bash", "c", "c++", "c#", "cpp", "csharp", "css", "diff", "docker", "dockerfile", "go", "golang", "haskell", "html", "ini",
    "java", "javascript", "js", "json", "jsx", "julia", "kotlin", "lua", "matlab", "perl", "php", "powershell", "py", "python",
    "python3", "r", "rb", "rs", "ruby", "rust", "scala", "sh", "shell", "sql", "swift", "toml", "ts", "tsx", "typescript", "xml",
    "yaml", "zsh",
})  # fmt: skip
# What Pygments has no name for; and C#, whose lexer is the slowest of all.
_SPELLED = {"jsx": "javascript", "tsx": "typescript", "c#": "java", "csharp": "java"}
_CLASSES: tuple[tuple[_TokenType, str], ...] = (
    (Comment.Preproc, "name"),
    (Comment, "comment"),
    (Keyword, "word"),
    (Name.Tag, "word"),
    (Name.Builtin, "name"),
    (Name.Function, "name"),
    (Name.Class, "name"),
    (Name.Decorator, "name"),
    (Name.Attribute, "name"),
    (Literal.String, "text"),
    (Literal.Number, "number"),
    (Generic.Inserted, "text"),
    (Generic.Deleted, "comment"),
    (Generic.Heading, "word"),
    (Generic.Subheading, "word"),
)


def highlighted(code: str, language: str) -> str:
    """Escaped HTML of exactly this text; without colours where the language is not one of LANGUAGES, or the code is long or mostly blank."""
    if language.lower() not in LANGUAGES or len(code) > LONGEST or _BLANK.search(code):
        return html.escape(code)
    tokens = list(_lexer(language.lower()).get_tokens(code))
    if "".join(text for _, text in tokens) != code:
        return html.escape(code)
    return "".join(_drawn(tokens))


def _drawn(tokens: list[tuple[_TokenType, str]]) -> Iterator[str]:
    for kind, run in groupby(tokens, key=lambda token: _class(token[0])):
        text = html.escape("".join(text for _, text in run))
        yield f'<span class="code-{kind}">{text}</span>' if kind else text


@cache
def _class(kind: _TokenType) -> str:
    return next((name for token, name in _CLASSES if kind in token), "")


def _lexer(language: str) -> Lexer:
    """A new one each time: some remember what they read."""
    return get_lexer_by_name(_SPELLED.get(language, language), stripnl=False, ensurenl=False)
