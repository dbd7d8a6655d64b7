"""Frames of an MP3 file: how many there are, and whether all are there.

Where an MP3 has no Xing header, libsndfile estimates its length from the first frame's bit rate, and reads no further;
of files that were joined it reads what the first one's header says. So the frames are counted here (ISO 11172-3,
13818-3), and a recording whose header does not fit gets one that does.
"""

import dataclasses
import mmap
import struct

from emoflax.errors import UserError
from emoflax.features.containers import TAGS, may_be_sound

_RATES_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}  # by version
_KBITS = {
    True: (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
    False: (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
}  # by whether it is MPEG 1, of layer III
_LAYER_3 = 1
_SEARCHED_BYTES = 1 << 16  # for a frame, where there is none
_MOST_TRIMMED = 4 * 1152  # samples of an encoder's delay and of its last frame, which a decoder leaves out


@dataclasses.dataclass
class Part:
    """One recording of the file: bytes begin to end, without ID3 tags.

    Attributes:
      head: the first frame's four bytes.
      frames: that hold sound.
      declared: frames that its Xing header names; None without such a header.
      tag_bytes: length of that header's frame.
    """

    begin: int
    end: int
    head: bytes
    frames: int = 0
    declared: int | None = None
    tag_bytes: int = 0

    @property
    def needs_header(self) -> bool:
        """Whether libsndfile would not read it to its end."""
        return self.declared != self.frames

    def is_cut_short(self, samples: int) -> bool:
        """Whether a decoder that announces so many samples would leave out more than an encoder has added."""
        return self.frames * (1152 if (self.head[1] >> 3) & 3 == 3 else 576) - samples > _MOST_TRIMMED

    def header(self) -> bytes:
        """A frame without sound that holds the true number of frames, to stand before those with sound."""
        version, rate_hz, mono = (self.head[1] >> 3) & 3, _rate_hz(self.head), self.head[3] >> 6 == 3
        kbits_index = 9  # any rate at which the frame is large enough
        head = bytes((self.head[0], self.head[1] | 1, self.head[2] & 0x0C | kbits_index << 4, self.head[3]))
        length = (144 if version == 3 else 72) * 1000 * _KBITS[version == 3][kbits_index] // rate_hz
        size = length + self.end - self.begin - self.tag_bytes
        tag = b"Xing" + struct.pack(">III", 3, self.frames, size)
        return (head + bytes(_side_bytes(version, mono)) + tag).ljust(length, b"\0")


def parts(path: str, data: mmap.mmap) -> list[Part]:
    """The recordings in the file, one after the other; empty where no MPEG frame of layer III is in it.

    Raises:
      UserError: frames are missing in its midst, or its header names more than there are.
    """
    made: list[Part] = []
    at, size, last = 0, len(data), None  # last: the part that the frames before `at` belong to
    while at + 4 <= size:
        head = data[at : at + 4]
        if head[:3] == b"ID3":
            at, last = _after_id3(data, at), None
            continue
        length = _length(head)
        if not length or (last and not _alike(head, last.head)):
            at = _next_frame(path, data, at, last, made)
            if at < 0:
                break
            continue
        declared = _declared(data[at : at + min(length, 256)])
        if last is None or declared is not None:
            tag = length if declared is not None else 0
            made.append(last := Part(at, at, head, 0, declared or None, tag))
        if declared is None:
            if at + length <= size and not _is_possible(data[at : at + 40], length):
                raise _damaged(path, at)
            last.frames += 1
        at = last.end = at + length
    _check(path, made, size)
    return made


def _check(path: str, made: list[Part], size: int) -> None:
    for part in made:
        if part.end > size:  # nothing tells a cut file from one whose writer was stopped, but its header
            part.end, part.frames = size, part.frames - 1
        if part.declared is not None and part.frames < 0.99 * part.declared - 1:
            raise UserError(
                f"{path} is truncated: its header names {part.declared} frames, and {part.frames} are there. Copy or "
                "download it again."
            )


def _next_frame(path: str, data: mmap.mmap, at: int, last: Part | None, made: list[Part]) -> int:
    """Where frames go on after other bytes; -1: nowhere.

    Raises:
      UserError: those bytes are in the midst of sound, and no tags.
    """
    found = at
    while 0 <= (found := data.find(b"\xff", found + 1)) < at + _SEARCHED_BYTES:
        length = _length(data[found : found + 4])
        follows = data[found + length : found + length + 4]
        if length and _length(follows) and _alike(follows, made[-1].head if made else follows):
            break
    else:
        found = -1
        rest = data[at : at + (1 << 20)]
        if last is not None and may_be_sound(rest, len(data) - at, last.end - last.begin):
            raise _damaged(path, at)
    # A first frame of layer III whose bit rate or sample rate is impossible.
    was_frame = data[at] == 0xFF and data[at + 1] & 0xE6 == 0xE2 and data[at + 1] & 0x18 != 0x08
    if found >= 0 and (last is not None or was_frame) and not data[at:found].startswith(TAGS):
        raise _damaged(path, at)
    tag = data.find(b"ID3", at, at + _SEARCHED_BYTES)
    return tag if tag >= 0 and (found < 0 or tag < found) else found


def _damaged(path: str, at: int) -> UserError:
    return UserError(f"{path} is damaged at byte {at}: frames are missing or changed. Copy or download it again.")


def _after_id3(data: mmap.mmap, at: int) -> int:
    size = 0
    for byte in data[at + 6 : at + 10]:
        size = size << 7 | byte & 0x7F
    return at + 10 + size + 10 * bool(data[at + 5 : at + 6] and data[at + 5] & 0x10)


def _rate_hz(head: bytes) -> int:
    return _RATES_HZ[(head[1] >> 3) & 3][(head[2] >> 2) & 3]


def _length(head: bytes) -> int:
    """Bytes of a frame of layer III that begins with these four; 0: none begins so."""
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return 0
    version, layer = (head[1] >> 3) & 3, (head[1] >> 1) & 3
    index, rate_index = head[2] >> 4, (head[2] >> 2) & 3
    if version == 1 or layer != _LAYER_3 or not 0 < index < 15 or rate_index == 3:
        return 0
    kbits, padding = _KBITS[version == 3][index], (head[2] >> 1) & 1
    return (144 if version == 3 else 72) * 1000 * kbits // _RATES_HZ[version][rate_index] + padding


def _alike(a: bytes, b: bytes) -> bool:
    """Whether two frames are of one version, layer and sample rate."""
    return (a[1] ^ b[1]) & 0x1E == 0 and (a[2] ^ b[2]) & 0x0C == 0


def _side_bytes(version: int, mono: bool) -> int:
    return (17 if mono else 32) if version == 3 else (9 if mono else 17)


def _is_possible(frame: bytes, length: int) -> bool:
    """Whether the lengths in a frame's side information can be (ISO 11172-3, 2.4.1.7; 13818-3, 2.4.1.7).

    mpg123 leaves out frames whose lengths cannot be, and says so on the standard error stream alone.
    """
    mpeg_1, mono, head_bytes = (frame[1] >> 3) & 3 == 3, frame[3] >> 6 == 3, 4 if frame[1] & 1 else 6
    side_bytes = _side_bytes(3 if mpeg_1 else 2, mono)
    bits, left = int.from_bytes(frame[head_bytes : head_bytes + side_bytes], "big"), 8 * side_bytes

    def take(count: int, skip: int) -> int:
        nonlocal left
        left -= count
        value = (bits >> left) & ((1 << count) - 1)
        left -= skip
        return value

    channels = 1 if mono else 2
    before = take(9, 5 + 4 if mono else 3 + 8) if mpeg_1 else take(8, channels)
    total = 0
    for _ in range(channels * (2 if mpeg_1 else 1)):
        total += take(12, 0)
        if take(9, 38 if mpeg_1 else 42) > 288:
            return False
    return total <= 8 * (before + length - head_bytes - side_bytes)


def _declared(frame: bytes) -> int | None:
    """Frames that a frame without sound (Xing, Info, VBRI) names, 0 if none; None: it is a frame of sound."""
    at = 4 + _side_bytes((frame[1] >> 3) & 3, frame[3] >> 6 == 3)
    if frame[at : at + 4] in (b"Xing", b"Info"):
        return int.from_bytes(frame[at + 8 : at + 12], "big") if frame[at + 7] & 1 else 0
    if frame[36:40] == b"VBRI":
        return 0  # mpg123 does not use its number
    return None
