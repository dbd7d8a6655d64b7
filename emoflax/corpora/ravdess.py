"""RAVDESS, the speech part: 1440 clips, 24 actors, 8 emotions (Livingstone & Russo 2018, PLoS ONE 13(5): e0196391).

Read from the publisher's WAV tree (or FLAC copies of it), from the Kaggle folder that holds every clip twice, from
the publisher's zip, or downloaded. A file's name describes the clip, in whatever folder it is:
modality-channel-emotion-intensity-statement-repetition-actor, e.g. 03-01-05-02-01-01-12.wav.
"""

import lzma
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterable
from hashlib import sha256
from itertools import product
from pathlib import Path

import filelock
from absl import logging
from tqdm import tqdm

from emoflax.corpora import download, scan
from emoflax.data.clip import RECORDING_SUFFIXES, Clip, Corpus
from emoflax.errors import UserError
from emoflax.files import expanded

URL = "https://zenodo.org/records/1188976/files/Audio_Speech_Actors_01-24.zip?download=1"
ZIP_NAME = "Audio_Speech_Actors_01-24.zip"
ZIP_BYTES = 208_468_073
ZIP_MD5 = "bc696df654c87fed845eb13823edef8a"

LABELS = ("neutral", "calm", "happy", "sad", "angry", "fearful", "disgust", "surprised")  # codes 01 to 08
STATEMENTS = {"01": "Kids are talking by the door.", "02": "Dogs are sitting by the door."}
_NAME = re.compile(r"\d\d(-\d\d){6}")
# All of zipfile's own: a broken directory or member, an unknown method, a password, a name that is no text.
_BROKEN_ZIP = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError, RuntimeError, EOFError, ValueError, IndexError,
    struct.error,
)  # fmt: skip
_MOST_BYTES = 1 << 22  # of a clip, which has at most 1 MB; what is unpacked is bounded by it, whatever it expands to
_OWN_FOLDER = "ravdess_wav"
_MARK = "source.sha256"  # file in that folder: fingerprint of the zip that it was unpacked from
_AGAIN = "Unpack or download it again."
_WANTED = "the RAVDESS speech folder (Actor_01 ... Actor_24) or Audio_Speech_Actors_01-24.zip"


def _published_ids() -> frozenset[str]:
    names = (
        f"Actor_{actor:02}/03-01-{emotion:02}-{intensity:02}-{statement:02}-{repetition:02}-{actor:02}"
        for actor, emotion, intensity, statement, repetition in product(
            range(1, 25), range(1, 9), (1, 2), (1, 2), (1, 2)
        )
        if (emotion, intensity) != (1, 2)  # nobody is strongly neutral
    )
    return frozenset(names)


PUBLISHED_IDS = _published_ids()


def load(folder: str, cache_dir: str, response_s: float = 30.0) -> Corpus:
    """All 1440 clips.

    folder: the folder or zip file that holds them; '' takes `cache_dir`'s copy, which is downloaded when missing.
    response_s: longest wait for the publisher's server to respond.

    Raises UserError when the corpus is incomplete, and its subclass UnreachableError when it cannot be downloaded.
    """
    cache = expanded(cache_dir)
    place = _given(folder, cache) if folder else _own_copy(cache, response_s)
    paths = scan.files(place)
    clips = _clips(paths)
    if not clips:
        other = _instead(paths)
        raise UserError(f"No RAVDESS speech clip is in {place}{other}. Set --config.data.dir to {_WANTED}.")
    by_id = scan.one_of_each(clips)
    own = place == cache / _OWN_FOLDER
    _refuse_incomplete(by_id, f"Delete {place}: the next run unpacks it again." if own else _AGAIN, place)
    if len(paths) > len(clips):
        count = len(paths) - len(clips)
        logging.warning("%d audio files in %s are not RAVDESS speech clips and are ignored.", count, place)
    return Corpus("ravdess", LABELS, tuple(_clip(clip_id, by_id[clip_id]) for clip_id in sorted(by_id)))


