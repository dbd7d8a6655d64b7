"""EmoFlax's classifier in PyTorch, as its users would write it, for the benchmark to compare with.

Same layers, same masks, same rates of dropout. `copy_weights` copies our weights into PyTorch's layouts, and
`equality.py` checks that both then compute the same.
"""

import functools
from collections.abc import Callable

import numpy as np
import torch
from flax import nnx
from ml_collections import ConfigDict
from torch import nn
from torch.nn import functional as F

from emoflax.audio.channels import channels
from emoflax.batch import Batch
from emoflax.errors import UserError
from emoflax.models.gru import UNKNOWN
from emoflax.models.pooling import SMALLEST_VARIANCE

NORM_EPSILON = 1e-6  # flax's


def build(config: ConfigDict, vocabulary: int, classes: int) -> "Classifier":
    """A classifier of the shape that the config describes.

    Args:
      vocabulary: size of the vocabulary, <pad> and <unk> included.

    Raises:
      UserError: an encoder, pooling or fusion that is not written in PyTorch here.
    """
    known = {
        "audio": ("", "cnn", "attention_cnn"), "text": ("", "gru"), "pooling": ("mean", "mean_max", "attention"),
        "fusion": ("concat",),
    }  # fmt: skip
    for kind, names in known.items():
        if config.model[kind] not in names:
            raise UserError(
                f"the benchmark has no PyTorch twin of config.model.{kind}={config.model[kind]!r}; "
                f"it compares: {', '.join(name for name in names if name)}"
            )
    model, input_channels = config.model, channels(config.audio)
    audio = {"": None, "cnn": Cnn, "attention_cnn": AttentionCnn}[model.audio]
    audio = audio and audio(input_channels, **model[model.audio].to_dict())
    text = Gru(vocabulary, **model.gru.to_dict()) if model.text else None
    pooling = functools.partial(POOLINGS[model.pooling], **model.get(model.pooling, {}))
    return Classifier(audio, text, input_channels, pooling, model.head, model.dropout, classes)


class Classifier(nn.Module):
    """Encoders, masked pooling, head, logits."""

    def __init__(self, audio, text, mels: int, pooling: Callable, head: int, dropout: float, classes: int):
        super().__init__()
        self.audio, self.text = audio, text
        self.register_buffer("mean", torch.zeros(mels))
        self.register_buffer("std", torch.ones(mels))
        encoders = (("audio", audio), ("text", text))
        self.pools = nn.ModuleDict({name: pooling(encoder.width) for name, encoder in encoders if encoder})
        width = sum(pool.width for pool in self.pools.values())
        self.hidden = nn.Linear(width, head) if head else None
        self.logits = nn.Linear(head or width, classes)
        self.dropout = nn.Dropout(dropout)

    def forward(self, batch: Batch) -> torch.Tensor:
        """Logits [batch, classes] of a batch of tensors."""
        pooled = []
        if self.audio is not None:
            inside = valid(batch.frames, batch.logmel.shape[1])[..., None]
            logmel = ((batch.logmel - self.mean) / self.std).masked_fill(~inside, 0.0)
            pooled.append(self.pools["audio"](*self.audio(logmel, batch.frames)))
        if self.text is not None:
            pooled.append(self.pools["text"](*self.text(batch.tokens, batch.n_tokens)))
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


