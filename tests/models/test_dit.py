import math

import numpy as np
import torch
from networks import awake, normal

from ambient_sweep.models.dit import Block, DiT, patches, picture


def test_patches_lie_row_by_row_and_are_put_back():
    x = normal(2, 3, 4, 6)
    tokens = patches(x, 2)
    assert tokens.shape == (2, 6, 12)
    for t in range(6):
        row, column = divmod(t, 3)
        cut = x[:, :, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
        assert torch.equal(tokens[:, t], cut.flatten(1))
    assert torch.equal(picture(tokens, (2, 3), 2), x)


def test_a_block_is_attention_and_mlp_between_modulated_norms():
    block = awake(Block(16, 8)).double()
    tokens, embedding = normal(2, 5, 16).double(), normal(2, 16).double()
    w = {name: p.detach().numpy() for name, p in block.named_parameters()}

    def linear(name, x):
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x):
        return (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-6)

    for n in range(2):
        x = tokens[n].numpy()
        shift1, scale1, gate1, shift2, scale2, gate2 = np.split(linear("modulation", embedding[n].numpy()), 6)
        q, k, v = np.split(linear("attention.qkv", norm(x) * (1 + scale1) + shift1), 3, axis=1)
        mixed = []
        for part in (slice(0, 8), slice(8, 16)):
            score = np.exp(q[:, part] @ k[:, part].T / math.sqrt(8))
            mixed.append(score / score.sum(1, keepdims=True) @ v[:, part])
        x = x + gate1 * linear("attention.proj", np.concatenate(mixed, axis=1))
        inner = linear("mlp.fc1", norm(x) * (1 + scale2) + shift2)
        inner = inner * (1 + np.vectorize(math.erf)(inner / math.sqrt(2))) / 2  # GELU
        x = x + gate2 * linear("mlp.fc2", inner)
        np.testing.assert_allclose(block(tokens, embedding)[n].detach().numpy(), x, rtol=1e-9, atol=1e-12)


def test_blocks_are_the_identity_at_first():
    dit = DiT((1, 8, 8), 32, 2, 2, 16)
    tokens, embedding = normal(3, 16, 32), normal(3, 32)
    for block in dit.blocks_to_wrap():
        assert torch.equal(block(tokens, embedding), tokens)


def test_positions_alone_tell_the_patches_apart():
    dit = awake(DiT((1, 8, 8), 32, 2, 2, 16))
    x, c_noise = normal(2, 1, 8, 8), torch.tensor([-1.0, 0.5])
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))

    def shuffled(image):
        return picture(patches(image, 2)[:, order], (4, 4), 2)

    y = dit(x, c_noise)
    assert not torch.allclose(dit(shuffled(x), c_noise), shuffled(y), rtol=1e-2, atol=1e-2)
    dit.positions.zero_()
    torch.testing.assert_close(dit(shuffled(x), c_noise), shuffled(dit(x, c_noise)), rtol=1e-4, atol=1e-5)
