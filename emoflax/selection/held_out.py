"""What candidates predict of clips that trained none of them: what ensemble weights and temperatures are fitted to."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from emoflax.data.clip import Corpus
from emoflax.experiment.evaluate import Predictions
from emoflax.selection import pool


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Log-probabilities [candidates, clips, classes], and the clips' labels and speakers ('' where unknown)."""

    candidates: tuple[str, ...]
    log_p_MxNxC: np.ndarray
    label_N: np.ndarray
    speaker_N: np.ndarray

    def weights(self) -> dict[str, float]:
        """Candidate -> weight in the ensemble, of those that are in it."""
        found = pool.sparse_weights(self.log_p_MxNxC, self.label_N, self.speaker_N)
        return {name: float(weight) for name, weight in zip(self.candidates, found, strict=True) if weight}


def of(dev: Mapping[str, Sequence[Predictions]], corpus: Corpus) -> HeldOut:
    """From predictions of inner validation clips, by candidate and seed.

    Beside these clips it has, where all candidates are closed-form, the clips that trained them, each predicted by the
    fit without its speaker: four times as many, so that weights hardly change from fold to fold.
    """
    log_p, clips = [[mean_log_p(seeds) for seeds in dev.values()]], [next(iter(dev.values()))[0].clips]
    first = [seeds[0] for seeds in dev.values()]
    rows = [{clip: row for row, clip in enumerate(one.left_out_clips)} for one in first]
    if shared := sorted(set.intersection(*map(set, rows))):
        log_p.append([one.left_out_log_p[[row[clip] for clip in shared]] for one, row in zip(first, rows, strict=True)])
        clips.append(np.array(shared))
    clip_N = np.concatenate(clips)
    speaker_N = np.array([corpus.clips[i].speaker or "" for i in clip_N])
    return HeldOut(tuple(dev), np.concatenate(log_p, axis=1), np.array(corpus.label_numbers(clip_N)), speaker_N)


def joined(parts: Sequence[HeldOut]) -> HeldOut:
    """Of several folds or seeds."""
    log_p, label, speaker = zip(*((part.log_p_MxNxC, part.label_N, part.speaker_N) for part in parts), strict=True)
    return HeldOut(parts[0].candidates, np.concatenate(log_p, 1), np.concatenate(label), np.concatenate(speaker))


def mean_log_p(seeds: Sequence[Predictions]) -> np.ndarray:
    return np.mean([each.log_p for each in seeds], axis=0)
