"""Word error rates of transcripts against the reference text: they separate poor transcripts from poor text models."""

from collections.abc import Sequence

from emoflax.errors import optional
from emoflax.features.text import words_alone


def spoken_words(text: str) -> str:
    """Lower case, no punctuation, single spaces. Numbers stay as written: '2' is not 'two'."""
    return words_alone(text).lower()


def count(references: Sequence[str], transcripts: Sequence[str]) -> list[tuple[int, int]]:
    """(wrong, missing and inserted words; words of the reference) of each clip; their ratio is the error rate.

    The sums of both, divided, are the word error rate of any set of clips.
    """
    with optional("The word error rate of transcripts", "text"):
        import jiwer

    pairs = [(spoken_words(ref), spoken_words(hyp)) for ref, hyp in zip(references, transcripts, strict=True)]
    # jiwer cannot align an empty reference: every word of its transcript is an insertion.
    aligned = [(ref, hyp) for ref, hyp in pairs if ref]
    chunks = iter(jiwer.process_words(*map(list, zip(*aligned, strict=True))).alignments if aligned else ())
    return [
        (sum(_errors(chunk) for chunk in next(chunks)), len(ref.split())) if ref else (len(hyp.split()), 0)
        for ref, hyp in pairs
    ]


def _errors(chunk) -> int:
    spans = (chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
    return 0 if chunk.type == "equal" else max(spans)
