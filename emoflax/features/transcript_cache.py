"""A cache of transcripts, so that no recording is transcribed twice."""

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from emoflax import fingerprint
from emoflax.data.clip import Clip
from emoflax.errors import UserError
from emoflax.pretrained.whisper_files import sha256

_ENGINES = {"openai-whisper": "emoflax.features.stt_openai", "faster-whisper": "emoflax.features.stt_faster"}
_WAVEFORM = "emoflax.features.decode.resample"  # of the samples, which their digest identifies, to Whisper's rate


class TranscriptCache:
    """`<cache_dir>/transcripts/<model>-<hash>.jsonl`: transcripts by one model, one set of decoding settings, one code.

    Records are appended a batch at a time, so a killed run loses one batch. Each holds the digest of the decoded
    samples, which identifies the recording in any corpus and under any name, and the file's stamp (path, size,
    modification time, part), which identifies it without decoding.
    """

    def __init__(self, cache_dir: str, text: Mapping):
        model = text["whisper_model"]
        settings = {field: text[field] for field in ("engine", "language", "prompt", "beam")}
        settings["weights"] = _fingerprint(model)
        made_by = [_WAVEFORM, *filter(None, [_ENGINES.get(text["engine"])])]
        settings["code"] = fingerprint.of_modules(made_by, within=())
        key = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        self.path = Path(cache_dir) / "transcripts" / f"{re.sub(r'[^A-Za-z0-9._-]', '_', Path(model).stem)}-{key}.jsonl"
        self._by_digest: dict[str, str] = {}
        self._by_stamp: dict[tuple, str] = {}
        if self.path.exists():
            for line in self.path.read_bytes().splitlines():
                with contextlib.suppress(ValueError, KeyError, TypeError):  # the incomplete last line of a killed run
                    self._remember(json.loads(line))

    def _remember(self, record: dict) -> None:
        self._by_digest[record["digest"]] = record["text"]
        if record["stamp"]:
            self._by_stamp[tuple(record["stamp"])] = record["text"]

    def find(self, clip: Clip) -> str | None:
        """The transcript of this clip, without reading the recording."""
        stamp = _stamp(clip)
        return None if stamp is None else self._by_stamp.get(stamp)

    def find_digest(self, digest: str) -> str | None:
        """The transcript of these samples, whatever the recording's name."""
        return self._by_digest.get(digest)

    def add(self, transcribed: Sequence[tuple[Clip, str, str]]) -> None:
        """Appends (clip, digest, transcript) triples in one write."""
        records = [{"digest": digest, "text": text, "stamp": _stamp(clip)} for clip, digest, text in transcribed]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                _cut_incomplete_line(file)
                file.write("".join(json.dumps(record) + "\n" for record in records).encode())
        except OSError as error:
            raise UserError(
                f"Cannot write {self.path}: {error.strerror}; make room there or set data.cache_dir."
            ) from error
        for record in records:
            self._remember(record)


def _fingerprint(model: str) -> str:
    """Hash of the weights in a file or folder, of the user's own; for a published model its name."""
    path = Path(model) / "model.bin" if Path(model).is_dir() else Path(model)
    return sha256(path) if path.is_file() else model


def _cut_incomplete_line(file) -> None:
    end = file.seek(0, os.SEEK_END)
    start = max(0, end - (1 << 20))  # a transcript is far shorter than 1 MiB
    file.seek(start)
    tail = file.read(end - start)
    if tail and not tail.endswith(b"\n"):
        file.truncate(start + tail.rfind(b"\n") + 1)


def _stamp(clip: Clip) -> tuple | None:
    if clip.path is None:
        return None
    try:
        status = os.stat(clip.path)
    except OSError:
        return None
    return os.path.abspath(clip.path), status.st_size, status.st_mtime_ns, clip.start_s, clip.end_s
