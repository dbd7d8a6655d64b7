"""FLAC files whose header does not name their length, or names another sample rate than their frames do."""

import mmap

from emoflax.errors import UserError

_MARK = b"fLaC"
_SEARCHED_BYTES = 1 << 24  # the longest frame: 65,535 samples of 8 channels
_RATES_HZ = dict(
    enumerate((88200, 176400, 192000, 8000, 16000, 22050, 24000, 32000, 44100, 48000, 96000), start=1)
)  # by the number in a frame's header


def check_rate(path: str, data: mmap.mmap) -> None:
    """Raises UserError if the first frame has another sample rate than the file's header."""
    if data[:4] != _MARK:
        return
    at, is_last = 4, False
    while not is_last and at + 4 < len(data):
        is_last = bool(data[at] & 0x80)
        at += 4 + int.from_bytes(data[at + 1 : at + 4], "big")
    frame = data[at : at + 4]
    declared_hz = int.from_bytes(data[18:21], "big") >> 4
    if len(frame) == 4 and _RATES_HZ.get(frame[2] & 15, declared_hz) != declared_hz:
        raise UserError(f"{path} is damaged: its header and its frames have different sample rates. Copy it again.")


def with_length(data: mmap.mmap) -> bytes | None:
    """The first bytes of the file, up to the number of samples and with it; None where the file names it already.

    The last frame names its place and its length (RFC 9639, section 9.1).
    """
    head = data[:26]
    if head[:4] != _MARK or len(head) < 26 or int.from_bytes(head[21:26], "big") & (1 << 36) - 1:
        return None
    block = int.from_bytes(head[8:10], "big")
    at = len(data)
    while (at := data.rfind(b"\xff", max(0, len(data) - _SEARCHED_BYTES), at)) >= 0:
        if data[at + 1 : at + 2] in (b"\xf8", b"\xf9") and (end := _end_of_frame(data[at : at + 18], block)):
            total = int.from_bytes(head[21:26], "big") | end
            return head[:21] + total.to_bytes(5, "big")
    return None


def _end_of_frame(head: bytes, block: int) -> int:
    """The sample after the last one of the frame that begins with these bytes; 0: no frame begins so."""
    if len(head) < 7 or head[2] >> 4 == 0 or head[2] & 15 == 15:
        return 0
    first = head[4]
    more = 0 if first < 0x80 else 8 - (first ^ 0xFF).bit_length() - 1  # a number like those of UTF-8
    number, at = first & (0x7F if not more else 0x3F >> more), 5
    for byte in head[5 : 5 + more]:
        number, at = number << 6 | byte & 0x3F, at + 1
    code = head[2] >> 4
    if code in (6, 7):
        length = int.from_bytes(head[at : at + code - 5], "big") + 1
        at += code - 5
    else:
        length = 192 if code == 1 else 576 << (code - 2) if code < 6 else 256 << (code - 8)
    at += {12: 1, 13: 2, 14: 2}.get(head[2] & 15, 0)
    if at >= len(head) or _crc8(head[:at]) != head[at]:
        return 0
    return number + length if head[1] & 1 else number * block + length


def _crc8(data: bytes) -> int:
    crc = 0
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 7 if crc & 0x80 else crc << 1) & 0xFF
    return crc
