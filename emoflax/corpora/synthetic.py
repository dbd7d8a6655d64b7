"""The built-in corpus: 24 made-up speakers, 8 emotions, 768 short clips of a source-filter voice, made in seconds.

It is used where no recordings are available, and by the tests. An emotion here is a manner of speaking *and* a topic,
and neither determines it alone: some emotions share a manner and differ in their words, others share a topic and differ
in their manner (`EMOTIONS` below). An audio model can separate at most five groups, a text model four, and only both
together all eight; a share of clips with a random manner or topic keeps even those below 100 %. Results on it say
nothing about human speech, which its notice repeats in every report.

The voice is in voice.py. Its rhythm follows the written words, but its vowels and consonants are drawn at random: the
words cannot be recognised in the sound, so Whisper cannot transcribe it.
"""

import csv
import os
import wave
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from emoflax.corpora import whole_folder
from emoflax.corpora.voice import SAMPLE_RATE_HZ, Manner, Speaker, speak
from emoflax.corpora.whole_folder import INDEX
from emoflax.data.clip import Clip, Corpus
from emoflax.errors import UserError

NAME = "synthetic"
VERSION = "1"  # part of the folder's name: to be raised with any change of the recordings
SPEAKERS = 24
CLIPS_PER_EMOTION = 4  # of each speaker
NOTICE = "synthetic voices made by the program itself: these figures say nothing about human speech"

# emotion: (manner, topic), in RAVDESS's order; no two emotions share both
EMOTIONS = {
    "neutral": ("even", "home"),
    "calm": ("even", "leisure"),
    "happy": ("bright", "leisure"),
    "sad": ("low", "loss"),
    "angry": ("tense", "loss"),
    "fearful": ("trembling", "home"),
    "disgust": ("low", "event"),
    "surprised": ("bright", "event"),
}
LABELS = tuple(EMOTIONS)
RANDOM_MANNER_SHARE = 0.03  # share of clips spoken in a manner drawn at random
RANDOM_TOPIC_SHARE = 0.08  # share of clips whose topic is drawn at random


MANNERS = {
    "even": Manner(0.0, 1.0, -1.0, 1.0, 0.0, 1200.0, 0.1, 0.05),
    "low": Manner(-3.5, 0.6, -2.0, 0.78, -6.0, 550.0, 0.2, 0.15),
    "bright": Manner(6.0, 4.0, 7.0, 1.0, 2.0, 2000.0, 0.2, 0.03),
    "tense": Manner(2.0, 2.5, -6.0, 1.2, 8.0, 5000.0, 0.1, 0.01),
    "trembling": Manner(6.0, 1.0, 0.0, 1.4, -3.0, 1300.0, 2.0, 0.25),
}

# Every topic has words of 1, 1, 2, 2, 2 and 3 syllables, so that the rhythm does not give the topic away.
TOPICS = {
    "home": {"door": 1, "lamp": 1, "kitchen": 2, "window": 2, "table": 2, "family": 3},
    "leisure": {"sea": 1, "sun": 1, "garden": 2, "music": 2, "summer": 2, "holiday": 3},
    "loss": {"bill": 1, "debt": 1, "money": 2, "quarrel": 2, "trouble": 2, "accident": 3},
    "event": {"smell": 1, "fish": 1, "letter": 2, "party": 2, "spider": 2, "animal": 3},
}
TEMPLATES = (
    "look at the _",
    "the _ is here now",
    "we saw the _ today",
    "you know the _ and _",
    "it is about the _ again",
    "the _ and the _",
    "they talk of _ and _",
    "first the _ then the _",
)
SYLLABLES = {word: count for words in TOPICS.values() for word, count in words.items()}
SYLLABLES |= {"today": 2, "about": 2, "again": 2}  # all other words have one


def load(dir: str, cache_dir: str) -> Corpus:
    """The corpus, written on first use to `<cache_dir>/synthetic-<version>`.

    Args:
      dir: a folder that `make` wrote (a smaller corpus, say), or '' for the full one.
      cache_dir: where the full corpus is kept.

    Raises:
      UserError: dir is no such folder, the disk cannot be written, or files of the corpus are missing.
    """
    if dir and not (Path(dir) / INDEX).is_file():
        raise UserError(
            f"{dir} is not a synthetic corpus: it has no {INDEX}. Leave --config.data.dir empty to use the built-in "
            "one; your own recordings are --config.data.corpus=manifest."
        )
    if dir:
        return _read(Path(dir))
    folder = Path(cache_dir) / f"{NAME}-{VERSION}"
    if not folder.exists():
        make(folder)
    return _read(folder)


def reachable(labels: Collection[str]) -> dict[str, float]:
    """{'sound', 'words', 'both'}: the best UAR, a share, that knows no more of a clip than its manner, topic, or both.

    From the shares that clips are made with: the best guess for a manner is an emotion that is spoken so most often,
    and UAR is the sum of these shares over manners, divided by the number of emotions. Manners overlap in the sound, so
    a model of sound reaches less; on few clips luck can reach a little more.
    """
    manner = np.array([_shares(EMOTIONS[name][0], list(MANNERS), RANDOM_MANNER_SHARE) for name in labels])
    topic = np.array([_shares(EMOTIONS[name][1], list(TOPICS), RANDOM_TOPIC_SHARE) for name in labels])
    both = (manner[:, :, None] * topic[:, None, :]).reshape(len(labels), -1)
    shares = {"sound": manner, "words": topic, "both": both}
    return {name: float(share.max(0).sum() / len(labels)) for name, share in shares.items()}


