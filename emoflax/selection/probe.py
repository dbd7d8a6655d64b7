"""Linear probe: how well one layer's states tell the emotion, everything chosen inside the training speakers.

For each fold, layer and strength of regularisation are those with the best UAR on training speakers who are left out
one at a time. A closed-form model of that layer (`config.model.functionals='states'`) is then fitted to all training
clips and kept like any other; it scores the test clips once.

The classifier that chooses is ridge regression (`models.ridge`) of every class against the rest on targets of -1 and 1,
with an intercept that is not penalised, standardised features and balanced class weights: scikit-learn's
`RidgeClassifier`.
Logistic regression would have to be fitted anew for every fold, layer, strength and left-out speaker, 109,000 times for
24 folds of 33 layers; least squares gives all of these from one inverse per layer and strength. Algebra removes what is
left out exactly: neither its features nor its labels are in the prediction but for rounding.

What that needs is one scale of the features for all folds, yet a test speaker must not have a say in it. So the folds
are dealt into two halves, and each half is standardised and weighted by the clips that all of its folds train on.

Shape letters: N clips, L layers, D width, R strengths, C classes, G inner speakers, S clips of one of them, T clips
outside a fold's training set.
"""

import concurrent.futures
import copy
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import threadpoolctl
from ml_collections import ConfigDict

from emoflax.data.features import Features
from emoflax.data.splits import Split
from emoflax.errors import UserError
from emoflax.experiment import closed_form
from emoflax.models import ridge as ridge_regression
from emoflax.models.ridge import Groups
from emoflax.parallel.workers import usable_cores
from emoflax.reporting import metrics


@dataclasses.dataclass(frozen=True)
class Choice:
    """What one fold came to: which layer (0: before the first block), which ridge, and why.

    `inner_uar` [layers, ridges] on left-out training speakers.
    """

    layer: int
    ridge: float
    inner_uar: np.ndarray


def with_layer(config: ConfigDict, layer: int) -> ConfigDict:
    """The config of the model that is kept."""
    config = copy.deepcopy(config)
    config.states.layers = (layer,)
    return config


def choose(config: ConfigDict, features: Features, splits: Sequence[Split]) -> list[Choice]:
    """One choice per split, by training clips alone.

    Raises:
      UserError: the model is not one of states, at the clips' own speed alone, of all layers.
    """
    if config.model.functionals != "states" or tuple(config.functionals.speeds) != (1.0,) or config.states.layers:
        raise UserError(
            "a probe chooses the layer of a model of states: set config.model.functionals='states', "
            "config.functionals.speeds=(1.0,) and config.states.layers=(), as configs/probe.py does"
        )
    corpus, shards = features.corpus, features.shards["states"]
    clips = features.readable(np.arange(len(corpus.clips)))
    label_N = np.array(features.corpus.label_numbers(clips))
    speaker_N = np.array([corpus.clips[i].speaker for i in clips])
    trains = [np.flatnonzero(np.isin(clips, split.train)) for split in splits]

    def states_of(layer: int) -> np.ndarray:
        chosen = with_layer(config, layer)
        return np.concatenate([closed_form.chosen_states(chosen, features.get("states", i)) for i in clips])

    return probe(states_of, shards[0].shape[1], label_N, len(corpus.labels), speaker_N, trains, config.probe.ridges)


def note(choices: Sequence[Choice]) -> str:
    """Which layers and ridges were chosen, for the report."""
    counts = Counter((choice.layer, choice.ridge) for choice in choices)
    told = ", ".join(f"layer {layer} with ridge {ridge:g} ({n} folds)" for (layer, ridge), n in counts.most_common())
    layers, ridges = choices[0].inner_uar.shape
    return f"chosen among {layers} layers x {ridges} ridges on left-out training speakers, fold by fold: {told}"


