"""Pages of an Ogg file: each has a checksum and a number, so every lost or changed byte shows."""

import mmap
import zlib

from emoflax.errors import UserError

_HEAD_BYTES = 27
_FIRST, _LAST = 2, 4  # flags of a page: it begins, or it ends a stream
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def streams(path: str, data: mmap.mmap) -> list[int]:
    """Bytes at which recordings begin: files that were joined end to end hold several.

    Raises:
      UserError: a page is missing, damaged or cut.
    """
    starts, at, open_numbers, in_heads = [], 0, {}, False
    while at < len(data):
        if data[at : at + 4] != b"OggS":
            if not open_numbers and data.find(b"OggS", at) < 0:
                break  # tags of other programs
            raise _damaged(path, at)
        end = _end_of_page(data, at)
        if end > len(data):
            raise UserError(f"{path} is truncated: its last page is not whole. Copy or download it again.")
        if _checksum(data, at, end) != int.from_bytes(data[at + 22 : at + 26], "little"):
            raise _damaged(path, at)
        flags, stream, number = data[at + 5], data[at + 14 : at + 18], int.from_bytes(data[at + 18 : at + 22], "little")
        if flags & _FIRST and not in_heads:
            starts.append(at)
        in_heads = bool(flags & _FIRST)
        if not in_heads and open_numbers.get(stream) != number:
            raise _damaged(path, at)
        open_numbers[stream] = number + 1
        if flags & _LAST:
            del open_numbers[stream]
        at = end
    if open_numbers:
        raise UserError(f"{path} is truncated: it ends before its stream does. Copy or download it again.")
    return starts


def _end_of_page(data: mmap.mmap, at: int) -> int:
    body = at + _HEAD_BYTES + (data[at + 26] if at + 26 < len(data) else 0)
    return body + sum(data[at + _HEAD_BYTES : body])


def _checksum(data: mmap.mmap, begin: int, end: int) -> int:
    """Ogg's CRC-32: zlib's over mirrored bits, without its inversions; the checksum's own bytes count as zeros."""
    page = data[begin : begin + 22] + bytes(4) + data[begin + 26 : end]
    mirrored = zlib.crc32(page.translate(_MIRRORED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    return int(f"{mirrored:032b}"[::-1], 2)


def _damaged(path: str, at: int) -> UserError:
    return UserError(f"{path} is damaged at byte {at}: a page is missing or changed. Copy or download it again.")
