"""Arithmetic of one train step, counted from the layers' shapes.

The count holds the multiplications and additions of convolutions and matrix products, forward and both gradients
(Kaplan et al. 2020, arXiv:2001.08361, appendix C), without the input gradient that a first layer does not need.
XLA's own count is of no use here: it counts a loop's body once.
"""

from ml_collections import ConfigDict

from emoflax.audio.channels import channels as input_channels


def train_flops_per_clip(config: ConfigDict, frames: int, tokens: int, classes: int) -> float:
    """FLOP of one padded clip of `frames` and `tokens`; a modality that the model does not use costs nothing."""
    total, width, model = 0, 0, config.model
    if model.audio == "cnn":
        mels, channels = config.audio.mels, (1, *model.cnn.channels)
        for depth, (fan_in, fan_out) in enumerate(zip(channels, channels[1:], strict=False)):
            forward = 2 * 9 * fan_in * fan_out * (frames >> depth) * (mels >> depth)
            total += forward * (3 if depth else 2)
        width += channels[-1] * (mels >> len(model.cnn.channels))
    if model.audio == "attention_cnn":
        cnn = model.attention_cnn
        steps = -(-frames // cnn.stride)
        blocks = len(cnn.dilations) * (cnn.kernel + 1) * cnn.width**2
        stem = 2 * cnn.stem_kernel * input_channels(config.audio) * cnn.width
        total += 2 * steps * (stem + 3 * blocks)
        width += cnn.width
    if model.text == "gru":
        hidden = model.gru.hidden
        total += 3 * 2 * tokens * 2 * 3 * hidden * (model.gru.embedding + hidden)
        width += 2 * hidden
    width *= 1 if model.pooling == "mean" else 2
    sizes = [width, model.head, classes] if model.head else [width, classes]
    return total + sum(3 * 2 * fan_in * fan_out for fan_in, fan_out in zip(sizes, sizes[1:], strict=False))
