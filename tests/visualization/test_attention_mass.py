"""Shares of attention beside an independent softmax over all tokens, in float64."""

import math

import pytest
import torch

from cmt_bias.bias.attention_bias import AttentionBias, SegmentBias
from cmt_bias.visualization import attention_mass
from cmt_bias.visualization.attention_mass import PARTS

BATCH, HEADS, QUERIES, LIDAR, CAMERA, CHANNELS = 2, 3, 7, 11, 13, 4
KEYS = LIDAR + CAMERA


def random_attention(dtype: torch.dtype, whole_camera: bool = False):
    """Projected queries and keys, and a bias with empty slots, a segment if asked for."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(BATCH, HEADS, QUERIES, CHANNELS, generator=generator).to(dtype)
    key = 3 * torch.randn(BATCH, HEADS, KEYS, CHANNELS, generator=generator).to(dtype)
    limit = LIDAR if whole_camera else KEYS
    index = torch.stack(
        [
            torch.stack([torch.randperm(limit, generator=generator)[:6] for _ in range(QUERIES)])
            for _ in range(BATCH)
        ]
    )
    index[:, ::2, 4:] = -1
    values = 2 * torch.randn(BATCH, QUERIES, 6, generator=generator, dtype=torch.float64).to(dtype)
    segments = ()
    if whole_camera:
        of_camera = torch.randn(BATCH, QUERIES, generator=generator).to(dtype)
        segments = (SegmentBias(LIDAR, KEYS, of_camera),)
    return query, key, AttentionBias(index, values, segments)


def mass_by_loop(query, key, bias: AttentionBias, batch: int, number: int) -> list[list[float]]:
    """Shares of one query, without and with the bias, by sums over single tokens."""
    added = [0.0] * KEYS
    inside = [False] * KEYS
    slots = zip(bias.index[batch, number], bias.values[batch, number], strict=True)
    for token, value in slots:
        if token >= 0:
            added[token] += float(value)
            inside[token] = True
    for start, stop, values in bias.segments:
        for token in range(start, stop):
            added[token] += float(values[batch, number])
            inside[token] = True
    result = []
    for factor in (0.0, 1.0):
        shares = dict.fromkeys(PARTS, 0.0)
        for head in range(HEADS):
            products = (query[batch, head, number] * key[batch, head]).sum(-1).tolist()
            odds = [
                math.exp(product / math.sqrt(CHANNELS) + factor * bias_of_token)
                for product, bias_of_token in zip(products, added, strict=True)
            ]
            for token in range(KEYS):
                sensor = 'lidar' if token < LIDAR else 'camera'
                part = f'{sensor}_{"windows" if inside[token] else "elsewhere"}'
                shares[part] += odds[token] / sum(odds) / HEADS
        result.append([shares[part] for part in PARTS])
    return result


@pytest.mark.parametrize('whole_camera', [False, True])
def test_shares_equal_a_sum_over_single_tokens(whole_camera):
    query, key, bias = random_attention(torch.float64, whole_camera)
    actual = attention_mass(query, key, bias, LIDAR)
    expected = torch.tensor(
        [
            [mass_by_loop(query, key, bias, batch, number) for number in range(QUERIES)]
            for batch in range(BATCH)
        ],
        dtype=torch.float64,
    ).permute(2, 0, 1, 3)
    assert actual.shape == (2, BATCH, QUERIES, 4)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
def test_shares_sum_to_one(dtype):
    mass = attention_mass(*random_attention(dtype), LIDAR)
    assert mass.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (mass >= 0).all()
    torch.testing.assert_close(mass.sum(-1), torch.ones_like(mass[..., 0]))


@pytest.mark.parametrize('max_logits', [1, BATCH * HEADS * KEYS * 3, 10**9])
def test_the_size_of_a_chunk_does_not_matter(max_logits):
    inputs = random_attention(torch.float64)
    torch.testing.assert_close(
        attention_mass(*inputs, LIDAR, max_logits=max_logits), attention_mass(*inputs, LIDAR)
    )


def test_a_case_by_hand():
    """Equal logits: before the bias each of 4 tokens has 1/4; then the odds are 1, 3, 1, 1/2."""
    bias = AttentionBias(
        torch.tensor([[[1, 3, -1]]]), torch.tensor([[[math.log(3), math.log(0.5), 9.0]]])
    )
    mass = attention_mass(torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 4, 8), bias, 2)
    lidar_windows, lidar_elsewhere, camera_elsewhere, camera_windows = mass[:, 0, 0].unbind(-1)
    torch.testing.assert_close(lidar_windows, torch.tensor([1 / 4, 3 / 5.5]))
    torch.testing.assert_close(lidar_elsewhere, torch.tensor([1 / 4, 1 / 5.5]))
    torch.testing.assert_close(camera_elsewhere, torch.tensor([1 / 4, 1 / 5.5]))
    torch.testing.assert_close(camera_windows, torch.tensor([1 / 4, 0.5 / 5.5]))


@pytest.mark.parametrize('num_lidar_tokens', [0, KEYS])
def test_a_missing_sensor_has_no_share(num_lidar_tokens):
    mass = attention_mass(*random_attention(torch.float64), num_lidar_tokens)
    lidar, camera = mass[..., :2].sum(-1), mass[..., 2:].sum(-1)
    present, missing = (lidar, camera) if num_lidar_tokens else (camera, lidar)
    assert (missing == 0).all()
    torch.testing.assert_close(present, torch.ones_like(present))


def test_a_bias_of_zero_changes_nothing():
    query, key, bias = random_attention(torch.float64)
    without, with_bias = attention_mass(
        query, key, AttentionBias(bias.index, 0 * bias.values), LIDAR
    )
    torch.testing.assert_close(without, with_bias, rtol=0, atol=0)
