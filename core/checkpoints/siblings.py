"""Whether the same id means the same text to both models of a pair, and what else is not the same."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import UserError
from .loading import Checkpoint


@dataclass(frozen=True)
class Kinship:
    """What the tokenizers of a pair have in common.

    Where an id stands for two texts the noise of a draw means nothing to both at once: the two replies have
    no common luck, and nothing can be read or mixed token by token. `difference` is one sentence, or empty.
    """

    same_ids: bool = True
    difference: str = ""

    def need_same_ids(self, what: str) -> None:
        """Raises UserError where the pair lacks what `what` (say, "The token lens") needs."""
        if not self.same_ids:
            raise UserError(
                f"{what} needs two models with the same tokens. {self.difference} Choose two stages of one model."
            )


def kinship(base: Checkpoint, post: Checkpoint) -> Kinship:
    """Control tokens may be renamed, and either model may have tokens more; no other id may stand for two texts."""
    mine, theirs = _ordinary(base), _ordinary(post)
    for id in sorted(mine.keys() & theirs.keys()):
        if mine[id] != theirs[id]:
            return Kinship(
                False,
                f"{base.info.name} and {post.info.name} have different tokenizers (token {id} is {mine[id]!r} in one and {theirs[id]!r} in the other), so the same seed is not the same luck for both.",
            )
    return Kinship(True, " ".join(filter(None, (_surplus(base, post), _surplus(post, base)))))


def _surplus(one: Checkpoint, other: Checkpoint) -> str:
    """Which tokens one model has that the other one lacks, as a sentence."""
    mine, theirs = one.tokenizer.get_vocab(), other.tokenizer.get_vocab()
    lacking = sorted(mine.keys() - theirs.keys(), key=lambda token: mine[token])
    known = set(theirs.values())
    beyond = [token for token in lacking if mine[token] not in known]
    if not beyond:
        return ""
    rest = f" and {len(beyond) - 1:,} more" if len(beyond) > 1 else ""
    return f"{one.info.name} has tokens that {other.info.name} lacks ({beyond[0]!r}{rest})."


def _ordinary(model: Checkpoint) -> Mapping[int, str]:
    added = model.tokenizer.added_tokens_decoder
    return {id: token for token, id in model.tokenizer.get_vocab().items() if id not in added}
