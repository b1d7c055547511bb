"""What strangers can hand over, damaged in every way: each reader takes it, or says in one sentence why not.

A case is a reader and a number, and the same for ever: its damage is drawn from both.
"""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from random import Random
from typing import Any

import gradio as gr

import app
from core import canonical, cli, links, receipts
from core.cli.compare import _comparison, read_history
from core.cli.files import read_file
from core.errors import UserError
from core.study import link as study_link
from core.study.link import SharedStudy
from core.study.plan import StudyPlan, StudyPrompt
from core.types import Conversation, Turn
from core.ui import api
from core.ui.room import MODELS
from core.ui.visitor import Kept, Session
from tests.rooms import House
from tests.scripted import PAIR, ScriptedPool
from tests.values import COMPARISON, receipt, record

LONGEST = 2_000  # characters of what a refusal says: it may quote a little of what it refuses

# --- damage --------------------------------------------------------------------------------------------------

# Values that readers have fallen over: numbers at the ends of types, text that is none, too much of everything.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**53, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, 5e-324, float("nan"), float("inf"),
    "", " ", "\0", "\ud800", "\ue000\uffff", "\u202eabc", "a" * 5_000, "\n" * 300, "0", "1e5", "true", "../../etc/passwd", "<|im_end|>",
    "{{ 7 * 7 }}", "<script>alert(1)</script>", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "2026-02-30", "post", "embedded",
    [], {}, [[]], [None], {"": None}, {"__proto__": 1}, [0] * 1_000, ["x"] * 300,
)  # fmt: skip


def damaged(value: Any, others: list[Any], draw: Random) -> Any:
    """JSON data with one to four parts of it exchanged, left out, repeated, renamed or nested."""
    value = deepcopy(value)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        places = list(_places(value))
        if not places:
            return draw.choice(ODD)
        inside, key = draw.choice(places)
        match draw.randrange(7):
            case 0 | 1:
                inside[key] = deepcopy(draw.choice(ODD))
            case 2:
                del inside[key]
            case 3 if isinstance(inside, list):
                inside[key:key] = deepcopy([inside[key]]) * draw.choice((1, 3, 500))
            case 3:
                inside[str(draw.choice(("x", "", "base", "post", "schema_version", "version", "\ud800")))] = inside[key]
            case 4:
                other_inside, other = draw.choice(list(_places(draw.choice(others))))
                inside[key] = deepcopy(other_inside[other])
            case 5:
                inside[key] = [inside[key]] if draw.random() < 0.5 else {"x": inside[key]}
            case 6:
                inside[key] = _near(inside[key], draw)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every part of it, as what it is in and the key or index there."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _near(value: Any, draw: Random) -> Any:
    """Almost the same."""
    if isinstance(value, bool) or value is None:
        return not value
    if isinstance(value, int | float):
        return draw.choice((value + 1, -value, value * 2, value % 7, str(value)))
    if isinstance(value, str):
        at = draw.randrange(len(value) + 1)
        return value[:at] + draw.choice(("", " ", "\0", "x", "\ud83d", "\u0301")) + value[at + draw.randrange(2) :]
    return [value, value]


def spoiled(text: bytes, draw: Random) -> bytes:
    """Bytes with some of them exchanged, left out, repeated, or with others put in."""
    data = bytearray(text)
    for _ in range(draw.choice((1, 1, 2, 8))):
        at, length = draw.randrange(len(data) + 1), draw.choice((1, 1, 2, 16, 300))
        match draw.randrange(5):
            case 0:
                data[at : at + length] = draw.randbytes(min(length, len(data) - at))
            case 1:
                del data[at : at + length]
            case 2:
                data[at:at] = data[at : at + length]
            case 3:
                data[at:at] = draw.choice((b"\xff\xfe", b"\xef\xbb\xbf", b"\0", b"[" * 3_000, b'{"a":' * 300, b"NaN", b"1e999", b"\\ud800", b",", b'"'))  # fmt: skip
            case 4:
                del data[at:]
    return bytes(data)


def as_bytes(data: Any) -> bytes:
    return json.dumps(data).encode()


# --- readers ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """`read` is given bytes, or JSON data where it is `data`; it returns, or raises UserError, gr.Error or SystemExit."""

    name: str
    samples: tuple[Any, ...]
    read: Callable[[Any], object]
    data: bool = False
    pack: Callable[[Any], bytes] = as_bytes


RECEIPT = json.loads(receipts.write(receipt()))
LINKED = canonical.dump(links.of_receipt(receipt()))
STUDY = canonical.dump(SharedStudy(plan=StudyPlan(prompts=(StudyPrompt(prompt="One?"),), pairs=(PAIR.id,), sampling=COMPARISON.sampling, today="2026-01-31"), weights_sha256=("0" * 64,), replies_sha256="1" * 64))  # fmt: skip
CHAT = {"system": "Be brief.", "turns": [canonical.dump(Turn(prompt="a", base="b", post="c"))] * 2}
ASKED = {**canonical.dump(COMPARISON), "pair": PAIR.id, "conversation": CHAT}
KEPT = json.loads(Kept(records=(record("One", pair=PAIR.id), record("Two", pair=PAIR.id))).model_dump_json())


def read_link(text: bytes) -> None:
    """What is read is written as a link that reads as the same."""
    shared = links.decode(text.decode("latin-1"))
    assert links.decode(links.encode(shared)) == links.fitting(shared)
    links.record(shared)


