"""What is known of a finished run, for its report and for the ledger."""

import datetime
import shlex
import sys

import numpy as np
from ml_collections import ConfigDict

from emoflax.data.clip import Corpus
from emoflax.data.features import Features
from emoflax.data.splits import Split
from emoflax.errors import NotInstalled
from emoflax.experiment import evaluate
from emoflax.experiment.model import pretrained_encoders, takes_words
from emoflax.reporting import ledger, report


def facts_of(
    config: ConfigDict,
    features: Features,
    split: Split,
    predictions: list[evaluate.Predictions],
    seconds: float,
    commit: str,
) -> report.Facts:
    """Of the test clips that were predicted.

    Args:
      seconds, commit: that it took, and of the code that ran.
    """
    corpus = features.corpus
    tested = {int(position) for p in predictions for position in p.clips}
    return report.Facts(
        config=config.name,
        corpus=corpus.name,
        notice=corpus.notice,
        protocol=split.protocol,
        protocol_note=split.note,
        folds=tuple(sorted({p.fold for p in predictions})),
        seeds=tuple(sorted({p.seed for p in predictions})),
        clips=len(tested),
        pretrained=bool(pretrained_encoders(config)),
        speakers=len({corpus.clips[position].speaker for position in tested} - {""}),
        parameters=max(p.parameters for p in predictions),
        seconds=seconds,
        command=command(),
        commit=commit,
        machine=ledger.machine(),
        date=datetime.date.today().isoformat(),
        reachable=_reachable(corpus),
        text_check=_text_check(config, features, split) if takes_words(config) and len(split.train) else "",
        word_errors=word_errors(features, tested) if takes_words(config) else None,
    )


def command() -> str:
    """What was typed. The installed command puts a path within the package in main.py's place, which nobody typed."""
    typed = sys.argv[0] in sys.orig_argv
    return shlex.join([*(["python", sys.argv[0]] if typed else ["emoflax"]), *sys.argv[1:]])


def _reachable(corpus: Corpus) -> str:
    """The best score that the built-in corpus allows, which is far from 100 % for sound and for words alone."""
    from emoflax.corpora import synthetic

    if not corpus.notice.endswith(synthetic.NOTICE) or not set(corpus.labels) <= set(synthetic.LABELS):
        return ""
    best = {name: f"{100 * share:.0f} %" for name, share in synthetic.reachable(corpus.labels).items()}
    return (
        "these voices are made so that several emotions share a manner of speaking, and others a topic: the sound can "
        f"reach {best['sound']} UAR at best, the words {best['words']}, both together {best['both']}"
    )


def word_errors(features: Features, tested: set[int]) -> tuple[int, int] | None:
    """(Errors in the transcripts of those clips, words of their reference text); None where they cannot be compared."""
    counts = features.shards["tokens"].manifest.get("word_errors", {})  # shards of older builds have none
    found = [counts[id] for position in tested if (id := features.corpus.clips[position].id) in counts]
    wrong, words = (sum(column) for column in zip(*found, strict=True)) if found else (0, 0)
    return (wrong, words) if words else None


def _text_check(config: ConfigDict, features: Features, split: Split) -> str:
    """How much the words that the model saw tell about the label: a bad score can be the words' fault."""
    try:
        from emoflax.reporting import text_check as check  # imports scikit-learn
    except NotInstalled as error:
        return str(error)
    clips = features.readable(split.train)
    lexicon = np.array([*features.shards["tokens"].manifest["lexicon"], ""], object)
    texts = [" ".join(lexicon[np.asarray(features.get("tokens", i))]) for i in clips]
    members = [features.corpus.clips[i] for i in clips]
    found = check.label_information(texts, [clip.label for clip in members], [clip.speaker for clip in members])
    return check.sentence(found)


def ledger_facts(facts: report.Facts) -> dict:
    return {
        "config": facts.config,
        "corpus": facts.corpus,
        "protocol": facts.protocol,
        "seeds": list(facts.seeds),
        "ensemble": facts.ensemble,
        "pretrained": facts.pretrained,
        "command": facts.command,
        "minutes": round(facts.seconds / 60, 2),
        "commit": facts.commit,
        "machine": facts.machine,
        "date": facts.date,
    }