def _clip(clip_id: str, path: str) -> Clip:
    _, _, emotion, _, statement, _, actor = clip_id.split("/")[1].split("-")
    return Clip(clip_id, LABELS[int(emotion) - 1], actor, path, STATEMENTS[statement])


def _clips(paths: Iterable[str]) -> list[tuple[str, str]]:
    """(id, path) of the speech recordings: modality 03 (audio only), channel 01 (02 is song)."""
    stems = ((Path(path).stem, path) for path in paths)
    return [(f"Actor_{s[-2:]}/{s}", path) for s, path in stems if _NAME.fullmatch(s) and s.startswith("03-01-")]


def _instead(paths: Iterable[str]) -> str:
    """Describes other parts of RAVDESS in a folder: songs or videos downloaded by mistake."""
    stems = (Path(path).stem for path in paths)
    codes = {stem[:5] for stem in stems if _NAME.fullmatch(stem)}
    kinds = []
    if "03-02" in codes:
        kinds.append("songs (vocal channel 02)")
    if codes - {"03-01", "03-02"}:
        kinds.append("videos or clips of another modality than 03, audio only")
    return f"; it holds RAVDESS {' and '.join(kinds)}" if kinds else ""


def _refuse_incomplete(ids: Iterable[str], remedy: str, where: Path) -> None:
    """Raise UserError unless these are exactly the 1440 published clips."""
    present = set(ids)
    if unknown := sorted(present - PUBLISHED_IDS):
        raise UserError(
            f"{where} has {len(unknown)} clips that are not in RAVDESS, such as {', '.join(unknown[:3])}. "
            "Move them elsewhere; for a corpus of your own use --config.data.corpus=manifest."
        )
    missing = sorted(PUBLISHED_IDS - present)
    if not missing:
        return
    absent = sorted({clip_id[:8] for clip_id in missing} - {clip_id[:8] for clip_id in present})
    single = [clip_id for clip_id in missing if clip_id[:8] not in absent]
    parts = [f"all 60 of {', '.join(absent[:5])}{' ...' * (len(absent) > 5)} ({len(absent)} actors)"] if absent else []
    if single:
        parts.append(f"{', '.join(single[:3])}{' ...' * (len(single) > 3)} ({len(single)} single clips)")
    raise UserError(
        f"RAVDESS in {where} has {len(present)} of its 1440 clips of 24 actors. Missing: {'; '.join(parts)}. {remedy}"
    )


def _given(folder: str, cache_dir: Path) -> Path:
    """The folder of clips for `config.data.dir`: itself, or the folder that its zip is unpacked to."""
    place = expanded(folder)
    if not place.exists():
        raise UserError(f"--config.data.dir={folder} does not exist: set it to {_WANTED}.")
    if place.is_file():
        return _unzipped(place, cache_dir)
    if _clips(scan.files(place, quiet=True)):
        return place
    for path in sorted(place.glob("*.zip")):  # Kaggle calls it archive.zip
        if _clips(_names_in(path)):
            return _unzipped(path, cache_dir)
    return place


def _names_in(path: Path) -> list[str]:
    """Of the members of a zip file; none, with a warning, where it is damaged."""
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (*_BROKEN_ZIP, OSError) as error:
        logging.warning("%s cannot be read as a zip file (%s) and is passed over.", path, error)
        return []


def _own_copy(cache_dir: Path, response_s: float) -> Path:
    """The cache's folder of clips, made from the cache's zip, which is downloaded if need be."""
    folder, archive = cache_dir / _OWN_FOLDER, cache_dir / "downloads" / ZIP_NAME
    if folder.is_dir():
        return folder
    with _locked(cache_dir):
        if not archive.exists():
            _download(archive, cache_dir, response_s)
    return _unzipped(archive, cache_dir)


