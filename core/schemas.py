"""The JSON Schemas of what goes in and out, generated from the types into docs/schemas/.

python -m core.schemas    write them anew
"""

import json

from pydantic import BaseModel

from .difference import Difference
from .experiments.values import ExperimentVerdict
from .installation import DATA
from .study.export import ReplyRow, StudyReport
from .study.plan import StudyPlan
from .study.receipt import StudyReceipt, StudyVerdict
from .types import Answer, Comparison, LensReport, OneSidedReceipt, Receipt, Verdict

FOLDER = DATA / "docs" / "schemas"
DESCRIBED: tuple[type[BaseModel], ...] = (
    Comparison,
    Answer,
    Receipt,
    OneSidedReceipt,
    Verdict,
    Difference,
    LensReport,
    ExperimentVerdict,
    StudyPlan,
    StudyReport,
    StudyReceipt,
    StudyVerdict,
    ReplyRow,
)


def documents() -> dict[str, str]:
    """File name -> text of every schema."""
    return {f"{kind.__name__.lower()}.schema.json": _document(kind) for kind in DESCRIBED}


def _document(kind: type[BaseModel]) -> str:
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", **kind.model_json_schema(mode="serialization")}
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, text in documents().items():
        (FOLDER / name).write_text(text, "utf-8")