class AttentionCnn(nn.Module):
    """Residual blocks of normalisation, dilated convolution over time, ReLU, dropout, product."""

    def __init__(
        self, mels: int, *, width: int, kernel: int, stem_kernel: int, stride: int, dilations: tuple[int, ...],
        dropout: float,
    ):  # fmt: skip
        super().__init__()
        self.width, self.stride = width, stride
        self.stem = nn.Conv1d(mels, width, stem_kernel, stride=stride, padding=stem_kernel // 2)
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=NORM_EPSILON) for _ in (*dilations, "last"))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(width, width, kernel, padding=kernel // 2 * dilation, dilation=dilation) for dilation in dilations
        )
        self.products = nn.ModuleList(nn.Linear(width, width) for _ in dilations)
        self.dropout = nn.Dropout(dropout)

    def forward(self, logmel: torch.Tensor, frames: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """[batch, frames, mels] -> ([batch, frames / stride, width], mask)."""
        h = self.stem(logmel.transpose(1, 2)).transpose(1, 2)
        inside = valid((frames + self.stride - 1) // self.stride, h.shape[1])
        for norm, convolution, product in zip(self.norms[:-1], self.convolutions, self.products, strict=True):
            x = norm(h).masked_fill(~inside[..., None], 0.0)
            x = self.dropout(F.relu(convolution(x.transpose(1, 2)).transpose(1, 2)))
            h = h + product(x)
        return F.relu(self.norms[-1](h)).masked_fill(~inside[..., None], 0.0), inside


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


class Mean(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.width = width

    def forward(self, sequence: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[batch, steps, width] -> [batch, width]."""
        weight = mask.to(sequence.dtype)
        return torch.einsum("btd,bt->bd", sequence, weight) / weight.sum(1, keepdim=True).clamp(min=1)


class MeanMax(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.mean, self.width = Mean(width), 2 * width

    def forward(self, sequence: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[batch, steps, width] -> [batch, 2 * width]."""
        highest = sequence.masked_fill(~mask[..., None], torch.finfo(sequence.dtype).min).amax(1)
        return torch.cat([self.mean(sequence, mask), highest], -1)


class AttentiveStatistics(nn.Module):
    def __init__(self, width: int, *, heads: int, hidden: int):
        super().__init__()
        self.heads, self.width = heads, 2 * width
        self.hidden, self.score = nn.Linear(width, hidden), nn.Linear(hidden, heads)

    def forward(self, sequence: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """[batch, steps, width] -> [batch, 2 * width]."""
        score = self.score(torch.tanh(self.hidden(sequence))).float()
        weight = torch.softmax(score.masked_fill(~mask[..., None], torch.finfo(score.dtype).min), 1)
        x = sequence.float().unflatten(-1, (self.heads, -1))
        mean = torch.einsum("bth,bthk->bhk", weight, x)
        variance = torch.einsum("bth,bthk->bhk", weight, (x - mean[:, None]) ** 2)
        return torch.cat([mean, torch.sqrt(variance + SMALLEST_VARIANCE)], -1).flatten(1).to(sequence.dtype)


POOLINGS = {"mean": Mean, "mean_max": MeanMax, "attention": AttentiveStatistics}


def copy_weights(ours: nnx.Module, theirs: Classifier) -> None:
    """Gives `theirs` the weights of our `emoflax.models.Classifier` of the same shape."""
    head = ours.fusion.head
    weights = _linear("logits", head.logits)
    if head.hidden:
        weights |= _linear("hidden", head.hidden)
    if ours.audio:
        weights |= {"mean": _array(ours.normalise.mean), "std": _array(ours.normalise.std)}
        weights |= _cnn(ours.audio) if isinstance(theirs.audio, Cnn) else _attention_cnn(ours.audio)
    else:
        weights |= {"mean": theirs.mean.numpy(), "std": theirs.std.numpy()}
    if ours.text:
        weights["text.embedding.weight"] = _array(ours.text.embedding)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            both = _array(getattr(ours.text, name))
            weights |= {f"text.gru.{name}_l0": both[0], f"text.gru.{name}_l0_reverse": both[1]}
    for modality, pool in ours.fusion.pools.items():
        if isinstance(theirs.pools[modality], AttentiveStatistics):
            for name in ("hidden", "score"):
                weights |= _linear(f"pools.{modality}.{name}", getattr(pool, name))
    theirs.load_state_dict({name: torch.tensor(np.ascontiguousarray(array)) for name, array in weights.items()})


def _cnn(ours: nnx.Module) -> dict[str, np.ndarray]:
    weights = {}
    for i, block in enumerate(ours.blocks):
        weights[f"audio.convolutions.{i}.weight"] = _array(block.kernel).transpose(3, 2, 0, 1)  # HWIO -> OIHW
        weights[f"audio.convolutions.{i}.bias"] = _array(block.bias)
    return weights


def _attention_cnn(ours: nnx.Module) -> dict[str, np.ndarray]:
    weights = _time_conv("audio.stem", ours.stem)
    for i, norm in enumerate([*(layer.norm for layer in ours.layers), ours.norm]):
        weights |= {f"audio.norms.{i}.weight": _array(norm.scale), f"audio.norms.{i}.bias": _array(norm.bias)}
    for i, layer in enumerate(ours.layers):
        weights |= _time_conv(f"audio.convolutions.{i}", layer.conv) | _linear(f"audio.products.{i}", layer.out)
    return weights


def _time_conv(name: str, conv: nnx.Module) -> dict[str, np.ndarray]:
    weight = _array(conv.product.kernel)  # [kernel * in, out]
    weight = weight.reshape(conv.kernel, -1, weight.shape[1])
    return {f"{name}.weight": weight.transpose(2, 1, 0), f"{name}.bias": _array(conv.product.bias)}


def _linear(name: str, layer: nnx.Linear) -> dict[str, np.ndarray]:
    return {f"{name}.weight": _array(layer.kernel).T, f"{name}.bias": _array(layer.bias)}


def _array(variable: nnx.Variable) -> np.ndarray:
    return np.asarray(variable[...])