def _download(archive: Path, cache_dir: Path, response_s: float) -> None:
    try:
        download.fetch(URL, archive, ZIP_BYTES, ZIP_MD5, response_s)
    except download.UnreachableError as error:
        raise download.UnreachableError(
            f"RAVDESS is neither in {cache_dir} nor can it be downloaded: {error} Get {ZIP_NAME} in another way and "
            "set --config.data.dir to it, or use --config.data.corpus=synthetic."
        ) from error


def _unzipped(archive_path: Path, cache_dir: Path) -> Path:
    """Unpack the zip's speech clips into the cache, unless the same files are there already. Returns the folder."""
    folder = cache_dir / _OWN_FOLDER
    try:
        with zipfile.ZipFile(archive_path) as archive, _locked(cache_dir):
            members = _members(archive, archive_path)
            content = "".join(f"{clip_id} {info.file_size} {info.CRC}\n" for clip_id, info in sorted(members.items()))
            mark = sha256(content.encode()).hexdigest()
            if not ((folder / _MARK).is_file() and (folder / _MARK).read_text() == mark):
                _unpack(archive, members, mark, folder)
    except _BROKEN_ZIP as error:
        raise UserError(
            f"{archive_path} cannot be read as a zip file ({error}). If it is {ZIP_NAME}, delete it and download it "
            f"again; else set --config.data.dir to {_WANTED}."
        ) from error
    return folder


def _unpack(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], mark: str, folder: Path) -> None:
    """All or nothing: the clips are written to a folder beside it, which is renamed when it is complete."""
    half = folder.with_name(folder.name + ".part")
    shutil.rmtree(half, ignore_errors=True)  # left by a killed run
    try:
        _write_clips(archive, members, half)
        (half / _MARK).write_text(mark)
        if folder.exists():
            shutil.rmtree(folder)
        half.rename(folder)
    except OSError as error:
        if error.errno is None:  # raised by bz2 for a damaged member; errors of the system have a number
            raise zipfile.BadZipFile(str(error)) from error
        raise download.cannot_write(folder, error) from error
    finally:
        shutil.rmtree(half, ignore_errors=True)  # after a failure: frees the disk space


def _members(archive: zipfile.ZipFile, archive_path: Path) -> dict[str, zipfile.ZipInfo]:
    """{id: member} of the speech clips. Doubles with the same checksum count once."""
    names = archive.namelist()
    members: dict[str, zipfile.ZipInfo] = {}
    for clip_id, name in _clips(name for name in names if name.lower().endswith(RECORDING_SUFFIXES)):
        info = archive.getinfo(name)
        if info.file_size > _MOST_BYTES:
            raise UserError(
                f"{archive_path} is not RAVDESS: {name} would unpack to {info.file_size} bytes, and no clip has more "
                f"than {_MOST_BYTES}. {_AGAIN}"
            )
        first = members.setdefault(clip_id, info)
        if (first.CRC, first.file_size) != (info.CRC, info.file_size):
            raise UserError(f"{archive_path} holds two different files for {clip_id}: {first.filename} and {name}.")
    if not members:
        raise UserError(f"No RAVDESS speech clip is in {archive_path}{_instead(names)}. It must be {_WANTED}.")
    _refuse_incomplete(members, _AGAIN, archive_path)
    return members


def _write_clips(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo], folder: Path) -> None:
    """Write every clip under the name that its id gives, so that no path in the zip can point outside the folder."""
    for clip_id, info in tqdm(sorted(members.items()), desc=f"unpack {ZIP_NAME}", unit="clip"):
        target = folder / (clip_id + Path(info.filename).suffix.lower())
        target.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(info) as source, open(target, "wb") as file:
            shutil.copyfileobj(source, file, length=1 << 20)


def _locked(cache_dir: Path) -> filelock.FileLock:
    """A lock for runs that share a cache: they unpack one after the other."""
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise download.cannot_write(cache_dir, error) from error
    return filelock.FileLock(cache_dir / "ravdess.lock")
