"""Log-probabilities of dev clips, of which none comes from an epoch that the clip itself helped to choose.

The epoch that is used is the best of many on the dev clips, so it does better there than on new speakers, and a
temperature fitted on its log-probabilities of these clips is too low. Cross-fitting (Chernozhukov et al. 2018) takes
each group's clips from the epoch that the other groups choose. Shape letters: N clips, C classes, G groups, S speakers.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from emoflax.reporting import metrics

_GROUPS = 8  # at most
_LARGEST = 2 / 3  # share of the clips that one speaker may have and be a group: the others are left to choose


@dataclasses.dataclass(frozen=True)
class CrossFitted:
    """What is kept of all epochs so far.

    Attributes:
      group_N: of each clip, from 0 on.
      score_G: the best score that the clips of all groups but this one had.
      log_p_NxC: of each clip, in the epoch of its group's `score_G`; of equal epochs the latest, as a checkpoint is
        chosen. A single group has no others, and has those of the last epoch.
    """

    group_N: np.ndarray
    score_G: np.ndarray
    log_p_NxC: np.ndarray

    @classmethod
    def before_training(cls, group_N: np.ndarray, classes: int) -> "CrossFitted":
        """No epoch yet; every score is higher than that."""
        return cls(group_N, np.full(group_N.max() + 1, -1.0), np.zeros((len(group_N), classes)))

    @classmethod
    def restored(cls, saved: Mapping[str, Any]) -> "CrossFitted":
        """What `saved` returned, bit for bit, after a way through JSON."""
        return cls(np.array(saved["group"]), np.array(saved["score"]), np.array(saved["log_p"]))

    def saved(self) -> dict[str, Any]:
        return {"group": self.group_N.tolist(), "score": self.score_G.tolist(), "log_p": self.log_p_NxC.tolist()}

    def after(self, log_p_NxC: np.ndarray, label_N: np.ndarray, metric: str) -> "CrossFitted":
        """With one more epoch; `metric`: one of `metrics.METRICS`, by which the epoch is chosen."""
        own_GxCxC = metrics.speaker_confusions(label_N, log_p_NxC.argmax(1), self.group_N, log_p_NxC.shape[1])
        score_G = metrics.scores(own_GxCxC.sum(0) - own_GxCxC)[metric]
        better_G = score_G >= self.score_G
        taken_NxC = np.where(better_G[self.group_N][:, None], log_p_NxC, self.log_p_NxC)
        return CrossFitted(self.group_N, np.where(better_G, score_G, self.score_G), taken_NxC)


def groups(speaker_N: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """[N] number of each clip's group: whole speakers, 8 groups of about equal size where there are more.

    Where there is one speaker alone, or one with most of the clips: clips, every label spread evenly.
    """
    _, speaker_N, clips_S = np.unique(speaker_N, return_inverse=True, return_counts=True)
    if clips_S.max() > _LARGEST * len(speaker_N):
        group_N = np.empty(len(label_N), int)
        group_N[np.argsort(label_N, kind="stable")] = np.arange(len(label_N)) % _GROUPS
        return group_N
    group_S, clips_G = np.empty(len(clips_S), int), np.zeros(min(_GROUPS, len(clips_S)), int)
    for speaker in np.argsort(-clips_S, kind="stable"):
        group_S[speaker] = clips_G.argmin()
        clips_G[group_S[speaker]] += clips_S[speaker]
    return group_S[speaker_N]
