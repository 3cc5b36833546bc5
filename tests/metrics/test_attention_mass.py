"""Shares of attention beside an independent softmax over all tokens, in float64."""

import math

import pytest
import torch

from cmt_bias.metrics.attention_mass import PARTS, attention_mass, attention_shares
from cmt_bias.ops import NOT_SEEN, QueryWindows, TokenLayout, Window, WindowedBias

BATCH, HEADS, QUERIES, CHANNELS = 2, 3, 7, 4
LAYOUT = TokenLayout((3, 4), 2, (2, 3))
KEYS = LAYOUT.num_tokens


def random_attention(dtype: torch.dtype, whole_camera: bool = False):
    """Projected queries and keys, and a bias; half of the queries see the first view alone."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(BATCH, HEADS, QUERIES, CHANNELS, generator=generator).to(dtype)
    key = 3 * torch.randn(BATCH, HEADS, KEYS, CHANNELS, generator=generator).to(dtype)
    cells = torch.randint(0, 2, (BATCH, QUERIES, 3, 2), generator=generator, dtype=torch.int32)
    cells[:, ::2, 2] = NOT_SEEN
    shapes = Window(1, sigma=1.5), Window(None if whole_camera else 0)
    strength = torch.randn(BATCH, QUERIES, 2, generator=generator, dtype=torch.float64)
    return query, key, WindowedBias(QueryWindows(LAYOUT, cells, shapes), 2 * strength.to(dtype))


def mass_by_loop(query, key, bias: WindowedBias, batch: int, number: int) -> list[list[float]]:
    """Shares of one query, without and with the bias, by sums over single tokens."""
    added, inside = [], []
    cells = bias.windows.cells[batch, number].tolist()
    for (_, rows, columns, modality), (row, column) in zip(LAYOUT.segments, cells, strict=True):
        window, strength = bias.windows.shapes[modality], bias.strength[batch, number, modality]
        for cell in range(rows * columns):
            down, right = cell // columns - row, cell % columns - column
            whole = window.radius is None
            inside.append(whole or max(abs(down), abs(right)) <= window.radius)
            gain = math.exp(-(down**2 + right**2) / 2 / window.sigma**2) if window.sigma else 1
            added.append(float(strength) * gain * inside[-1])
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
                sensor = 'lidar' if token < LAYOUT.num_lidar_tokens else 'camera'
                part = f'{sensor}_{"windows" if inside[token] else "elsewhere"}'
                shares[part] += odds[token] / sum(odds) / HEADS
        result.append([shares[part] for part in PARTS])
    return result


@pytest.mark.parametrize('whole_camera', [False, True])
def test_shares_equal_a_sum_over_single_tokens(whole_camera):
    query, key, bias = random_attention(torch.float64, whole_camera)
    actual = attention_mass(query, key, bias)
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
    mass = attention_mass(*random_attention(dtype))
    assert mass.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert (mass >= 0).all()
    torch.testing.assert_close(mass.sum(-1), torch.ones_like(mass[..., 0]))


def test_a_case_by_hand():
    """Equal logits: before the bias each of 4 tokens has 1/4; then the odds are 1, 3, 1, 1/2."""
    cells = torch.tensor([[[[0, 1], [0, 1]]]], dtype=torch.int32)
    windows = QueryWindows(TokenLayout((1, 2), 1, (1, 2)), cells, (Window(0), Window(0)))
    bias = WindowedBias(windows, torch.tensor([[[math.log(3), math.log(0.5)]]]))
    mass = attention_mass(torch.zeros(1, 2, 1, 8), torch.zeros(1, 2, 4, 8), bias)
    lidar_windows, lidar_elsewhere, camera_elsewhere, camera_windows = mass[:, 0, 0].unbind(-1)
    torch.testing.assert_close(lidar_windows, torch.tensor([1 / 4, 3 / 5.5]))
    torch.testing.assert_close(lidar_elsewhere, torch.tensor([1 / 4, 1 / 5.5]))
    torch.testing.assert_close(camera_elsewhere, torch.tensor([1 / 4, 1 / 5.5]))
    torch.testing.assert_close(camera_windows, torch.tensor([1 / 4, 0.5 / 5.5]))


@pytest.mark.parametrize('layout', [TokenLayout((4, 6)), TokenLayout(None, 4, (2, 3))], ids=str)
def test_a_missing_sensor_has_no_share(layout):
    query, key, bias = random_attention(torch.float64)
    cells = bias.windows.cells[:, :, :1].expand(-1, -1, len(layout.segments), -1)
    windows = QueryWindows(layout, cells, bias.windows.shapes)
    mass = attention_mass(query, key, WindowedBias(windows, bias.strength))
    lidar, camera = mass[..., :2].sum(-1), mass[..., 2:].sum(-1)
    present, missing = (lidar, camera) if layout.bev_shape else (camera, lidar)
    assert (missing == 0).all()
    torch.testing.assert_close(present, torch.ones_like(present))


def test_a_bias_of_zero_changes_nothing():
    query, key, bias = random_attention(torch.float64)
    without, with_bias = attention_mass(query, key, WindowedBias(bias.windows, 0 * bias.strength))
    torch.testing.assert_close(without, with_bias, rtol=0, atol=0)


def test_attention_is_shared_by_the_softmax_over_all_tokens():
    query, key = torch.zeros(2, 3, 5, 4), torch.randn(2, 3, 8, 4)
    torch.testing.assert_close(attention_shares(query, key), torch.full((2, 5, 8), 1 / 8))
    query[1], key[1, :, :6], key[1, :, 6:] = 1.0, 0.0, 1.0  # the last two have logits of 4 / 2
    odds = 2 * torch.tensor(2.0).exp()
    last_two = attention_shares(query, key)[1, :, 6:].sum(-1)
    torch.testing.assert_close(last_two, (odds / (odds + 6)).expand(5))