def probe(
    states_of: Callable[[int], np.ndarray],
    layers: int,
    label_N: np.ndarray,
    classes: int,
    speaker_N: np.ndarray,
    trains: Sequence[np.ndarray],
    ridges: Sequence[float],
) -> list[Choice]:
    """Chooses for every fold.

    Args:
      states_of: layer -> states [clips, width].
      label_N: class of each clip, 0 to classes - 1.
      classes: C.
      speaker_N: name of each clip's speaker.
      trains: of each fold, the clips that are trained on.
      ridges: penalties to choose from, as multiples of the width; of equals, the largest ridge, then the lowest layer.

    Raises:
      UserError: no positive penalty, or a fold that trains on a single speaker.
    """
    ridges = sorted(ridges, reverse=True)
    if not ridges or ridges[-1] <= 0:
        raise UserError("config.probe.ridges must hold one or more numbers above 0")
    for train in trains:
        if len(np.unique(speaker_N[train])) < 2:
            raise UserError("a probe is chosen on left-out training speakers, so every fold needs two of them or more")

    target_NxC = np.where(label_N[:, None] == np.arange(classes)[None], 1.0, -1.0)
    blocks = [_blocks(train, speaker_N) for train in trains]

    def of_layer(layer: int) -> list[list[float]]:
        return _probe_layer(states_of(layer), target_NxC, trains, blocks, ridges)

    # One thread per layer beats threads inside of LAPACK, whose matrices are small here.
    with threadpoolctl.threadpool_limits(1), concurrent.futures.ThreadPoolExecutor(usable_cores()) as pool:
        found = list(pool.map(of_layer, range(layers)))
    return [_choose([of[number] for of in found], ridges) for number in range(len(trains))]


def _choose(found: list[list[float]], ridges: Sequence[float]) -> Choice:
    """found: [layers][ridges] of inner UAR."""
    inner_LxR = np.array(found)
    ridge, layer = np.unravel_index(inner_LxR.T.argmax(), inner_LxR.T.shape)
    return Choice(int(layer), float(ridges[ridge]), inner_LxR)


def halves(trains: Sequence[np.ndarray]) -> list[tuple[range, np.ndarray]]:
    """(numbers of the folds, clips that all of them train on) of each half; a single fold is a half of its own."""
    middle = -(-len(trains) // 2)
    parts = [part for part in (range(middle), range(middle, len(trains))) if part]
    return [(part, _shared([trains[number] for number in part])) for part in parts]


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
    trains: Sequence[np.ndarray],
    blocks: Sequence["_Blocks"],
    ridges: Sequence[float],
) -> list[list[float]]:
    """[folds][ridges] of inner UAR."""
    found: list[list[float]] = [[] for _ in trains]
    for numbers, shared in halves(trains):
        features = standardise(states_NxD, shared)
        kernel_NxN = features @ features.T / features.shape[1]
        weight_N = ridge_regression.balance(target_NxC.argmax(1), target_NxC.shape[1], shared)
        for ridge in ridges:
            m_NxN = ridge_regression.inverse(kernel_NxN, ridge / weight_N, intercept=True)
            my_NxC = m_NxN @ target_NxC
            for number in numbers:
                found[number].append(_left_out(m_NxN, my_NxC, target_NxC, blocks[number]))
    return found


def _left_out(m_NxN: np.ndarray, my_NxC: np.ndarray, target_NxC: np.ndarray, blocks: "_Blocks") -> float:
    """UAR on the training speakers of one fold, each predicted without itself."""
    outside, place_GxS, there_GxS = blocks.outside, blocks.speakers.place_GxS, blocks.speakers.there_GxS
    rows_TxN = m_NxN[outside]
    solved = np.linalg.solve(rows_TxN[:, outside], np.concatenate([rows_TxN, my_NxC[outside]], axis=1))
    b_TxN, bmy_TxC = solved[:, : len(m_NxN)], solved[:, len(m_NxN) :]

    rows_GxSxT = rows_TxN.T[place_GxS]
    # M and M y once the test clips are out.
    m_GxSxS = m_NxN[place_GxS[:, :, None], place_GxS[:, None]] - rows_GxSxT @ b_TxN.T[place_GxS].swapaxes(1, 2)
    my_GxSxC = my_NxC[place_GxS] - rows_GxSxT @ bmy_TxC
    predicted = ridge_regression.left_out(m_GxSxS, my_GxSxC, target_NxC[place_GxS], there_GxS).argmax(-1)
    label = target_NxC[place_GxS[there_GxS]].argmax(1)
    matrix = metrics.confusion(label, predicted[there_GxS], target_NxC.shape[1])
    return float(metrics.scores(matrix)["uar"])


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Which clips of a fold are left out together.

    `outside` [T] are the clips that are not trained on; `speakers` are the training clips of each speaker.
    """

    outside: np.ndarray
    speakers: Groups


def _blocks(train: np.ndarray, speaker_N: np.ndarray) -> _Blocks:
    groups = [train[speaker_N[train] == speaker] for speaker in np.unique(speaker_N[train])]
    return _Blocks(np.setdiff1d(np.arange(len(speaker_N)), train), Groups.of(groups))
