"""What a sound file says about its own length, compared with the bytes that are there, before a decoder reads it.

libsndfile reads a file that is shorter than its header says without an error, and stops where the header says, whatever
follows. Formats that are lists of chunks are checked here: WAV (RIFF, RIFX, RF64), AIFF, W64 and CAF; so are AU and
NIST SPHERE. Compressed ones are in `flac.py`, `mpeg.py` and `ogg.py`.
"""

import dataclasses
import os
import stat
from typing import BinaryIO

from emoflax.errors import UserError
from emoflax.features import nist

REMEDY = "Replace the file, or leave it out of the corpus."
_LFS = b"version https://git-lfs"  # begins the text file that stands for one that Git LFS has not fetched
_MOST_CHUNKS = 10_000  # real files have tens
_LEFT_SHARE, _LEFT_BYTES = 0.01, 4096  # of the sound, that may follow it and be anything
TAGS = (b"TAG", b"APET", b"LYRI", b"3DI\x10", b"ID3")  # of other programs, behind the sound
# Names of chunks, which some programs write one byte off, or with a wrong length.
_CHUNK_NAMES = (
    b"LIST", b"id3 ", b"bext", b"iXML", b"axml", b"_PMX", b"cue ",
    b"smpl", b"inst", b"fact", b"PEAK", b"JUNK", b"junk", b"PAD ", b"FLLR", b"afsp", b"DISP", b"acid", b"umid", b"chna",
    b"APPL", b"MARK", b"COMT", b"ANNO", b"NAME", b"AUTH", b"(c) ", b"INST", b"MIDI",
)  # fmt: skip
_ID3V1_BYTES = 128
_UNCOMPRESSED = (1, 3, 6, 7, 0xFFFE)  # of WAV: integers, floats, A-law, mu-law, and what is described elsewhere
_IMA_ADPCM, _EXTENSIBLE = 17, 0xFFFE
_KINDS = (
    (stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """How a format lists its chunks: each is a name, a length and so many bytes.

    Attributes:
      first: byte at which the first one begins.
      align: chunks begin at multiples of it, counted from the first.
      own_head: whether the length counts the name and the length too.
      data: name of the chunk with the samples.
    """

    first: int
    name_bytes: int
    length_bytes: int
    order: str
    align: int
    own_head: bool
    data: bytes


_RIFF = _Chunks(12, 4, 4, "little", 2, False, b"data")
_W64 = _Chunks(40, 16, 8, "little", 8, True, b"data\xf3\xac\xd3\x11\x8c\xd1\x00\xc0O\x8e\xdb\x8a")
_LISTS = {
    b"RIFF": _RIFF,
    b"RIFX": dataclasses.replace(_RIFF, order="big"),
    b"RF64": _RIFF,
    b"BW64": _RIFF,
    b"FORM": dataclasses.replace(_RIFF, order="big", data=b"SSND"),
    b"riff": _W64,
    b"caff": _Chunks(8, 4, 8, "big", 1, False, b"data"),
}


def check_regular(path: str) -> int:
    """The file's size in bytes. Opening a pipe or a device could wait for ever, so nothing is opened here.

    Raises:
      UserError: there is no such file, it is no file, or it is empty.
    """
    try:
        state = os.stat(path)
    except FileNotFoundError as error:
        raise UserError(f"There is no file {path}. Correct the corpus's folder or table.") from error
    except (OSError, ValueError) as error:  # ValueError: a zero byte in the name
        raise UserError(f"Cannot read {path}: {getattr(error, 'strerror', error)}. {REMEDY}") from error
    if stat.S_ISDIR(state.st_mode) and not os.access(path, os.R_OK | os.X_OK):
        raise UserError(f"Cannot read the folder {path}: Permission denied.")
    for is_kind, what in _KINDS:
        if is_kind(state.st_mode):
            raise UserError(f"{path} is {what}, not a file. {REMEDY}")
    if not state.st_size:
        raise UserError(f"{path} is empty (0 bytes). {REMEDY}")
    return state.st_size


def check_head(path: str, head: bytes) -> None:
    """Raises UserError for what stands in the place of a recording: a pointer of Git LFS."""
    if head.startswith(_LFS):
        raise UserError(f"{path} is a pointer of Git LFS, not the recording: run git lfs pull in its repository.")


def check_length(path: str, file: BinaryIO, size: int, head: bytes) -> None:
    """Compares the declared length of the samples with the file's.

    Args:
      head: the first bytes of the file, 16 or more where it has them.

    Raises:
      UserError: the file ends before its samples do, or goes on long after them.
    """
    if head[:4] in (b".snd", b"dns."):
        order = "big" if head[:4] == b".snd" else "little"
        start, length = (int.from_bytes(head[at : at + 4], order) for at in (4, 8))
        if start < 24:
            raise UserError(f"{path} is damaged: its sound would begin at byte {start}, inside its header. {REMEDY}")
        _judge(path, file, size, start, size - start if _is_unknown(length, 4) else length, None)
    elif head.startswith(nist.MAGIC):
        _judge(path, file, size, *nist.place_of_sound(path, file, REMEDY), None, reads_on=True)
    elif head[:4] in _LISTS and (head[:4] in (b"riff", b"caff") or head[8:12] in (b"WAVE", b"AIFF", b"AIFC")):
        _check_list(path, file, size, _LISTS[head[:4]], is_aiff=head[8:12] == b"AIFF")


def truncated(path: str) -> UserError:
    return UserError(f"{path} is truncated: it is shorter than its own header says. Copy or download it again.")


def may_be_sound(rest: bytes, left: int, length: int) -> bool:
    """Whether what follows the declared end is over 1 % of the sound and is no tag, chunk, text or padding.

    Args:
      rest: what follows, or the beginning of it.
      left: how many bytes follow.
      length: bytes of the sound before them.
    """
    if left <= min(_LEFT_BYTES, _LEFT_SHARE * length):
        return False
    if rest[-_ID3V1_BYTES:].startswith(b"TAG"):
        rest = rest[:-_ID3V1_BYTES]
    after_zeros = rest.lstrip(b"\0")
    filled = not after_zeros.strip(after_zeros[:1])  # with one byte, or nothing
    return not (filled or after_zeros.startswith(TAGS + _CHUNK_NAMES) or _is_text(after_zeros.rstrip(b"\0")))


def _is_text(rest: bytes) -> bool:
    try:
        text = rest.decode()
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character.isspace() for character in text)


def _check_list(path: str, file: BinaryIO, size: int, kind: _Chunks, is_aiff: bool) -> None:
    at, real_length, declared, in_blocks, tag = kind.first, None, None, False, 0
    for _ in range(_MOST_CHUNKS):
        chunk = _chunk(file, at, kind)
        if chunk is None:
            raise truncated(path)  # it ends before its samples begin
        name, start, length = chunk
        if name == b"ds64":  # of RF64, whose other lengths have too few bits
            real_length = int.from_bytes(file.read(16)[8:], "little")
        elif name == b"fmt ":
            numbers = [int.from_bytes(file.read(2), kind.order) for _ in range(10)]
            tag, channels, _, _, _, _, block, bits, _, valid_bits = numbers
            if tag == _EXTENSIBLE and valid_bits > bits:
                raise UserError(f"{path} is damaged: {valid_bits} of its samples' {bits} bits would count. {REMEDY}")
            if tag not in _UNCOMPRESSED:
                in_blocks = True  # bytes that came in between shift all that follow
        elif name == b"desc":  # of CAF
            about = file.read(24)
            if about[8:12] == b"lpcm" and about[20:] != b"\0\0\0\1":
                raise UserError(f"{path} is damaged: its header has a wrong number of frames a packet. {REMEDY}")
        elif name == b"COMM" and is_aiff:
            declared = _aiff_bytes(file.read(8))
        elif name == kind.data:
            if declared is not None and declared > length:
                raise truncated(path)
            length = _data_length(kind, start, length, size, real_length)
            _judge(path, file, size, start, length, kind, in_blocks=in_blocks)
            if tag == _IMA_ADPCM and not _are_ima_blocks(file, start, length, channels, block):
                raise UserError(f"{path} is damaged: a block of it cannot be. Copy or download it again.")
            return
        at = start + length + -length % kind.align
    raise UserError(f"{path} is damaged: its header lists over {_MOST_CHUNKS} parts before the sound. {REMEDY}")


def _are_ima_blocks(file: BinaryIO, start: int, length: int, channels: int, block: int) -> bool:
    """Whether every block begins with a possible state of the decoder: its step is one of 89, its last byte is 0."""
    if not 4 * channels <= block:
        return False
    for at in range(start, start + length, block):
        file.seek(at)
        head = file.read(4 * channels)
        if max(head[2::4], default=0) > 88 or any(head[3::4]):
            return False
    return True


def _chunk(file: BinaryIO, at: int, kind: _Chunks) -> tuple[bytes, int, int] | None:
    """(Name, byte at which the content starts, its length) of the chunk at a byte; None at the file's end."""
    file.seek(min(at, 1 << 62))
    head = file.read(kind.name_bytes + kind.length_bytes)
    if len(head) < kind.name_bytes + kind.length_bytes:
        return None
    length = int.from_bytes(head[kind.name_bytes :], kind.order) - len(head) * kind.own_head
    return head[: kind.name_bytes], at + len(head), max(0, length)


def _data_length(kind: _Chunks, start: int, length: int, size: int, real_length: int | None) -> int:
    """Bytes of samples; to the file's end where the program that wrote it did not know."""
    if real_length is not None and length == 0xFFFF_FFFF:
        return real_length
    return size - start if not length or _is_unknown(length, kind.length_bytes) else length


def _is_unknown(length: int, length_bytes: int) -> bool:
    """A program that writes a file into a pipe does not know its length and writes the largest number, or about it."""
    largest = 1 << (8 * length_bytes)
    return any(0 <= most - length < 1 << 16 for most in (largest - 1, largest // 2))


def _aiff_bytes(common: bytes) -> int:
    """Bytes of samples that follow from AIFF's numbers of channels, frames and bits."""
    channels, frames, bits = (int.from_bytes(common[a:b], "big") for a, b in ((0, 2), (2, 6), (6, 8)))
    return channels * frames * -(-bits // 8)


def _judge(
    path: str, file: BinaryIO, size: int, start: int, length: int, kind: _Chunks | None,
    *, in_blocks: bool = False, reads_on: bool = False,
) -> None:  # fmt: skip
    """As `check_length`. `in_blocks`: compressed; `reads_on`: the decoder takes for sound whatever follows."""
    if start + length > size:
        raise truncated(path)
    left = _bytes_left(file, start + length, size, kind)
    file.seek(size - left)
    rest = file.read(min(left, 1 << 20))
    if kind is _W64 or in_blocks:
        is_sound = left > (0 if kind is _W64 else kind.align)
    else:
        is_sound = bool(rest.strip(b"\0")) if reads_on else may_be_sound(rest, left, length)
    if is_sound:
        raise UserError(
            f"{path} has a wrong header: it says {length} bytes of sound, and {left} more bytes follow. Write the file "
            "anew with a program that repairs headers (such as sox --ignore-length), or leave it out of the corpus."
        )


def _bytes_left(file: BinaryIO, at: int, size: int, kind: _Chunks | None) -> int:
    """Bytes from the first one on that is in no chunk."""
    if kind is _W64:  # whatever follows, libsndfile reads it as sound
        return size - at if size - at >= kind.align else 0
    for _ in range(_MOST_CHUNKS if kind else 0):
        padded = at + -(at - kind.first) % kind.align
        chunk = _chunk(file, padded, kind)
        if chunk is None or not (chunk[0][:4].isascii() and chunk[0][:4].decode().isprintable()):
            break
        if chunk[1] + chunk[2] > size:
            break
        at = chunk[1] + chunk[2]
    return size - at
