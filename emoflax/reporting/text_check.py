"""How much information the words carry about the emotion, measured before any network is trained on them.

The mutual information of whole transcript and label is useless where every transcript is unique: it then equals the
label's entropy, whatever the words are. So a logistic regression on the words is cross-validated, and its
log-likelihood on held-out clips is compared with that of the classes' shares. The gain, in bits per clip, is a lower
bound of the information that is there.
"""

import warnings
from collections import Counter
from collections.abc import Sequence

import numpy as np

from emoflax.errors import optional

with optional("The measurement of how much the words tell about the label", "text"):
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

FOLDS = 5
PRIOR_SHARE = 0.01  # of the classes' shares in each prediction, so that no class has probability 0 and costs infinity
BOOTSTRAPS = 1000
REGULARISATION = 1.0  # sklearn's C; on MELD the best of 0.5, 1, 2, 4
Folds = list[tuple[np.ndarray, np.ndarray]]  # (places fitted to, places held out)
LEAST_SHARE = 0.01  # of the label's entropy; less counts as nothing


def label_information(texts: Sequence[str], labels: Sequence[str], groups: Sequence[str] | None) -> dict:
    """Cross-validated information of the texts about the labels. About 4 s for 10,000 utterances of one line.

    Args:
      texts: transcripts, or tokens joined by blanks, of the training clips.
      labels: the name of each clip's class.
      groups: speakers, which are never shared between fitting and measuring and are what the interval resamples;
        None or a single one: clips are held out and resampled one by one.

    Returns:
      clips, classes, folds, distinct_texts: counts; 0 folds where the clips are too few to hold any out.
      distinct_texts_by_label: label -> count.
      label_entropy_bits: of the label, bits per clip.
      information_bits, low_bits, high_bits: of the words about the label, and its 95 % bootstrap interval. It may be
        slightly negative where the words carry none.
      accuracy, majority_accuracy: of the regression on held-out clips, and of always predicting the commonest class.
      informative: whether low_bits is above 1 % of the entropy.
    """
    names, targets = np.unique(np.asarray(labels), return_inverse=True)
    units = (
        np.unique(np.asarray(groups), return_inverse=True)[1] if groups is not None and len(set(groups)) > 1 else None
    )
    folds = _folds(targets, units)
    predicted, shares = _held_out(texts, targets, folds, len(names))
    rows = np.arange(len(targets))
    gains = np.log2(predicted[rows, targets]) - np.log2(shares[rows, targets])
    low, high = _interval(gains, units)
    counts = np.bincount(targets) / len(targets)
    entropy = float(-(counts * np.log2(counts)).sum())
    pairs = Counter(label for _, label in set(zip(texts, labels, strict=True)))
    return {
        "clips": len(targets),
        "classes": len(names),
        "folds": len(folds),
        "distinct_texts": len(set(texts)),
        "distinct_texts_by_label": dict(sorted(pairs.items())),
        "label_entropy_bits": entropy,
        "information_bits": float(gains.mean()),
        "low_bits": low,
        "high_bits": high,
        "accuracy": float((predicted.argmax(axis=1) == targets).mean()),
        "majority_accuracy": float(counts.max()),
        "informative": low > LEAST_SHARE * entropy,
    }


def sentence(information: dict) -> str:
    """One sentence for the log and the report, from what `label_information` returns."""
    if not information["folds"]:
        return f"{information['clips']} clips are too few to measure how much the words tell about the label."
    if not information["informative"]:
        conclusion = "so a model of the words alone is expected to be at chance"
    elif information["information_bits"] < 0.5 * information["label_entropy_bits"]:
        conclusion = "so the words help, and leave most of it open"
    else:
        conclusion = "so the words tell most of it"
    bits = {key: max(0.0, information[key]) for key in ("information_bits", "low_bits", "high_bits")}
    return (
        f"The words tell {bits['information_bits']:.3f} of the label's {information['label_entropy_bits']:.2f} bits "
        f"(95 % interval {bits['low_bits']:.3f} to {bits['high_bits']:.3f}; {information['distinct_texts']} distinct "
        f"transcripts in {information['clips']} clips; held-out accuracy {100 * information['accuracy']:.1f} %, always "
        f"predicting the commonest class {100 * information['majority_accuracy']:.1f} %), {conclusion}."
    )


def _held_out(texts: Sequence[str], targets: np.ndarray, folds: Folds, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [clips, classes] of the regression and of the classes' shares, each from the other folds alone."""
    # '<s>' stands in every text, so that the vocabulary is never empty, not even where all texts are.
    marked = np.array([f"<s> {text}" for text in texts], dtype=object)
    shares = np.tile(_shares(targets, classes), (len(targets), 1))
    predicted = shares.copy()
    for fitted, held in folds:
        shares[held] = predicted[held] = _shares(targets[fitted], classes)
        seen = np.unique(targets[fitted])
        if len(seen) > 1 and len(held):
            predicted[held] = 0.0
            predicted[np.ix_(held, seen)] = _fit_and_predict(marked[fitted], targets[fitted], marked[held])
    return (1 - PRIOR_SHARE) * predicted + PRIOR_SHARE * shares, shares


def _shares(targets: np.ndarray, classes: int) -> np.ndarray:
    """Shares of the classes, float [classes]; never zero."""
    return (np.bincount(targets, minlength=classes) + 0.1) / (len(targets) + 0.1 * classes)


def _folds(targets: np.ndarray, units: np.ndarray | None) -> Folds:
    sizes = np.bincount(targets)
    count = min(FOLDS, int(sizes.max()), FOLDS if units is None else len(np.unique(units)))
    if count < 2 or len(sizes) < 2:
        return []
    splitter = StratifiedKFold if units is None else StratifiedGroupKFold
    with warnings.catch_warnings():
        # A class with fewer clips than folds is absent from some of them, which `_held_out` allows for.
        warnings.filterwarnings("ignore", message="The least populated class")
        return list(splitter(count, shuffle=True, random_state=0).split(targets, targets, units))


def _fit_and_predict(fitted: np.ndarray, targets: np.ndarray, held: np.ndarray) -> np.ndarray:
    words = TfidfVectorizer(token_pattern=r"<s>|[^\W_]+(?:'\w+)*|[^\w\s]", min_df=2, sublinear_tf=True)
    model = LogisticRegression(C=REGULARISATION, max_iter=200, tol=1e-3).fit(words.fit_transform(fitted), targets)
    return model.predict_proba(words.transform(held))


def _interval(gains: np.ndarray, units: np.ndarray | None) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of gains [clips], whole groups drawn with replacement."""
    units = np.arange(len(gains)) if units is None else units
    sums, sizes = np.bincount(units, gains), np.bincount(units)
    draws = np.random.default_rng(0)
    means = np.empty(BOOTSTRAPS)
    for index in range(BOOTSTRAPS):
        drawn = draws.integers(len(sums), size=len(sums))
        means[index] = sums[drawn].sum() / sizes[drawn].sum()
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)
