"""The subword tokenizer of a Hugging Face folder, as one JSON text that shards and checkpoints contain."""

import functools
import pathlib
from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING

from emoflax.errors import UserError, optional
from emoflax.files import read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer


def read(source: str) -> str:
    """The JSON of a folder's tokenizer.json; or one made of vocab.txt (BERT), of vocab.json and merges.txt (RoBERTa).

    Args:
      source: the folder, or such a JSON, which is returned.

    Raises:
      UserError: the folder has none of these, or they are damaged.
    """
    if source.startswith("{"):
        return source
    whole, words, pairs = (pathlib.Path(source) / name for name in ("tokenizer.json", "vocab.txt", "merges.txt"))
    makers = {whole: lambda path: _tokenizers().Tokenizer.from_file(str(path)), words: _word_pieces, pairs: _byte_pairs}
    path = next((path for path in makers if path.is_file()), None)
    if path is None:
        raise UserError(
            f"there is neither {whole} nor {words.name} nor {pairs.name} in its folder. Put the tokenizer files of the "
            "model there, or set config.text.tokenizer='' for whole words"
        )
    try:
        tokenizer = makers[path](path)
    except Exception as error:  # the library raises nothing narrower
        raise UserError(f"the tokenizer in {source} is damaged ({error}); copy it again") from error
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer.to_str()


def vocabulary(tokenizer: str) -> tuple[str, ...]:
    """Every token, at the place of its id."""
    places = _tokenizers().Tokenizer.from_str(tokenizer).get_vocab()
    names = {place: token for token, place in places.items()}
    return tuple(names.get(place, "") for place in range(max(names) + 1))


@functools.lru_cache(maxsize=4)  # reading a tokenizer takes a tenth of a second
def cutter(tokenizer: str, max_tokens: int) -> Callable[[str], list[str]]:
    """Text -> tokens, special ones included; longer texts are cut so that the closing one stays."""
    made = _tokenizers().Tokenizer.from_str(tokenizer)
    made.enable_truncation(max_tokens)
    return lambda text: made.encode(text).tokens


def _word_pieces(path: pathlib.Path) -> "Tokenizer":
    """BERT's tokenizer as its first release has it; a neighbouring tokenizer_config.json may keep the case."""
    places = {line: i for i, line in enumerate(path.read_text(encoding="utf-8").split("\n")) if line}
    settings = path.with_name("tokenizer_config.json")
    lowercase = read_json(settings, mend="copy it again").get("do_lower_case", True) if settings.is_file() else True
    library = _tokenizers()
    tokenizer = library.Tokenizer(library.models.WordPiece(places, unk_token="[UNK]"))
    tokenizer.normalizer = library.normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    ends = ("[SEP]", places["[SEP]"]), ("[CLS]", places["[CLS]"])
    tokenizer.post_processor = library.processors.BertProcessing(*ends)
    return tokenizer


def _byte_pairs(path: pathlib.Path) -> "Tokenizer":
    """RoBERTa's tokenizer: pairs of bytes that are merged, and in vocab.json beside them the token of each id."""
    library, table = _tokenizers(), path.with_name("vocab.json")
    places = read_json(table, mend="copy it again")
    tokenizer = library.Tokenizer(library.models.BPE.from_file(str(table), str(path)))
    tokenizer.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    ends = ("</s>", places["</s>"]), ("<s>", places["<s>"])
    tokenizer.add_special_tokens([token for token in ("<s>", "</s>", "<pad>", "<unk>", "<mask>") if token in places])
    tokenizer.post_processor = library.processors.RobertaProcessing(*ends, add_prefix_space=False)
    return tokenizer


def _tokenizers() -> ModuleType:
    with optional("A tokenizer of subwords", "text"):
        import tokenizers
    return tokenizers
