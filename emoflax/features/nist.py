"""How long a NIST SPHERE file says that it is: corpora of the 1990s call such files .wav or .sph.

Its header is text: `NIST_1A`, the header's own length, then a field a line (`sample_count -i 24000`), `end_head`, and
whatever fills it up.
"""

import re
from typing import BinaryIO

from emoflax.errors import UserError

MAGIC = b"NIST_1A"
_BEGIN = re.compile(rb"NIST_1A\r?\n\s*(\d{1,6})\s*\n")
_FIELD = re.compile(rb"([!-~]+)[ \t]+-(?:[ir][ \t]+(\S+)|s(\d{1,4})[ \t])")
_BYTES_OF_CODING = {b"ulaw": 1, b"mu-law": 1, b"alaw": 1}


def place_of_sound(path: str, file: BinaryIO, remedy: str) -> tuple[int, int]:
    """(Byte at which the samples begin, how many bytes they are).

    Raises:
      UserError: the header is damaged, does not say it, or the samples are compressed.
    """
    file.seek(0)
    begin = _BEGIN.match(file.read(64))
    if begin is None:
        raise UserError(f"{path} is damaged: its header does not say how long it is itself. {remedy}")
    file.seek(0)
    head = file.read(int(begin[1]))
    told, ended, _ = head[begin.end() :].partition(b"end_head")
    fields = _fields(told)
    coding = fields.get(b"sample_coding", b"pcm")
    if b"shorten" in coding or b"wavpack" in coding:
        raise UserError(f"{path} is compressed ({coding.decode('ascii', 'replace')}): unpack it with sph2pipe.")
    size = fields.get(b"sample_n_bytes", str(_BYTES_OF_CODING.get(coding, "")).encode())
    numbers = [fields.get(b"sample_count", b""), fields.get(b"channel_count", b"1"), size]
    if not ended or b"\0" in told or not all(number.isdigit() and len(number) < 13 for number in numbers):
        raise UserError(f"{path} is damaged: its header is none, or does not say how long it is. {remedy}")
    count, channels, sample_bytes = map(int, numbers)
    return int(begin[1]), count * channels * sample_bytes


def _fields(told: bytes) -> dict[bytes, bytes]:
    """Name -> value of each field; of fields with one name the first counts. {}: a line is no field and no comment.

    A field of type `-sN` is N bytes long and may contain line ends.
    """
    fields: dict[bytes, bytes] = {}
    at = 0
    while at < len(told):
        field = _FIELD.match(told, at)
        end = at
        if field:
            end = field.end() + int(field[3] or 0)
            fields.setdefault(field[1], told[field.end() : end] if field[3] else field[2])
        elif told[at : told.find(b"\n", at)].strip() and told[at : at + 1] != b";":
            return {}
        line_end = told.find(b"\n", end)
        at = line_end + 1 if line_end >= 0 else len(told)
    return fields
