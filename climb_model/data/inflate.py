"""gzip streams decompressed with their checksum verified and their size bounded."""

from __future__ import annotations

import zlib

from isal import isal_zlib

LARGEST_RATIO = 1032
"""DEFLATE cannot make more bytes than this of one (a run of 258 bytes in 2 bits)."""

_GZIP = 31
"""Window bits of a gzip header and trailer, in zlib's counting."""


class GzipError(ValueError):
    """A stream that is damaged, cut or larger than wanted."""


def inflate_head(packed: bytes, size: int) -> bytes:
    """The first `size` bytes of the beginning of a gzip stream, fewer if that is too short; unchecked.

    Raises:
        GzipError: no gzip stream.
    """
    try:
        return zlib.decompressobj(_GZIP).decompress(packed, size)
    except zlib.error:
        raise GzipError("damaged gzip stream") from None


def inflate(packed: bytes, size: int) -> bytes:
    """All members of a gzip file (RFC 1952), each against its CRC-32 and length.

    Memory grows with what really comes, never with what is promised. Zeros behind the last member are
    padding, as for gzip itself.

    Args:
        size: bytes expected. One byte more than this is decompressed at most.

    Returns:
        `size` bytes; fewer if the whole and sound stream holds fewer, and one more if it holds more.

    Raises:
        GzipError: truncated, damaged, or with other data behind it.
    """
    parts: list[bytes] = []
    missing = size + 1
    while packed:
        member = isal_zlib.decompressobj(_GZIP)
        try:
            parts.append(member.decompress(packed, missing))
        except isal_zlib.error:  # pyright: ignore[reportGeneralTypeIssues] its stub says: a value
            raise GzipError("truncated or damaged gzip stream") from None
        missing -= len(parts[-1])
        if missing == 0:
            break
        if not member.eof:
            raise GzipError("truncated or damaged gzip stream")
        packed = member.unused_data.lstrip(b"\0")
    return parts[0] if len(parts) == 1 else b"".join(parts)
