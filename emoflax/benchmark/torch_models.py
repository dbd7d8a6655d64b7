"""Our classifier once more, in PyTorch, as its users would write it: the contestant of the benchmark.

Same layers, same masks, same rates of dropout. `copy_weights` brings our weights into PyTorch's layouts, and
`equality.py` shows that both then compute the same.
"""

import numpy as np
import torch
from flax import nnx
from ml_collections import ConfigDict
from torch import nn
from torch.nn import functional as F

from emoflax.errors import UserError
from emoflax.models.gru import UNKNOWN

MODES = ("eager", "channels_last", "compile")


def build(config: ConfigDict, vocabulary: int, classes: int) -> "Classifier":
    """A classifier of the shape that the config asks for.

    Args:
      vocabulary: size of the vocabulary, <pad> and <unk> included.

    Raises:
      UserError: an encoder, pooling or fusion that is not written in PyTorch here.
    """
    known = {
        "audio": ("", "cnn"), "text": ("", "gru"), "pooling": ("mean", "mean_max"), "fusion": ("concat",)
    }  # fmt: skip
    for kind, names in known.items():
        if config.model[kind] not in names:
            raise UserError(
                f"--mode=benchmark has no PyTorch twin of config.model.{kind}={config.model[kind]!r}; "
                f"it compares: {', '.join(name for name in names if name)}"
            )
    model = config.model
    audio = Cnn(config.audio.mels, model.cnn.channels) if model.audio else None
    text = Gru(vocabulary, **model.gru.to_dict()) if model.text else None
    return Classifier(audio, text, config.audio.mels, model.pooling, model.head, model.dropout, classes)


class Classifier(nn.Module):
    """Encoders, masked pooling, head, logits."""

    def __init__(self, audio, text, mels: int, pooling: str, head: int, dropout: float, classes: int):
        super().__init__()
        self.audio, self.text, self.pooling = audio, text, pooling
        self.register_buffer("mean", torch.zeros(mels))
        self.register_buffer("std", torch.ones(mels))
        width = (2 if pooling == "mean_max" else 1) * sum(encoder.width for encoder in (audio, text) if encoder)
        self.hidden = nn.Linear(width, head) if head else None
        self.logits = nn.Linear(head or width, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Logits [batch, classes] of the batch that our model takes too."""
        pooled = []
        if self.audio is not None:
            inside = valid(batch["frames"], batch["logmel"].shape[1])[..., None]
            logmel = ((batch["logmel"] - self.mean) / self.std).masked_fill(~inside, 0.0)
            pooled.append(pool(*self.audio(logmel, batch["frames"]), self.pooling))
        if self.text is not None:
            pooled.append(pool(*self.text(batch["tokens"], batch["n_tokens"]), self.pooling))
        h = self.dropout(torch.cat(pooled, -1))
        if self.hidden is not None:
            h = self.dropout(F.relu(self.hidden(h)))
        return self.logits(h)


class Cnn(nn.Module):
    """Blocks of convolution, bias, ReLU, 2x2 max-pooling."""

    def __init__(self, mels: int, channels: tuple[int, ...]):
        super().__init__()
        self.shrink = 2 ** len(channels)
        pairs = zip((1, *channels[:-1]), channels, strict=True)
        self.convolutions = nn.ModuleList(nn.Conv2d(i, o, 3, padding=1) for i, o in pairs)
        self.width = channels[-1] * (mels // self.shrink)

    def forward(self, logmel: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, frames, mels] -> ([batch, frames / shrink, width], mask)."""
        h = F.pad(logmel, (0, 0, 0, -logmel.shape[1] % self.shrink))[:, None]
        steps = (frames + self.shrink - 1) // self.shrink
        for depth, convolution in enumerate(self.convolutions, start=1):
            h = F.max_pool2d(F.relu(convolution(h)), 2)
            inside = valid(steps * (self.shrink >> depth), h.shape[2])
            h = h * inside[:, None, :, None].to(h.dtype)
        return h.permute(0, 2, 3, 1).flatten(2), inside


class Gru(nn.Module):
    """Embedding and bidirectional GRU over packed sequences: padding is not computed."""

    def __init__(self, vocabulary: int, *, embedding: int, hidden: int, dropout: float, token_dropout: float):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, embedding)
        self.gru = nn.GRU(embedding, hidden, batch_first=True, bidirectional=True)
        self.dropout = nn.Dropout(dropout)
        self.token_dropout = token_dropout
        self.width = 2 * hidden

    def forward(self, tokens: torch.Tensor, lengths: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, tokens] -> ([batch, tokens, width], mask)."""
        if self.training:
            dropped = torch.rand(tokens.shape, device=tokens.device) < self.token_dropout
            tokens = tokens.masked_fill(dropped, UNKNOWN)
        packed = nn.utils.rnn.pack_padded_sequence(
            self.dropout(self.embedding(tokens)), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        h, _ = nn.utils.rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True, total_length=tokens.shape[1])
        return self.dropout(h), valid(lengths, tokens.shape[1])


def valid(lengths: torch.Tensor, steps: int) -> torch.Tensor:
    """Mask [batch, steps] of the first `length` positions."""
    return torch.arange(steps, device=lengths.device)[None] < lengths[:, None]


def pool(sequence: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """[batch, steps, width] -> [batch, width], or twice the width for mean_max."""
    weight = mask.to(sequence.dtype)
    mean = torch.einsum("btd,bt->bd", sequence, weight) / weight.sum(1, keepdim=True).clamp(min=1)
    if pooling == "mean":
        return mean
    highest = sequence.masked_fill(~mask[..., None], torch.finfo(sequence.dtype).min).amax(1)
    return torch.cat([mean, highest], -1)


def copy_weights(ours: nnx.Module, theirs: Classifier) -> None:
    """Gives `theirs` the weights of our `emoflax.models.Classifier` of the same shape."""
    head = ours.fusion.head
    found = _linear("logits", head.logits)
    if head.hidden:
        found |= _linear("hidden", head.hidden)
    if ours.audio:
        found |= {"mean": _array(ours.normalise.mean), "std": _array(ours.normalise.std)}
        for i, block in enumerate(ours.audio.blocks):
            found[f"audio.convolutions.{i}.weight"] = _array(block.kernel).transpose(3, 2, 0, 1)  # HWIO -> OIHW
            found[f"audio.convolutions.{i}.bias"] = _array(block.bias)
    else:
        found |= {"mean": theirs.mean.numpy(), "std": theirs.std.numpy()}
    if ours.text:
        found["text.embedding.weight"] = _array(ours.text.embedding)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            both = _array(getattr(ours.text, name))
            found |= {f"text.gru.{name}_l0": both[0], f"text.gru.{name}_l0_reverse": both[1]}
    theirs.load_state_dict({name: torch.tensor(np.ascontiguousarray(array)) for name, array in found.items()})


def _linear(name: str, layer: nnx.Linear) -> dict[str, np.ndarray]:
    return {f"{name}.weight": _array(layer.kernel).T, f"{name}.bias": _array(layer.bias)}


def _array(variable: nnx.Variable) -> np.ndarray:
    return np.asarray(variable[...])
