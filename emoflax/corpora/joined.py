"""Several corpora as one, and a choice of a corpus's emotions and speakers."""

import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence

from emoflax.corpora import labels as emotion_names
from emoflax.data.clip import Clip, Corpus
from emoflax.errors import UserError

_LONGEST_NAME = 100  # of a joined corpus: it is part of folder names


def dirs_of(names: Sequence[str], dirs: str) -> list[str]:
    """Of each corpus, where it is: `config.data.dir` as it is for one, with a comma between two for several.

    Raises:
      UserError: there are not as many places as corpora.
    """
    if len(names) == 1:
        return [dirs]
    places = [place.strip() for place in dirs.split(",")] if dirs else [""] * len(names)
    if len(places) != len(names):
        raise UserError(
            f"--config.data.corpus names {len(names)} corpora ({', '.join(names)}) and --config.data.dir "
            f"{len(places)} places ({dirs}): give one each, in the same order, with commas between them (nothing "
            "between two commas for a corpus that is downloaded or generated)"
        )
    return places


def join(corpora: Sequence[Corpus]) -> Corpus:
    """One corpus of the clips of all; of a single one, that one.

    Ids begin with the corpus's name, and so do speakers ('tess:OAF'), but those of corpora of the same people. Labels
    that name one emotion ('joy', 'happy') become one; their order is that of their first corpus.
    """
    if len(corpora) == 1:
        return corpora[0]
    sources: dict[str, Corpus] = {}
    for corpus in corpora:
        numbered = (f"{corpus.name}-{number}" for number in itertools.count(2))
        name = next(name for name in itertools.chain([corpus.name], numbered) if name not in sources)
        sources[name] = dataclasses.replace(corpus, name=name) if name != corpus.name else corpus
    clips = [_renamed(clip, source) for source in sources.values() for clip in source.clips]
    return Corpus(
        name=_short("+".join(sources)),
        labels=tuple(dict.fromkeys(_canonical(label) for source in sources.values() for label in source.labels)),
        clips=tuple(sorted(clips, key=lambda clip: clip.id)),
        notice="; ".join(source.notice for source in sources.values() if source.notice),
        intelligible=all(source.intelligible for source in sources.values()),
        sources=tuple(sources.values()),
    )


def _renamed(clip: Clip, source: Corpus) -> Clip:
    return dataclasses.replace(
        clip,
        id=f"{source.name}/{clip.id}",
        label=_canonical(clip.label),
        speaker=f"{source.people or source.name}:{clip.speaker}",
        corpus=source.name,
    )


def _canonical(label: str) -> str:
    return emotion_names.EMOTION_OF.get(label, label)


def choose(
    corpus: Corpus, renamed: Mapping[str, str | None], emotions: Sequence[str], speakers: Sequence[str]
) -> Corpus:
    """The clips of some emotions and some speakers, under a name that says so.

    Args:
      renamed: label -> the label to write in its place, or None to leave its clips out.
      emotions: labels, after that, whose clips are kept; none: all.
      speakers: whose clips are kept; none: all.

    Raises:
      UserError: a name that the corpus does not have, or fewer than two emotions are left.
    """
    new_of: dict[str, str | None] = {label: label for label in corpus.labels}
    renamed = {old: new for old, new in renamed.items() if new != old}
    for old, new in renamed.items():
        new_of[_meant(old, corpus.labels, corpus, "config.data.labels")] = new and emotion_names.normalise(new)
    after = tuple(dict.fromkeys(label for label in new_of.values() if label is not None))
    kept = {_meant(emotion, after, corpus, "config.data.emotions") for emotion in emotions} or set(after)
    if unknown := sorted(set(speakers) - set(corpus.speakers)):
        raise UserError(
            f"config.data.speakers: corpus {corpus.name} has no speaker {', '.join(unknown)}; it has "
            f"{', '.join(corpus.speakers)}"
        )
    suffix = _suffix(renamed, emotions, speakers)
    if not suffix:
        return corpus
    clips = tuple(
        dataclasses.replace(clip, label=new_of[clip.label])
        for clip in corpus.clips
        if new_of[clip.label] in kept and (not speakers or clip.speaker in speakers)
    )
    left = sorted({clip.label for clip in clips})
    if len(left) < 2:
        raise UserError(
            f"config.data.labels, .emotions and .speakers leave {len(clips)} clips of {', '.join(left) or 'no emotion'}"
            f" in corpus {corpus.name}; a classifier needs two emotions or more"
        )
    return dataclasses.replace(
        corpus,
        name=_short(corpus.name + suffix),
        labels=tuple(label for label in after if label in kept),
        clips=clips,
        sources=corpus.sources or (corpus,),
    )


def _meant(name: str, labels: Sequence[str], corpus: Corpus, field: str) -> str:
    """The label of that name, or the one that names the same emotion ('boredom' for 'bored')."""
    alike = [label for label in labels if _canonical(label) == _canonical(emotion_names.normalise(name))]
    if name in labels or alike:
        return name if name in labels else alike[0]
    raise UserError(f"{field}: corpus {corpus.name} has no emotion {name!r}; it has {', '.join(labels)}")


def _suffix(renamed: Mapping[str, str | None], emotions: Sequence[str], speakers: Sequence[str]) -> str:
    """What a name says of a choice: results on other classes and clips must not share a table."""
    parts = [f"{old}={new}" if new else f"without-{old}" for old, new in renamed.items()]
    parts += [f"only-{'-'.join(emotions)}"] if emotions else []
    parts += [f"{len(speakers)}speakers-{_digest(' '.join(sorted(speakers)))}"] if speakers else []
    return "".join(f"-{part.replace(' ', '_')}" for part in parts)


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 9]}-{_digest(name)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:8]
