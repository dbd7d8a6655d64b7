"""MELD as a text corpus: 13,708 utterances from a television series, 7 emotions (Poria et al. 2019, ACL, P19-1050).

Text only: `data.dir` holds the published train_sent_emo.csv, dev_sent_emo.csv and test_sent_emo.csv, whose split shares
speakers. The text is read as published, wrongly decoded characters included; `features.text` normalises it.
"""

from pathlib import Path

from emoflax.corpora import scan, table
from emoflax.data.clip import Clip, Corpus
from emoflax.errors import UserError

LABELS = ("neutral", "joy", "surprise", "anger", "sadness", "disgust", "fear")
_COLUMNS = ("utterance", "speaker", "emotion", "dialogue_id", "utterance_id")


def load(folder: str, cache_dir: str) -> Corpus:
    """Clips without audio, with text and split.

    Raises:
      UserError: a file or a column is missing, or a cell is not as published.
    """
    del cache_dir  # all loaders have the same arguments
    place = scan.existing_folder(folder, "the folder with MELD's train_, dev_ and test_sent_emo.csv")
    paths = {split: place / f"{split}_sent_emo.csv" for split in ("train", "dev", "test")}
    if missing := [path.name for path in paths.values() if not path.is_file()]:
        raise UserError(f"{place} lacks {', '.join(missing)} of MELD.")
    clips = [clip for split, path in paths.items() for clip in _clips(split, path)]
    return Corpus("meld", LABELS, tuple(sorted(clips, key=lambda clip: clip.id)))


def _clips(split: str, path: Path) -> list[Clip]:
    clips: dict[str, Clip] = {}
    for row in table.read(path):
        if lacking := [column for column in _COLUMNS if not row.cells.get(column)]:
            raise UserError(f"{path} line {row.line} has no {lacking[0]}; every utterance needs {', '.join(_COLUMNS)}.")
        text, speaker, emotion, dialogue, utterance = (row.cells[column] for column in _COLUMNS)
        if emotion not in LABELS:
            raise UserError(f"{path} line {row.line} has the emotion '{emotion}'; MELD's are {', '.join(LABELS)}.")
        clip_id = f"{split}/dia{dialogue}_utt{utterance}"
        if clip_id in clips:
            raise UserError(f"{path} line {row.line} contains {clip_id} a second time.")
        clips[clip_id] = Clip(clip_id, emotion, speaker, text=text, split=split)
    return list(clips.values())
