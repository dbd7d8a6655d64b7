"""How well transcripts agree with the reference text, so that a bad text score can be told from bad transcripts."""

from collections.abc import Sequence

from emoflax.errors import optional
from emoflax.features.text import tokenise


def spoken_words(text: str) -> str:
    """Lower case, no punctuation, single blanks. Numbers stay as they are written: '2' is not 'two'."""
    return " ".join(token for token in tokenise(text, lowercase=True) if any(letter.isalnum() for letter in token))


def count(references: Sequence[str], transcripts: Sequence[str]) -> list[tuple[int, int]]:
    """(words that are wrong, missing or too many; words of the reference) of each clip; their ratio is the error rate.

    The sums of both, divided, are the word error rate of any set of clips.
    """
    with optional("The word error rate of transcripts", "text"):
        import jiwer

    pairs = [(spoken_words(said), spoken_words(heard)) for said, heard in zip(references, transcripts, strict=True)]
    # An empty reference is nothing that could be aligned: whatever is heard there is too much.
    said = [(said, heard) for said, heard in pairs if said]
    chunks = iter(jiwer.process_words(*map(list, zip(*said, strict=True))).alignments if said else ())
    return [
        (sum(_errors(chunk) for chunk in next(chunks)), len(said.split())) if said else (len(heard.split()), 0)
        for said, heard in pairs
    ]


def _errors(chunk) -> int:
    spans = (chunk.ref_end_idx - chunk.ref_start_idx, chunk.hyp_end_idx - chunk.hyp_start_idx)
    return 0 if chunk.type == "equal" else max(spans)
