"""What a finished comparison leaves behind to be checked by."""

from core.prompts import digest
from core.types import SideReceipt, SideResult


def side_receipt(result: SideResult) -> SideReceipt:
    """One side of a result, without the texts that can be rebuilt."""
    known = [margin for margin in result.margins if margin is not None]
    return SideReceipt(
        checkpoint=result.checkpoint,
        weights_sha256=result.weights_sha256,
        engine=result.engine,
        sampling=result.sampling,
        prompt_tokens=len(result.prompt_token_ids),
        prompt_sha256=result.prompt_sha256,
        token_ids=result.token_ids,
        output_sha256=digest(result.token_ids),
        finish_reason=result.finish_reason,
        smallest_margin=min(known, default=None),
        usage=result.usage,
    )
