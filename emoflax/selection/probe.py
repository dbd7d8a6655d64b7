"""Linear probe: how well one layer's states tell the emotion, everything chosen inside the training speakers.

For each fold, layer and strength of regularisation are those with the best UAR on training speakers who are left out
one at a time; the test clips are scored once, by a classifier fitted to all training clips with that choice.

The classifier is ridge regression (`models.ridge`) of every class against the rest on targets of -1 and 1, with an
intercept that is not penalised, standardised features and balanced class weights: scikit-learn's `RidgeClassifier`.
Logistic regression would have to be fitted anew for every fold, layer, strength and left-out speaker, 109,000 times for
24 folds of 33 layers; least squares gives all of these from one inverse per layer and strength. Algebra removes what is
left out exactly: neither its features nor its labels are in the prediction but for rounding.

What that needs is one scale of the features for all folds, yet a test speaker must not have a say in it. So the folds
are dealt into two halves, and each half is standardised and weighted by the clips that all of its folds train on.

Shape letters: N clips, L layers, D width, R strengths, C classes, G inner speakers, S clips of one of them, T clips
outside a fold's training set.
"""

import concurrent.futures
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import threadpoolctl

from emoflax.data.features import Features
from emoflax.data.splits import Split
from emoflax.errors import UserError
from emoflax.experiment.evaluate import Predictions
from emoflax.models import ridge as ridge_regression
from emoflax.models.ridge import Groups
from emoflax.parallel.workers import usable_cores
from emoflax.reporting import metrics


@dataclasses.dataclass(frozen=True)
class Fold:
    """Positions of the clips that are trained on and of those that are scored; other clips play no part."""

    train: np.ndarray
    test: np.ndarray


@dataclasses.dataclass(frozen=True)
class Choice:
    """What one fold came to: which layer (0: before the first block), which ridge, and why.

    `inner_uar` [layers, ridges] on left-out training speakers; `scores` [test clips, classes], one against the rest.
    """

    layer: int
    ridge: float
    inner_uar: np.ndarray
    scores: np.ndarray


def predict(
    features: Features, splits: Sequence[Split], ridges: Sequence[float]
) -> tuple[list[Predictions], list[Choice]]:
    """Probes what `precompute.states.layer_states` made.

    The softmax of scores stands for probabilities, but nobody calibrated it.
    Dev clips, where a split has any, are trained on: what they would choose is chosen on left-out speakers.
    """
    corpus, shards = features.corpus, features.shards["states"]
    clips = features.readable(np.arange(len(corpus.clips)))
    label_N = np.array([corpus.labels.index(corpus.clips[i].label) for i in clips])
    speaker_N = np.array([corpus.clips[i].speaker for i in clips])
    parts = [(np.union1d(split.train, split.dev), split.test) for split in splits]
    folds = [Fold(*(np.flatnonzero(np.isin(clips, part)) for part in both)) for both in parts]

    def states_of(layer: int) -> np.ndarray:
        return np.stack([features.get("states", i)[0, layer, 0] for i in clips])

    choices = probe(states_of, shards[0].shape[1], label_N, len(corpus.labels), speaker_N, folds, ridges)
    parameters = len(corpus.labels) * (1 + states_of(0).shape[1])
    predictions = [
        Predictions(0, split.fold, 0, clips[fold.test], _log_softmax(choice.scores), parameters, 0.0)
        for split, fold, choice in zip(splits, folds, choices, strict=True)
    ]
    return predictions, choices


def note(choices: Sequence[Choice]) -> str:
    """Which layers and ridges were chosen, for the report."""
    counts = Counter((choice.layer, choice.ridge) for choice in choices)
    told = ", ".join(f"layer {layer} with ridge {ridge:g} ({n} folds)" for (layer, ridge), n in counts.most_common())
    layers, ridges = choices[0].inner_uar.shape
    return f"chosen among {layers} layers x {ridges} ridges on left-out training speakers, fold by fold: {told}"


def _log_softmax(scores: np.ndarray) -> np.ndarray:
    return scores - np.log(np.exp(scores).sum(1, keepdims=True))


def probe(
    states_of: Callable[[int], np.ndarray],
    layers: int,
    label_N: np.ndarray,
    classes: int,
    speaker_N: np.ndarray,
    folds: Sequence[Fold],
    ridges: Sequence[float],
) -> list[Choice]:
    """Chooses and scores, for every fold.

    Args:
      states_of: layer -> states [clips, width].
      label_N: class of each clip, 0 to classes - 1.
      classes: C.
      speaker_N: name of each clip's speaker.
      folds: which clips are trained on and which are scored.
      ridges: penalties to choose from, as multiples of the width; of equals, the largest ridge, then the lowest layer.

    Raises:
      UserError: no positive penalty, or a fold that trains on a single speaker.
    """
    ridges = sorted(ridges, reverse=True)
    if not ridges or ridges[-1] <= 0:
        raise UserError("config.probe.ridges must hold one or more numbers above 0")
    for fold in folds:
        if len(np.unique(speaker_N[fold.train])) < 2:
            raise UserError("a probe is chosen on left-out training speakers, so every fold needs two of them or more")

    target_NxC = np.where(label_N[:, None] == np.arange(classes)[None], 1.0, -1.0)
    blocks = [_blocks(fold, speaker_N) for fold in folds]

    def of_layer(layer: int) -> list[list[tuple[float, np.ndarray]]]:
        return _probe_layer(states_of(layer), target_NxC, folds, blocks, ridges)

    # One thread per layer beats threads inside of LAPACK, whose matrices are small here.
    with threadpoolctl.threadpool_limits(1), concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(of_layer, range(layers)))
    return [_choose([of[number] for of in found], ridges) for number in range(len(folds))]


