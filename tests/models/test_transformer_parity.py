"""AST, BERT, RoBERTa, DistilBERT and AST's log-mels equal those of `transformers`.

Weights and inputs are new random ones in every run. The weights come from a folder, as a user's do.
"""

import warnings

import hugging_face
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from hugging_face import relative_error

from emoflax import pretrained
from emoflax.configs import default
from emoflax.errors import UserError
from emoflax.features import kaldi, log_mel
from emoflax.models.ast import Ast
from emoflax.models.bert import Bert
from emoflax.models.states import summarise
from emoflax.pretrained.ast import fit_positions

FRAMES, MELS, ROWS, STEPS = 66, 36, 3, 6
FRAME_LENGTHS = [66, 1, 41, 17, 16, 56]  # whole; within a patch; a patch, exceeded by one; an edge
TOKEN_LENGTHS = [11, 1, 7, 2]


def sizes(encoder: str, folder) -> dict:
    fields = pretrained.fields(encoder, str(folder))
    return {name.split(".")[-1]: value for name, value in fields.items() if name.startswith(f"model.{encoder}.")}


def make_ast(folder, max_frames: int = FRAMES, mels: int = MELS) -> Ast:
    ast = Ast(mels, **sizes("ast", folder), max_frames=max_frames, dropout=0.1, rngs=nnx.Rngs(0))
    pretrained.load(ast, "ast", str(folder))
    return ast


@nnx.jit
def run(encoder, sequence, lengths):
    return encoder(sequence, lengths)


@pytest.fixture(scope="module")
def ast_pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ast")
    theirs = hugging_face.ast(folder, head=True)
    return theirs, make_ast(folder), folder


