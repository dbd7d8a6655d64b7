"""Corpora described by their file names: CREMA-D, TESS, SAVEE, EmoDB, EMOVO, URDU, RAVDESS's songs; see CORPORA."""

import dataclasses
import re
from collections.abc import Callable
from pathlib import Path

from absl import logging

from emoflax.corpora import ravdess, scan
from emoflax.data.clip import Clip, Corpus
from emoflax.errors import UserError

CREMA_D_SENTENCES = {
    "IEO": "It's eleven o'clock.",
    "TIE": "That is exactly what happened.",
    "IOM": "I'm on my way to the meeting.",
    "IWW": "I wonder what this is about.",
    "TAI": "The airplane is almost full.",
    "MTI": "Maybe tomorrow it will be cold.",
    "IWL": "I would like a new alarm clock.",
    "ITH": "I think I have a doctor's appointment.",
    "DFA": "Don't forget a jacket.",
    "ITS": "I think I've seen this before.",
    "TSI": "The surface is slick.",
    "WSI": "We'll stop in a couple of minutes.",
}
EMODB_SENTENCES = {
    "a01": "Der Lappen liegt auf dem Eisschrank.",
    "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.",
    "a05": "Das schwarze Stück Papier befindet sich da oben neben dem Holzstück.",
    "a07": "In sieben Stunden wird es soweit sein.",
    "b01": "Was sind denn das für Tüten, die da unter dem Tisch stehen?",
    "b02": "Sie haben es gerade hochgetragen und jetzt gehen sie wieder runter.",
    "b03": "An den Wochenenden bin ich jetzt immer nach Hause gefahren und habe Agnes besucht.",
    "b09": "Ich will das eben wegbringen und dann mit Karl was trinken gehen.",
    "b10": "Die wird auf dem Platz sein, wo wir sie immer hinlegen.",
}


@dataclasses.dataclass(frozen=True)
class Naming:
    """How one corpus names its files.

    Attributes:
      pattern: matches the end of 'folder/stem'; its groups 'speaker' and 'emotion' are codes.
      labels: {emotion code: label}, in the order of the logits.
      clip_id, speaker: format strings of the pattern's groups.
      text: the words of a recording, from the pattern's groups.
      clips: how many recordings were published.
      example: a file name, for error messages.
      people: of the corpus whose speakers these are, too; '': nobody else's.
    """

    pattern: str
    labels: dict[str, str]
    clip_id: str
    speaker: str
    text: Callable[[dict[str, str]], str | None]
    clips: int
    example: str
    people: str = ""


