"""Whether the same id means the same text to both models of a pair, and what else is not the same."""

from collections.abc import Mapping

from ..lease import Card, Kinship


def kinship(base: Card, post: Card) -> Kinship:
    """Control tokens may be renamed, and either model may have tokens more; no other id may stand for two texts."""
    mine, theirs = _ordinary(base), _ordinary(post)
    for id in sorted(mine.keys() & theirs.keys()):
        if mine[id] != theirs[id]:
            return Kinship(
                False,
                f"{base.info.name} and {post.info.name} have different tokenizers (token {id} is {mine[id]!r} in one and {theirs[id]!r} in the other), so the same seed is not the same luck for both.",
            )
    return Kinship(True, " ".join(filter(None, (_surplus(base, post), _surplus(post, base)))))


def _surplus(one: Card, other: Card) -> str:
    """Which tokens one model has that the other one lacks, as a sentence."""
    mine, theirs = one.tokenizer.get_vocab(), other.tokenizer.get_vocab()
    lacking = sorted(mine.keys() - theirs.keys(), key=lambda token: mine[token])
    known = set(theirs.values())
    beyond = [token for token in lacking if mine[token] not in known]
    if not beyond:
        return ""
    rest = f" and {len(beyond) - 1:,} more" if len(beyond) > 1 else ""
    return f"{one.info.name} has tokens that {other.info.name} lacks ({beyond[0]!r}{rest})."


def _ordinary(model: Card) -> Mapping[int, str]:
    added = model.tokenizer.added_tokens_decoder
    return {id: token for token, id in model.tokenizer.get_vocab().items() if id not in added}