@pytest.fixture(scope="module", params=["bert", "roberta", "distilbert"])
def bert_pair(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    theirs = getattr(hugging_face, request.param)(folder, **({"head": True} if request.param == "bert" else {}))
    words = theirs.config.vocab_size + 2
    bert = Bert(words, **sizes("bert", folder), dropout=0.1, token_dropout=0.1, rngs=nnx.Rngs(0))
    pretrained.load(bert, "bert", str(folder))
    return theirs, bert


def clips(lengths=FRAME_LENGTHS, frames=FRAMES) -> np.ndarray:
    logmel = np.random.default_rng().normal(size=(len(lengths), frames, MELS)).astype(np.float32)
    return np.where(np.arange(frames)[None, :, None] < np.array(lengths)[:, None, None], logmel, 0)


def in_our_order(theirs_BxLxD: torch.Tensor, rows=ROWS) -> np.ndarray:
    """Their patches run over time first, ours over frequency first."""
    h = theirs_BxLxD.detach().numpy()
    grid = h[:, 2:].reshape(len(h), rows, -1, h.shape[-1]).swapaxes(1, 2)
    return np.concatenate([h[:, :2], grid.reshape(len(h), -1, h.shape[-1])], axis=1)


def test_ast_equals_transformers_on_whole_and_on_masked_clips(ast_pair):
    theirs, ours, _ = ast_pair
    logmel, lengths = clips(), np.array(FRAME_LENGTHS)
    h_BxLxD, mask_BxL = run(ours, logmel, lengths)
    steps = 1 + np.maximum(0, np.ceil((lengths - 16) / 10)).astype(int)
    mask = np.arange(STEPS)[None] < steps[:, None]
    np.testing.assert_array_equal(mask_BxL, np.concatenate([np.ones((6, 2), bool), mask.repeat(ROWS, 1)], axis=1))
    theirs_mask = np.concatenate([np.ones((6, 2), int), np.tile(mask, (1, ROWS))], axis=1)
    output = theirs(torch.tensor(logmel), attention_mask=torch.tensor(theirs_mask))
    wanted = np.where(np.asarray(mask_BxL)[..., None], in_our_order(output.last_hidden_state), 0)
    assert relative_error(h_BxLxD, wanted) < 1e-4
    assert relative_error(h_BxLxD[:, :2].mean(1), output.pooler_output.detach()) < 1e-4


def test_ast_uses_the_first_positions_for_shorter_clips(ast_pair):
    theirs, _, folder = ast_pair
    short = transformers.ASTModel(transformers.ASTConfig(**hugging_face.SIZES, max_length=46, num_mel_bins=MELS)).eval()
    weights = theirs.state_dict()
    table = weights["embeddings.position_embeddings"]
    first = [0, 1, *(2 + row * STEPS + step for row in range(ROWS) for step in range(4))]
    short.load_state_dict(weights | {"embeddings.position_embeddings": table[:, first]})
    logmel = clips([46, 46], 46)
    h_BxLxD, _ = run(make_ast(folder, max_frames=46), logmel, np.array([46, 46]))
    assert relative_error(h_BxLxD, in_our_order(short(torch.tensor(logmel)).last_hidden_state)) < 1e-4


def test_positions_for_longer_clips_and_other_mels_are_interpolated_as_by_torch():
    grid_RxSxD = np.random.default_rng().normal(size=(ROWS, STEPS, 5)).astype(np.float32)
    for rows, steps in ((ROWS, 11), (5, STEPS), (2, 13)):
        channels = torch.tensor(grid_RxSxD).permute(2, 0, 1)[None]
        wanted = torch.nn.functional.interpolate(channels, (rows, steps), mode="bilinear")[0]
        wanted = wanted.permute(2, 1, 0).reshape(-1, 5)
        assert relative_error(fit_positions(grid_RxSxD, rows, steps), wanted) < 1e-5


def test_bert_equals_transformers_on_padded_batches(bert_pair):
    theirs, ours = bert_pair
    shape = (len(TOKEN_LENGTHS), max(TOKEN_LENGTHS))
    ids = np.random.default_rng().integers(2, theirs.config.vocab_size, shape)
    mask = np.arange(max(TOKEN_LENGTHS))[None] < np.array(TOKEN_LENGTHS)[:, None]
    ids[~mask] = theirs.config.pad_token_id  # RoBERTa numbers the positions of what is not padding
    with torch.no_grad():
        output = theirs(torch.tensor(ids), attention_mask=torch.tensor(mask.astype(int)), output_hidden_states=True)
    h_BxTxD, mask_BxT = run(ours, jnp.asarray(ids + 2), np.array(TOKEN_LENGTHS))
    np.testing.assert_array_equal(mask_BxT, mask)
    assert relative_error(h_BxTxD, np.where(mask[..., None], output.last_hidden_state.numpy(), 0)) < 1e-4
    means = nnx.jit(lambda encoder, *inputs: summarise(*encoder.states(*inputs), parts=0)[:, :, 0])
    states_BxLxD = means(ours, ids + 2, np.array(TOKEN_LENGTHS))
    for clip, length in enumerate(TOKEN_LENGTHS):
        wanted = np.stack([layer[clip, :length].mean(0) for layer in output.hidden_states])
        assert relative_error(states_BxLxD[clip], wanted) < 1e-4


def test_padding_and_unknown_words_are_those_of_the_folder(bert_pair):
    theirs, ours = bert_pair
    table = theirs.embeddings.word_embeddings.weight.detach().numpy()
    padding, unknown = (1, 3) if theirs.config.model_type == "roberta" else (0, 1)
    np.testing.assert_array_equal(ours.stem.word_embedding[...][:2], table[[padding, unknown]])
    np.testing.assert_array_equal(ours.stem.word_embedding[...][2:], table)


def test_too_long_a_clip_or_text_is_refused_with_the_field_to_change(ast_pair, bert_pair):
    with pytest.raises(UserError, match="max_frames=66"):
        ast_pair[1](jnp.zeros((1, 99, MELS)), jnp.array([99]))
    with pytest.raises(UserError, match="positions=16"):
        bert_pair[1](jnp.zeros((1, 24), jnp.int32), jnp.array([24]))


@pytest.mark.parametrize("mels", [128, 40])
def test_kaldi_log_mels_equal_those_of_transformers_extractor(mels):
    wave = (0.1 * np.random.default_rng().normal(size=16_000)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of 128 filters the lowest are narrower than a step in frequency
        extractor = transformers.ASTFeatureExtractor(num_mel_bins=mels, max_length=98)
        wanted = extractor(wave, sampling_rate=16_000)["input_values"][0]
    assert relative_error(kaldi.fbank(wave, mels=mels, fmin_hz=20.0, fmax_hz=8000.0), wanted) < 1e-4


def test_kaldi_log_mels_of_a_clip_shorter_than_a_window_are_one_frame():
    assert kaldi.fbank(np.ones(100, np.float32), mels=20, fmin_hz=20.0, fmax_hz=8000.0).shape == (1, 20)
    settings = default.get_config().audio.to_dict() | {"frontend": "kaldi", "window_ms": 25.0, "hop_ms": 16.0}
    with pytest.raises(UserError, match="hop_ms must be 10"):
        log_mel.check_settings(**settings)


def test_asts_steps_lie_at_the_middle_of_their_patches(ast_pair):
    centres = ast_pair[1].centres(2 + 2 * ROWS)
    np.testing.assert_array_equal(centres, [np.nan, np.nan, *[8.0] * ROWS, *[18.0] * ROWS])
