"""Whole recordings of every format, whole manifests, and the same with seeded damage."""

import json
import pathlib
import random

import av
import numpy as np
import soundfile

RATE_HZ, SECONDS = 16_000, 1.5
_WRITTEN = {
    "a.wav": {"subtype": "PCM_16"}, "float.wav": {"subtype": "FLOAT"}, "gsm.wav": {"subtype": "GSM610"},
    "adpcm.wav": {"subtype": "IMA_ADPCM"}, "deep.wav": {"subtype": "PCM_24"}, "a.flac": {}, "a.mp3": {},
    "vbr.mp3": {"bitrate_mode": "VARIABLE"}, "a.ogg": {"subtype": "VORBIS"},
    "a.opus": {"format": "OGG", "subtype": "OPUS"}, "a.aiff": {"subtype": "PCM_16"}, "a.au": {"subtype": "PCM_16"},
    "a.w64": {"subtype": "PCM_16"}, "a.caf": {"subtype": "PCM_16"}, "rf64.wav": {"format": "RF64", "subtype": "PCM_16"},
    "big.wav": {"subtype": "PCM_16", "endian": "BIG"}, "a.sph": {"format": "NIST", "subtype": "PCM_16"},
}  # fmt: skip
_BY_PYAV = {"bare.mp3": ("mp3", "libmp3lame", {"write_xing": "0", "id3v2_version": "0"}), "a.m4a": ("mp4", "aac", {}),
            "a.webm": ("webm", "libopus", {}), "a.aac": ("adts", "aac", {})}  # fmt: skip
NUMBERS = (0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF, 0x1000_0000)
CELLS = (
    "", "nan", "NaN", "null", "~nosuchuser/a.wav", "/dev/zero", "..", "a.wav\0", '"', ";", "\t", "1e999", "-1",
    "\ufeff", "\ud800", "=1+1", "x" * 200_000, "1" * 5_000, "[" * 5_000, '{"a":' * 5_000, "\u2028", "-0.0", "0x10",
)  # fmt: skip


def voice(seconds: float = SECONDS, rate_hz: int = RATE_HZ) -> np.ndarray:
    """float32 [samples]: a tone that rises and falls, with noise."""
    t = np.arange(round(seconds * rate_hz)) / rate_hz
    rng = np.random.default_rng(0)
    tone = np.sin(2 * np.pi * 180 * t + 3 * np.sin(2 * np.pi * 4 * t)) * (0.2 + 0.15 * np.sin(2 * np.pi * 3 * t))
    return (tone + 0.02 * rng.standard_normal(len(t))).astype(np.float32)


def write_recordings(folder: pathlib.Path) -> list[pathlib.Path]:
    """One whole recording of every format that can be read."""
    for name, options in _WRITTEN.items():
        soundfile.write(folder / name, voice(), RATE_HZ, **options)
    for name, (form, codec, options) in _BY_PYAV.items():
        encode(folder / name, form, codec, options)
    return [folder / name for name in (*_WRITTEN, *_BY_PYAV)]


def encode(path: pathlib.Path, form: str, codec: str, options: dict[str, str]) -> None:
    """Writes the voice by FFmpeg's encoders."""
    rate_hz = 48_000 if codec == "libopus" else RATE_HZ
    samples = (voice(rate_hz=rate_hz) * 32767).astype(np.int16)
    with av.open(str(path), "w", format=form, options=options) as file:
        stream = file.add_stream(codec, rate=rate_hz)
        stream.bit_rate, stream.layout = 48_000, "mono"
        frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        frame.sample_rate = rate_hz
        for packet in (*stream.encode(frame), *stream.encode(None)):
            file.mux(packet)


def mutate(content: bytes, rng: random.Random, others: list[bytes]) -> bytes:
    """The content with one to three kinds of damage."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        content = rng.choice(_DAMAGE)(bytearray(content), rng, others)
    return bytes(content)


def _flip(content, rng, others):
    for _ in range(rng.choice((1, 1, 4, 40))):
        if content:
            content[_place(content, rng)] ^= 1 << rng.randrange(8)
    return content


def _number(content, rng, others):
    """A number of the header, or anywhere, becomes an extreme one."""
    at, size = _place(content, rng), rng.choice((2, 4, 8))
    content[at : at + size] = rng.choice(NUMBERS).to_bytes(8, "little")[:size][:: rng.choice((1, -1))]
    return content


def _cut(content, rng, others):
    return content[: rng.randrange(len(content) + 1)]


def _remove(content, rng, others):
    at = _place(content, rng)
    del content[at : at + rng.choice((1, 2, 100, 4096))]
    return content


def _insert(content, rng, others):
    at = _place(content, rng)
    content[at:at] = rng.randbytes(rng.choice((1, 4, 100, 4096)))
    return content


def _blank(content, rng, others):
    at, size = _place(content, rng), rng.choice((4, 512, 5000))
    content[at : at + size] = bytes([rng.choice((0, 0xFF))]) * len(content[at : at + size])
    return content


def _repeat(content, rng, others):
    at = _place(content, rng)
    return content[:at] + content[max(0, at - rng.choice((16, 1000, 10**6))) :]


def _append(content, rng, others):
    return content + rng.choice((rng.randbytes(500), rng.choice(others), bytes(9000)))


_DAMAGE = (_flip, _flip, _number, _number, _number, _cut, _remove, _insert, _blank, _repeat, _append)


def _place(content: bytes, rng: random.Random) -> int:
    return rng.randrange(max(1, min(len(content), rng.choice((64, 256, 10**9)))))


def write_manifests(folder: pathlib.Path) -> list[bytes]:
    """Whole manifests of 12 recordings, and these beside them."""
    rows = []
    for number in range(12):
        soundfile.write(folder / f"{number}.wav", voice(0.2), RATE_HZ)
        emotion, speaker = ("happy", "sad", "angry")[number % 3], f"s{number // 3}"
        rows.append({"file": f"{number}.wav", "emotion": emotion, "speaker": speaker, "start_s": "0.0", "end_s": "0.1"})
    lines = [",".join(rows[0]), *(",".join(row.values()) for row in rows)]
    semicolons = "\r\n".join(lines).replace(",", ";")
    jsonl = "\n".join(json.dumps(row) for row in rows)
    return [text.encode() for text in ("\n".join(lines) + "\n", semicolons, jsonl)]


def mutate_manifest(content: bytes, rng: random.Random) -> bytes:
    """As `mutate`, or with cells and lines exchanged."""
    if rng.random() < 0.3:
        return mutate(content, rng, [content])
    if rng.random() < 0.1:
        return content.decode().encode(rng.choice(("utf-16", "utf-8-sig", "utf-32")))
    lines = content.decode().split("\n")
    for _ in range(rng.choice((1, 2, 5))):
        at = rng.randrange(len(lines))
        kind = rng.randrange(5)
        if kind == 0:
            cells = lines[at].split(",")
            cells[rng.randrange(len(cells))] = rng.choice(CELLS)
            lines[at] = ",".join(cells)
        elif kind == 1:
            lines[at] = rng.choice(CELLS)
        elif kind == 2:
            lines.insert(at, rng.choice(lines))
        elif kind == 3 and len(lines) > 1:
            del lines[at]
        else:
            cell = json.dumps(rng.choice(CELLS))
            lines[at] = f'{{"file": {cell}, "emotion": {rng.choice(("[]", "{}", "1", cell))}, "speaker": {cell}}}'
    return "\n".join(lines).encode("utf-8", "surrogatepass")
