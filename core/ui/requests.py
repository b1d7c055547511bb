"""What is known of a request before it is read: from where it comes, and how much it brings."""

from typing import Any

MAX_BODY_BYTES = 8_000_000  # a receipt or a long conversation; nobody has to send more


def address(request: Any, header: str) -> str:
    """From where a request comes: as the connection says, or behind a proxy the last entry of the header that it writes."""
    said = request.headers.get(header, "").rpartition(",")[2].strip() if header else ""
    return said or (request.client.host if request.client else "")


def declared(headers: Any) -> int:
    """How many bytes come with a request: as many as it says, or as there can be."""
    said = headers.get("content-length", "")
    if said.isascii() and said.isdecimal():
        return int(said)
    return MAX_BODY_BYTES if "transfer-encoding" in headers else 0