def read_receipt(text: bytes) -> None:
    found = receipts.read(text)
    assert receipts.read(receipts.write(found).encode()) == found


def sealed(data: Any) -> bytes:
    """A receipt that whoever changed it has sealed again, where that can be done."""
    if isinstance(data, dict):
        body = {key: value for key, value in data.items() if key not in ("sha256", "seals")}
        try:
            return as_bytes(receipts._sealed(body))
        except (TypeError, ValueError, AttributeError, KeyError):
            pass
    return as_bytes(data)


@contextmanager
def readers() -> Iterator[tuple[Reader, ...]]:
    """All of them, over scripted models."""
    pool = ScriptedPool("a base reply", "a post-trained reply")
    house = House(pool)
    with gr.Blocks(analytics_enabled=False) as served:
        api.add(served, pool, MODELS)
    endpoints = {fn.api_name: fn.fn for fn in served.fns.values()}
    *_, answer = endpoints["compare"](ASKED)
    here = answer["receipt"]  # of models that there are

    def kept(text: bytes) -> None:
        """A page is opened with it: the visitor is shown a chat, whichever."""
        house.visitor.arrive(Session(), {"kept": text.decode("latin-1"), "address": ""})

    def brought(data: Any) -> None:
        house.visitor.arrive(Session(), data)

    def asked_of(name: str) -> Callable[[Any], None]:
        def ask(data: Any) -> None:
            for _ in endpoints[name](*data):
                pass

        return ask

    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("a.json", "b.json")]
        files[1].write_text(receipts.write(receipt()), "utf-8")

        def history(text: bytes) -> None:
            files[0].write_bytes(text)
            assert isinstance(read_history(str(files[0])), Conversation)

        def comparison(text: bytes) -> None:
            files[0].write_bytes(text)
            _comparison(cli.parse(["compare", "--comparison", str(files[0])]), "embedded")

        def lens(text: bytes) -> None:
            files[0].write_bytes(text)
            receipts.within(canonical.parse(read_file(str(files[0])), "receipt", receipts.MAX_BYTES))

        def diff(text: bytes) -> None:
            """A command as a whole: its exit status and no traceback."""
            files[0].write_bytes(text)
            with redirect_stdout(StringIO()) as printed, redirect_stderr(StringIO()) as said:
                status = app.main(["diff", *map(str, files)])
            assert status in (0, 2) and "Traceback" not in said.getvalue()
            if status:
                raise UserError(said.getvalue().strip())
            printed.getvalue().encode()

        yield (
            Reader("link", (LINKED,), read_link, pack=lambda data: (links.PREFIX + links._packed(as_bytes(data))).encode()),
            Reader("link of a study", (STUDY,), lambda text: study_link.decode(text.decode("latin-1")), pack=lambda data: (study_link.PREFIX + links._packed(as_bytes(data))).encode()),
            Reader("receipt", (RECEIPT,), read_receipt),
            Reader("receipt, sealed again", (RECEIPT,), read_receipt, pack=sealed),
            Reader("what the browser keeps", (KEPT,), kept),
            Reader("what a page brings", ({"kept": json.dumps(KEPT), "address": links.encode(links.of_receipt(receipt())), "fresh": True, "own": False, "last": "One"},), brought, data=True),
            Reader("/compare", ([ASKED],), asked_of("compare"), data=True),
            Reader("/replay", ([here],), asked_of("replay"), data=True),
            Reader("/lens", ([here, "post", "identical"], [{"receipt": here}, "base", "own"]), asked_of("lens"), data=True),
            Reader("/experiment", (["inputs", PAIR.id],), asked_of("experiment"), data=True),
            Reader("--history", (CHAT, CHAT["turns"]), history),
            Reader("--comparison", (ASKED,), comparison),
            Reader("lens FILE", (RECEIPT, {"receipt": RECEIPT}), lens),
            Reader("diff A B", (RECEIPT,), diff, pack=sealed),
        )  # fmt: skip


def case(reader: Reader, number: int, others: list[Any]) -> Any:
    """What this case hands over."""
    draw = Random(f"{reader.name} {number}")
    sample = draw.choice(reader.samples)
    if reader.data:
        data = damaged(sample, others, draw)
        return data if reader.name == "what a page brings" or isinstance(data, list) else [data]
    data = damaged(sample, others, draw) if draw.random() < 0.6 else sample
    text = reader.pack(data)
    return text if data is not sample and draw.random() < 0.8 else spoiled(text, draw)


def run(reader: Reader, number: int, others: list[Any]) -> str:
    """How a case ended: read, or refused in one sentence. Raises whatever else happens."""
    given = case(reader, number, others)
    try:
        reader.read(given)
    except UserError as error:
        said = str(error)
    except gr.Error as error:
        said = str(error.message)
    except TypeError:
        if reader.data and isinstance(given, list) and len(given) != len(reader.samples[0]):
            return "refused"  # the wrong number of values is no matter of the reader, see tests/test_strangers.py
        raise
    else:
        return "read"
    said.encode()
    assert 10 < len(said) < LONGEST and "Traceback" not in said and "object at 0x" not in said, said
    return "refused"


def others(all_of_them: tuple[Reader, ...]) -> list[Any]:
    return [sample for reader in all_of_them for sample in reader.samples]
