import math

import numpy as np
import pytest
import torch
from networks import awake, normal
from torch import nn

from ambient_sweep.config import ModelConfig
from ambient_sweep.models import build_model
from ambient_sweep.models.unet import Attention, Block, UNet, groups


@pytest.mark.parametrize(("width", "levels", "size"), [(8, 1, 5), (24, 3, 12), (40, 2, 8), (64, 4, 32)])
def test_unets_of_odd_widths_and_sizes(width, levels, size):
    denoiser = build_model(ModelConfig(width=width, blocks=1, levels=levels), (3, size, size), 0)
    assert denoiser(torch.randn(2, 3, size, size), torch.ones(2)).shape == (2, 3, size, size)


def test_widths_follow_the_multipliers_and_double_by_default():
    def widths(**keys):
        unet = build_model(ModelConfig(width=16, blocks=1, **keys), (1, 16, 16), 0).network
        return [block.conv1.out_channels for block in unet.down if block.resample == "none"]

    assert widths(levels=4) == [16, 32, 64, 64]
    assert widths(levels=3, multipliers=(1, 3, 2)) == [16, 48, 32]


def test_attention_lies_in_the_middle_and_at_the_sides_asked_for():
    unet = UNet((3, 32, 32), 16, 2, (1, 2, 2), attention=(16,), head_width=8)
    inputs = {}
    for name, module in unet.named_modules():
        if isinstance(module, Attention):
            module.register_forward_pre_hook(
                lambda _m, args, name=name: inputs.update({name: tuple(args[0].shape[1:])})
            )
    unet(normal(1, 3, 32, 32), torch.zeros(1))
    # down: 2 blocks at 32, then per level one that resamples and 2 more; up: 3 blocks per level, and two that resample
    assert inputs == {
        "down.3.attention": (32, 16, 16),
        "down.4.attention": (32, 16, 16),
        "middle.0.attention": (32, 8, 8),
        "up.6.attention": (32, 16, 16),
    }
    assert unet.down[3].attention.heads == 4


@pytest.mark.parametrize("head_width", [8, 12, 64])
def test_attention_is_the_naive_softmax(head_width):
    layer = awake(Attention(24, head_width)).double()
    x = normal(2, 24, 3, 4).double()
    norm = nn.functional.group_norm(x, groups(24), layer.norm.weight, layer.norm.bias)
    want = x.clone()
    for n in range(2):
        tokens = norm[n].reshape(24, 12).T.detach().numpy()
        q, k, v = np.split(tokens @ layer.qkv.weight.detach().numpy().T + layer.qkv.bias.detach().numpy(), 3, axis=1)
        wide = 24 // layer.heads
        y = np.zeros((12, 24))
        for h in range(layer.heads):
            part = slice(h * wide, (h + 1) * wide)
            for i in range(12):
                score = np.exp(k[:, part] @ q[i, part] / math.sqrt(wide))
                y[i, part] = score @ v[:, part] / score.sum()
        y = y @ layer.out.weight.detach().numpy().T + layer.out.bias.detach().numpy()
        want[n] += torch.from_numpy(y.T.reshape(24, 3, 4))
    torch.testing.assert_close(layer(x), want)
    assert layer.heads == {8: 3, 12: 2, 64: 1}[head_width]


@pytest.mark.parametrize(("resample", "side"), [("none", 4), ("down", 2), ("up", 8)])
def test_a_block_is_the_identity_at_first_but_for_the_box_filter(resample, side):
    unet = UNet((1, 8, 8), 16, 1, (1, 1))  # its blocks are initialised
    block = next(b for b in unet.blocks_to_wrap() if b.resample == resample and isinstance(b.skip, nn.Identity))
    x = normal(2, 16, 4, 4)
    want = torch.empty(2, 16, side, side)
    for i in range(side):
        for j in range(side):
            if resample == "down":
                want[:, :, i, j] = sum(x[:, :, 2 * i + a, 2 * j + b] for a in (0, 1) for b in (0, 1)) / 4
            else:
                want[:, :, i, j] = x[:, :, i * 4 // side, j * 4 // side]
    torch.testing.assert_close(block(x, normal(2, 16)), want)


def test_a_block_modulates_its_second_norm():
    block = awake(Block(8, 16, 4)).double()
    x, embedding = normal(3, 8, 4, 4).double(), normal(3, 4).double()

    def norm(h, count):  # mean and variance over each group and all pixels
        cut = h.reshape(3, count, -1)
        cut = (cut - cut.mean(2, keepdim=True)) / (cut.var(2, keepdim=True, unbiased=False) + 1e-5).sqrt()
        return cut.reshape(h.shape)

    def silu(h):
        return h / (1 + (-h).exp())

    first = norm(x, 2) * block.norm1.weight[:, None, None] + block.norm1.bias[:, None, None]
    modulation = embedding @ block.modulation.weight.T + block.modulation.bias
    scale, shift = modulation[:, :16, None, None], modulation[:, 16:, None, None]
    h = block.conv2(silu((1 + scale) * norm(block.conv1(silu(first)), 4) + shift))
    torch.testing.assert_close(block(x, embedding), block.skip(x) + h)