def _shares(own: str, names: Sequence[str], random: float) -> list[float]:
    """Share of an emotion's clips that has each manner or topic."""
    return [random / len(names) + (1 - random) * (name == own) for name in names]


def make(folder: str | os.PathLike, speakers: int = SPEAKERS, clips_per_emotion: int = CLIPS_PER_EMOTION) -> None:
    """Writes a corpus of speakers x 8 x clips_per_emotion clips into a folder; does nothing where it exists.

    16 kHz, 16 bit, mono WAV files of about 0.6 to 1.8 s, and an index. A clip depends on its own speaker, emotion and
    number alone, so a smaller corpus is part of a larger one. The folder is complete, or not there.

    Raises:
      UserError: the folder cannot be written.
    """
    whole_folder.make(Path(folder), lambda half: _write(half, speakers, clips_per_emotion))


def _write(folder: Path, speakers: int, clips_per_emotion: int) -> None:
    with open(folder / INDEX, "w", newline="", encoding="utf-8") as out:
        index = csv.writer(out)
        index.writerow(["file", "emotion", "speaker", "text"])
        for number in range(speakers):
            speaker, name = _speaker(number), f"speaker_{number + 1:02d}"
            (folder / name).mkdir()
            for code, emotion in enumerate(LABELS):
                for take in range(clips_per_emotion):
                    rng = np.random.default_rng([2024, 1 + number, code, take])
                    words = _sentence(emotion, rng)
                    syllables = [SYLLABLES.get(word, 1) for word in words]
                    samples = speak(syllables, _manner(emotion, speaker, rng), speaker, rng)
                    file = f"{name}/{emotion}-{take + 1:02d}.wav"
                    _write_wav(folder / file, samples)
                    index.writerow([file, emotion, name, " ".join(words)])


def _write_wav(path: Path, samples: np.ndarray) -> None:
    """Writes `[samples]` within -1 to 1 as 16 bit."""
    with wave.open(str(path), "wb") as out:
        out.setparams((1, 2, SAMPLE_RATE_HZ, len(samples), "NONE", ""))
        out.writeframes(np.round(samples * 32767).astype("<i2").tobytes())


def _read(folder: Path) -> Corpus:
    rows = whole_folder.read_index(folder)
    missing = [row["file"] for row in rows if not (folder / row["file"]).is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(rows)} files of {NAME} are missing in {folder}, such as {missing[0]}. "
            "Delete the folder, and the next run writes it again."
        )
    clips = (
        Clip(
            id=row["file"].removesuffix(".wav"),
            label=row["emotion"],
            speaker=row["speaker"],
            path=str(folder / row["file"]),
            text=row["text"],
        )
        for row in rows
    )
    return Corpus(NAME, LABELS, tuple(sorted(clips, key=lambda clip: clip.id)), NOTICE, intelligible=False)


def _speaker(number: int) -> Speaker:
    """Odd ones (counted from 0) are women: higher pitch, shorter vocal tract."""
    rng = np.random.default_rng([2024, 0, number])
    woman = number % 2 == 1
    return Speaker(
        f0_hz=rng.uniform(170, 235) if woman else rng.uniform(90, 140),
        tract=rng.uniform(1.10, 1.22) if woman else rng.uniform(0.94, 1.06),
        rate=rng.uniform(6.8, 8.0),
        gain_db=rng.uniform(-3, 3),
        tilt=rng.uniform(0.75, 1.35),
        expressive=rng.uniform(0.8, 1.25),
    )


def _sentence(emotion: str, rng: np.random.Generator) -> list[str]:
    topic = EMOTIONS[emotion][1]
    if rng.random() < RANDOM_TOPIC_SHARE:
        topic = str(rng.choice(list(TOPICS)))
    nouns = iter(rng.permutation(list(TOPICS[topic])))
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    return [str(next(nouns)) if word == "_" else word for word in template.split()]


def _manner(emotion: str, speaker: Speaker, rng: np.random.Generator) -> Manner:
    """This speaker's variant of the emotion's manner in one clip: stronger or weaker, with random deviations."""
    name = EMOTIONS[emotion][0]
    if rng.random() < RANDOM_MANNER_SHARE:
        name = str(rng.choice(list(MANNERS)))
    manner, strength = MANNERS[name], speaker.expressive * rng.normal(1.0, 0.15)
    return Manner(
        pitch_st=strength * manner.pitch_st + rng.normal(0, 0.7),
        range_st=manner.range_st * rng.lognormal(0, 0.25),
        final_st=strength * manner.final_st + rng.normal(0, 1.0),
        rate=manner.rate**strength * rng.lognormal(0, 0.06),
        energy_db=strength * manner.energy_db + rng.normal(0, 1.5),
        tilt_hz=manner.tilt_hz * speaker.tilt * rng.lognormal(0, 0.15),
        tremor_st=manner.tremor_st * rng.lognormal(0, 0.25),
        breath=manner.breath * rng.lognormal(0, 0.25),
    )
