"""LaTeX that a model wrote -> MathML in which nothing can do anything, or nothing where it is no LaTeX that can be read.

latex2mathml reads it; what it makes is written anew here, element by element, from what browsers draw and a page can
bear: no links, styles, colours or sizes of its own, and every text escaped.
"""

import html
import re
from xml.etree.ElementTree import Element

from latex2mathml.converter import Converter

LONGEST = 2000  # characters; a longer formula stays text
FAULTS = (Exception,)  # somebody else's parser on a stranger's text may fail in every way
_MACROS = re.compile(r"\\(?:newcommand|renewcommand|providecommand|def|let|href|style|class|cssId)(?![a-zA-Z])")
# Environments that the library does not know, as those that it does.
_ENVIRONMENTS = {"aligned": "split", "gathered": "matrix", "align": "align*", "gather": "matrix", "gather*": "matrix"}
_NONE = ("equation", "equation*")
_BEGIN_OR_END = re.compile(r"\\(begin|end)\s*{([a-z]+\*?)}")

# Every element that may be written, and how many children it must have; None is any number.
_CHILDREN: dict[str, int | None] = {
    "mrow": None, "mi": 0, "mn": 0, "mo": 0, "mtext": 0, "mspace": 0, "mstyle": None, "mpadded": None, "mphantom": None,
    "mfrac": 2, "msqrt": None, "mroot": 2, "msub": 2, "msup": 2, "msubsup": 3, "munder": 2, "mover": 2, "munderover": 3,
    "mtable": None, "mtr": None, "mtd": None, "menclose": None,
}  # fmt: skip
_NO = "(?:true|false)"
_ATTRIBUTES = {
    "accent": _NO, "accentunder": _NO, "displaystyle": _NO, "fence": _NO, "movablelimits": _NO, "stretchy": _NO,
    "form": "prefix|infix|postfix", "scriptlevel": "[012]", "linethickness": "0", "mathvariant": "normal",
    "width": r"[0-3]?(\.\d{1,3})?em", "minsize": r"[0-3](\.\d+)?em", "maxsize": r"[0-3](\.\d+)?em",
}  # fmt: skip


def mathml(latex: str, display: bool) -> str | None:
    """A formula as MathML, on lines of its own where it is for `display`; None where it cannot be read, or is too long."""
    if len(latex) > LONGEST or not latex.strip() or _MACROS.search(latex) or not _is_balanced(latex):
        return None
    try:
        read = Converter(display="block" if display else "inline").convert_to_element(
            _BEGIN_OR_END.sub(_environment, latex)
        )
        inner = "".join(map(_written, read))
    except FAULTS:
        return None
    # What is wide is moved in its own place, by keyboard too.
    opening = '<math display="block" tabindex="0">' if display else "<math>"
    return f"{opening}{inner}</math>"


def _is_balanced(latex: str) -> bool:
    depth = 0
    for brace in re.findall(r"\\.|[{}]", latex, re.DOTALL):
        depth += {"{": 1, "}": -1}.get(brace, 0)
        if depth < 0:
            return False
    return depth == 0


def _environment(found: re.Match[str]) -> str:
    what, name = found.groups()
    return "" if name in _NONE else f"\\{what}{{{_ENVIRONMENTS.get(name, name)}}}"


def _written(element: Element) -> str:
    """Raises ValueError for what is no formula: an element that nobody draws, one with a part missing, a command that is unknown."""
    tag, children = element.tag, list(element)
    if tag not in _CHILDREN or _CHILDREN[tag] not in (None, len(children)):
        raise ValueError(tag)
    text = html.unescape(element.text or "")  # the library writes symbols as entities
    if text.startswith("\\") and tag == "mi":
        raise ValueError(text)
    kept = [
        f' {name}="{value}"'
        for name, value in element.attrib.items()
        if re.fullmatch(_ATTRIBUTES.get(name, "(?!)"), value)
    ]
    if element.get("columnalign") in ("left", "right"):  # browsers leave that to the style sheet
        kept.append(f' class="{element.get("columnalign")}"')
    inner = "".join(map(_written, children))
    return f"<{tag}{''.join(kept)}>{html.escape(text)}{inner}</{tag}>"