def _choose(found: list[list[tuple[float, np.ndarray]]], ridges: Sequence[float]) -> Choice:
    """found: [layers][ridges] of (inner UAR, test scores)."""
    inner_LxR = np.array([[uar for uar, _ in of_layer] for of_layer in found])
    ridge, layer = np.unravel_index(inner_LxR.T.argmax(), inner_LxR.T.shape)
    return Choice(int(layer), float(ridges[ridge]), inner_LxR, found[layer][ridge][1])


def halves(folds: Sequence[Fold]) -> list[tuple[range, np.ndarray]]:
    """(numbers of the folds, clips that all of them train on) of each half; a single fold is a half of its own."""
    middle = -(-len(folds) // 2)
    parts = [part for part in (range(middle), range(middle, len(folds))) if part]
    return [(part, _shared([folds[number].train for number in part])) for part in parts]


def _shared(trains: Sequence[np.ndarray]) -> np.ndarray:
    shared = trains[0]
    for train in trains[1:]:
        shared = np.intersect1d(shared, train)
    if not len(shared):
        raise UserError("the folds share no training clip, so their features cannot be standardised together")
    return shared


def standardise(states_NxD: np.ndarray, clips: np.ndarray) -> np.ndarray:
    """(states - mean) / deviation, float64, by mean and deviation of those clips; a constant is only shifted."""
    states = np.asarray(states_NxD, np.float64)
    mean, std = states[clips].mean(0), states[clips].std(0)
    return (states - mean[None]) / np.where(std > 0, std, 1.0)[None]


def _probe_layer(
    states_NxD: np.ndarray,
    target_NxC: np.ndarray,
    folds: Sequence[Fold],
    blocks: Sequence["_Blocks"],
    ridges: Sequence[float],
) -> list[list[tuple[float, np.ndarray]]]:
    """[folds][ridges] of (inner UAR, test scores)."""
    found: list[list[tuple[float, np.ndarray]]] = [[] for _ in folds]
    for numbers, shared in halves(folds):
        features = standardise(states_NxD, shared)
        kernel_NxN = features @ features.T / features.shape[1]
        weight_N = ridge_regression.balance(target_NxC.argmax(1), target_NxC.shape[1], shared)
        for ridge in ridges:
            m_NxN = ridge_regression.inverse(kernel_NxN, ridge / weight_N, intercept=True)
            my_NxC = m_NxN @ target_NxC
            for number in numbers:
                found[number].append(_left_out(m_NxN, my_NxC, target_NxC, blocks[number]))
    return found


def _left_out(
    m_NxN: np.ndarray, my_NxC: np.ndarray, target_NxC: np.ndarray, blocks: "_Blocks"
) -> tuple[float, np.ndarray]:
    """(UAR on the training speakers, each predicted without itself; scores [test, classes]), for one fold."""
    outside, place_GxS, there_GxS = blocks.outside, blocks.speakers.place_GxS, blocks.speakers.there_GxS
    rows_TxN = m_NxN[outside]
    solved = np.linalg.solve(rows_TxN[:, outside], np.concatenate([rows_TxN, my_NxC[outside]], axis=1))
    b_TxN, bmy_TxC = solved[:, : len(m_NxN)], solved[:, len(m_NxN) :]
    scores = (target_NxC[outside] - bmy_TxC)[blocks.test]

    rows_GxSxT = rows_TxN.T[place_GxS]
    # M and M y once the test clips are out.
    m_GxSxS = m_NxN[place_GxS[:, :, None], place_GxS[:, None]] - rows_GxSxT @ b_TxN.T[place_GxS].swapaxes(1, 2)
    my_GxSxC = my_NxC[place_GxS] - rows_GxSxT @ bmy_TxC
    predicted = ridge_regression.left_out(m_GxSxS, my_GxSxC, target_NxC[place_GxS], there_GxS).argmax(-1)
    label = target_NxC[place_GxS[there_GxS]].argmax(1)
    matrix = metrics.confusion(label, predicted[there_GxS], target_NxC.shape[1])
    return float(metrics.scores(matrix)["uar"]), scores


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Which clips of a fold are left out together.

    `outside` [T] are the clips that are not trained on, `test` the places of the scored ones among them; `speakers` are
    the training clips of each speaker.
    """

    outside: np.ndarray
    test: np.ndarray
    speakers: Groups


def _blocks(fold: Fold, speaker_N: np.ndarray) -> _Blocks:
    outside = np.setdiff1d(np.arange(len(speaker_N)), fold.train)
    own = speaker_N[fold.train]
    groups = [fold.train[own == speaker] for speaker in np.unique(own)]
    return _Blocks(outside, np.searchsorted(outside, fold.test), Groups.of(groups))
