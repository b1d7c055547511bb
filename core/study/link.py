"""A study <-> the fragment of a URL: what was asked, and by one digest what came of it. The replies are not in it, for they are written again, the same."""

from typing import Literal

from pydantic import Field, ValidationError

from .. import canonical, links
from ..errors import UserError
from ..types import Digest, Value, explain
from .plan import StudyPlan
from .receipt import StudyReceipt

PREFIX = "#study="


class SharedStudy(Value):
    """What the link of a study carries. `weights_sha256` are those of its writers; `replies_sha256` is over the digests of all its replies."""

    version: Literal[1] = 1
    plan: StudyPlan
    weights_sha256: tuple[Digest, ...] = Field(max_length=100)
    replies_sha256: Digest

    @classmethod
    def of(cls, receipt: StudyReceipt) -> "SharedStudy":
        return cls(
            plan=receipt.plan,
            weights_sha256=tuple(writer.fingerprint.weights_sha256 for writer in receipt.writers),
            replies_sha256=canonical.sha256(list(receipt.digests)),
        )

    def told(self, here: StudyReceipt) -> str:
        """Whether the replies of a receipt of the same plan are those that were shared, in one sentence."""
        found = self.of(here)
        if found.replies_sha256 == self.replies_sha256:
            return "These are the replies that were shared, every one."
        if None in here.digests:
            return "It is not whole, so it was not held against the study that was shared."
        if found.weights_sha256 != self.weights_sha256:
            return "The replies are not those that were shared: other weights wrote them."
        return "The replies are not those that were shared: it was shared before its end, the link was changed, or the machine or its libraries differ."


def encode(receipt: StudyReceipt) -> str:
    """The fragment, "#study=" included.

    Raises:
        UserError: it is too long for a link.
    """
    return links.pack(SharedStudy.of(receipt), PREFIX, "study")


def decode(fragment: str) -> SharedStudy:
    """What a fragment carries, or an address with one, whatever a mail or chat program has added to it.

    Raises:
        UserError: it is damaged, too long, or no study that this version can run.
    """
    try:
        return SharedStudy.model_validate_json(links.unpack(fragment, PREFIX), strict=True)
    except ValidationError as error:
        raise UserError(f"This link does not hold a study that this version can run; {explain(error)}") from None