CORPORA = {
    # Cao et al. 2014, IEEE Trans. Affective Computing 5(4). One published file has the intensity X instead of XX.
    "crema_d": Naming(
        pattern=rf"(?P<speaker>1\d{{3}})_(?P<sentence>{'|'.join(CREMA_D_SENTENCES)})_"
        r"(?P<emotion>[A-Z]{3})_(?P<level>LO|MD|HI|XX?)",
        labels={"NEU": "neutral", "HAP": "happy", "SAD": "sad", "ANG": "angry", "FEA": "fearful", "DIS": "disgust"},
        clip_id="{speaker}_{sentence}_{emotion}_{level}",
        speaker="{speaker}",
        text=lambda groups: CREMA_D_SENTENCES[groups["sentence"]],
        clips=7442,
        example="1001_DFA_ANG_XX.wav",
    ),
    # Pichora-Fuller & Dupuis 2020, doi 10.5683/SP2/E8H2MF. Two speakers; a few published names say OA for OAF, and one
    # mirror numbers some of them: 0testYAF_gaze_ps39.
    "tess": Naming(
        pattern=r"(?P<number>\d+test)?(?P<speaker>[OY]A)F?_(?P<word>[a-z-]+)_(?P<emotion>[a-z]+)(?(number)\d+)",
        labels={
            "neutral": "neutral",
            "happy": "happy",
            "sad": "sad",
            "angry": "angry",
            "fear": "fearful",
            "disgust": "disgust",
            "ps": "surprised",
        },
        clip_id="{speaker}F_{word}_{emotion}",
        speaker="{speaker}F",
        text=lambda groups: f"Say the word {groups['word']}.",
        clips=2800,
        example="OAF_back_angry.wav",
    ),
    # Haq & Jackson 2009, AVSP. Flat (DC_a01.wav) or one folder a speaker (DC/a01.wav).
    "savee": Naming(
        pattern=r"(?P<speaker>DC|JE|JK|KL)[_/](?P<emotion>sa|su|[adfhn])(?P<number>\d\d)",
        labels={
            "n": "neutral",
            "h": "happy",
            "sa": "sad",
            "a": "angry",
            "f": "fearful",
            "d": "disgust",
            "su": "surprised",
        },
        clip_id="{speaker}_{emotion}{number}",
        speaker="{speaker}",
        text=lambda groups: None,
        clips=480,
        example="DC_a01.wav (or DC/a01.wav)",
    ),
    # Burkhardt et al. 2005, Interspeech. The letters are the German names: Wut, Ekel, Angst ...
    "emodb": Naming(
        pattern=rf"(?P<speaker>\d\d)(?P<sentence>{'|'.join(EMODB_SENTENCES)})(?P<emotion>[A-Z])(?P<version>[a-z])",
        labels={"N": "neutral", "F": "happy", "T": "sad", "W": "angry", "A": "fearful", "E": "disgust", "L": "bored"},
        clip_id="{speaker}{sentence}{emotion}{version}",
        speaker="{speaker}",
        text=lambda groups: EMODB_SENTENCES[groups["sentence"]],
        clips=535,
        example="03a01Fa.wav",
    ),
    # Costantini et al. 2014, LREC. Italian: disgusto, gioia, neutralità, paura, rabbia, sorpresa, tristezza.
    "emovo": Naming(
        pattern=r"(?P<emotion>dis|gio|neu|pau|rab|sor|tri)-(?P<speaker>[fm][123])-(?P<sentence>[bdln]\d)",
        labels={
            "neu": "neutral",
            "gio": "happy",
            "tri": "sad",
            "rab": "angry",
            "pau": "fearful",
            "dis": "disgust",
            "sor": "surprised",
        },
        clip_id="{emotion}-{speaker}-{sentence}",
        speaker="{speaker}",
        text=lambda groups: None,
        clips=588,
        example="dis-f1-b1.wav",
    ),
    # Latif et al. 2018, arXiv 1812.10411. Urdu, from television talk shows; 29 speakers are named in the files.
    "urdu": Naming(
        pattern=r"(?P<speaker>S[FM]\d+)_F(?P<file>\d+)_(?P<emotion>[AHNS])(?P<number>\d+)",
        labels={"N": "neutral", "H": "happy", "S": "sad", "A": "angry"},
        clip_id="{speaker}_F{file}_{emotion}{number}",
        speaker="{speaker}",
        text=lambda groups: None,
        clips=400,
        example="SM1_F1_A01.wav",
    ),
    # The songs of RAVDESS (see ravdess.py): 23 of its 24 actors, two sentences, no disgust and no surprise.
    "ravdess_song": Naming(
        pattern=r"03-02-(?P<emotion>0[1-6])-(?P<rest>0[12]-0[12]-0[12])-(?P<speaker>\d\d)",
        labels=dict(zip(("01", "02", "03", "04", "05", "06"), ravdess.LABELS, strict=False)),
        clip_id="Actor_{speaker}/03-02-{emotion}-{rest}-{speaker}",
        speaker="{speaker}",
        text=lambda groups: ravdess.STATEMENTS[groups["rest"][3:5]],
        clips=1012,
        example="03-02-01-01-01-01-01.wav",
        people="ravdess",
    ),
}


def load(name: str, folder: str, cache_dir: str) -> Corpus:
    """The corpus `name` of CORPORA from the recordings under `folder`, in whatever folders they are.

    Identical doubles count once. Recordings with other names are left out, with a warning that counts them; so is a
    number of clips other than the published one. Raises UserError when no file is named as the corpus names them.
    """
    del cache_dir  # all loaders have the same arguments
    naming = CORPORA[name]
    place = scan.existing_folder(folder, f"the folder of {name}'s recordings (named like {naming.example})")
    paths = scan.files(place)
    groups_of: dict[str, dict[str, str]] = {}
    named = []
    for path in paths:
        if groups := _groups(naming, path):
            clip_id = naming.clip_id.format(**groups)
            groups_of[clip_id] = groups
            named.append((clip_id, path))
    if not named:
        raise UserError(
            f"None of the {len(paths)} audio files in {place} has a name of {name}, such as {naming.example}."
        )
    path_of = scan.one_of_each(named)
    if len(paths) > len(named):
        others = sorted(set(paths) - {path for _, path in named})
        logging.warning(
            "%d audio files in %s are not named like %s and are left out, such as %s.",
            *(len(others), place, naming.example, others[0]),
        )
    if len(path_of) != naming.clips:
        logging.warning("%s in %s has %d clips; %d were published.", name, place, len(path_of), naming.clips)
    clips = (_clip(naming, clip_id, groups_of[clip_id], path_of[clip_id]) for clip_id in sorted(path_of))
    return Corpus(name, tuple(naming.labels.values()), tuple(clips), people=naming.people)


def _groups(naming: Naming, path: str) -> dict[str, str] | None:
    file = Path(path)
    match = re.search(rf"(?:^|/){naming.pattern}$", f"{file.parent.name}/{file.stem}")
    return match.groupdict() if match and match["emotion"] in naming.labels else None


def _clip(naming: Naming, clip_id: str, groups: dict[str, str], path: str) -> Clip:
    label = naming.labels[groups["emotion"]]
    return Clip(clip_id, label, naming.speaker.format(**groups), path, naming.text(groups))
