"""A trained model on recordings of another corpus: over the emotions that both have."""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import NoReturn

import numpy as np
from ml_collections import ConfigDict

from emoflax import corpora
from emoflax.corpora import joined
from emoflax.corpora.labels import EMOTION_OF
from emoflax.data import speakernorm
from emoflax.data.clip import Corpus
from emoflax.data.features import Features
from emoflax.data.splits import Split
from emoflax.errors import UserError
from emoflax.experiment import evaluate, seen
from emoflax.experiment.corpus import corpus_of
from emoflax.experiment.features import features_of
from emoflax.experiment.members import checkpoints_of
from emoflax.parallel import mesh as devices

# Fields that say which recordings are scored, and where what is computed of them goes; all others are the model's own.
_OF_THE_DATA = (
    "data.corpus", "data.dir", "data.root", "data.labels", "data.emotions", "data.speakers", "data.cache_dir",
    "data.resident", "precompute", "report", "log",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Transfer:
    """Scores of the models of one run on another corpus.

    Attributes:
      config: that of the models, with the other corpus in the place of theirs.
      features: of the other corpus, its clips under the model's labels; `features.corpus.labels` are the shared ones.
      split: all clips of shared emotions as test clips.
      predictions: one of each model, numbered as seeds; log-probabilities among the shared labels.
      notes: sentences for the report.
    """

    config: ConfigDict
    features: Features
    split: Split
    predictions: list[evaluate.Predictions]
    notes: tuple[str, ...]


def transfer(config: ConfigDict, run: pathlib.Path) -> Transfer:
    """Scores every clip of `config.data.corpus` whose emotion the models in `run` know.

    Args:
      config: of it, the fields that say which corpus, where the cache is, and how it is filled.
      run: a run folder with one or several models, or the folder of one of them.

    Raises:
      UserError: there is no model, it was trained on that corpus, or fewer than two emotions are shared.
    """
    mesh, folders = devices.all_devices(), checkpoints_of(run)
    made = [evaluate.restore(folder, mesh=mesh) for folder in folders]
    own = _config_on(config, made[0].config)
    _refuse_own_corpus(own, made[0].config, run)
    corpus, labels = corpus_of(own), tuple(made[0].description["labels"])
    other = _under_labels(corpus, labels)
    both = {clip.label for clip in other.clips} & set(labels)
    if len(both) < 2:
        raise UserError(
            f"corpus {corpus.name} ({', '.join(corpus.labels)}) and the model in {run} ({', '.join(labels)}) share "
            f"{len(both)} emotions; two are needed: --config.data.labels renames those of the corpus"
        )
    computed = features_of(own, corpus)
    features = Features(other, computed.shards, computed.own_scale)
    clips = features.readable(np.flatnonzero([clip.label in labels for clip in other.clips]))
    new = seen.unseen([trained.description for trained in made], corpus, clips, features.digests)
    keep = np.isin(labels, [other.clips[i].label for i in new.clips])
    if keep.sum() < 2:
        _refuse_seen(new, len(clips), run)
    clips = new.clips
    predictions = []
    for number, trained in enumerate(made):
        log_p = evaluate.log_probabilities(own, trained, features, clips, mesh)
        log_p = evaluate.among(log_p, np.tile(keep, (len(clips), 1)))[:, keep]
        about = (trained.description["epoch"], clips, log_p, trained.parameters, trained.description["clock_s"])
        predictions.append(evaluate.Predictions(number, 1, *about))
    shared = tuple(label for label, kept in zip(labels, keep, strict=True) if kept)
    named = dataclasses.replace(other, name=f"{made[0].description['corpus']} -> {corpus.name}", labels=shared)
    none, suffix = np.array([], int), speakernorm.suffix_of(own.split.protocol)
    split = Split(f"transfer{suffix}", 1, none, none, clips, shares_speakers=False)
    scored = Features(named, features.shards, features.own_scale)
    notes = (*_notes(folders, made[0], corpus, shared, len(clips)), *new.notes)
    return Transfer(own, scored, split, predictions, notes)


def _config_on(config: ConfigDict, trained: ConfigDict) -> ConfigDict:
    """The model's config, with the corpus and cache of the other."""
    own = trained.copy_and_resolve_references()
    for field in _OF_THE_DATA:
        group, _, name = field.partition(".")
        if name:
            own[group][name] = config[group][name]
        else:
            own[group] = config[group]
    return own


def _refuse_own_corpus(own: ConfigDict, trained: ConfigDict, run: pathlib.Path) -> None:
    both = _places(own) & _places(trained)
    if both:
        raise UserError(
            f"the model in {run} was trained on {', '.join(sorted(name for name, _ in both))} itself; set "
            "--config.data.corpus and --config.data.dir to another corpus, or leave out --checkpoint to score its own "
            "test clips"
        )


def _refuse_seen(new: seen.Unseen, clips: int, run: pathlib.Path) -> NoReturn:
    hint = "; name one model, RUN/seed0-fold1, to score the speakers that it was not trained on"
    raise UserError(
        f"of {clips} clips {len(new.clips)} are new to the model in {run}, and of fewer than two emotions: "
        f"{'; '.join(new.notes) or 'the others cannot be read'}{hint if new.speakers_alone else ''}"
    )


def _places(config: ConfigDict) -> set[tuple[str, str]]:
    """(Corpus, file) pairs; the file counts for manifests alone, since others are one corpus wherever they lie."""
    names = corpora.split_names(config.data.corpus)
    pairs = zip(names, joined.dirs_of(names, config.data.dir), strict=True)
    return {
        ("ravdess" if name == "auto" else name, str(pathlib.Path(place).resolve()) if name == "manifest" else "")
        for name, place in pairs
    }


def _under_labels(corpus: Corpus, labels: Sequence[str]) -> Corpus:
    """The corpus with the model's name of each emotion that it knows ('joy' is its 'happy')."""
    name_of = {EMOTION_OF.get(label, label): label for label in labels}
    clips = (
        dataclasses.replace(clip, label=name_of.get(EMOTION_OF.get(clip.label, clip.label), clip.label))
        for clip in corpus.clips
    )
    return dataclasses.replace(corpus, clips=tuple(clips), labels=tuple(labels))


def _notes(
    folders: Sequence[pathlib.Path], trained: evaluate.Trained, corpus: Corpus, shared: Sequence[str], clips: int
) -> tuple[str, ...]:
    there, left_out = trained.description, len(corpus.clips) - clips
    models = ", ".join(folder.parent.name for folder in folders)
    return (
        f"trained on {there['corpus']} ({there['protocol']}), scored on {corpus.name}: "
        f"{len(shared)} of the model's {len(there['labels'])} emotions; each of the models ({models}) counts as a seed",
        f"{left_out} of the {len(corpus.clips)} clips of {corpus.name} are left out: the model has no such emotion, or "
        "they cannot be read, or it knows them" if left_out else "",
    )  # fmt: skip
