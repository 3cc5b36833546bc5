"""The start from which a fresh decoder attends to the cells around a query."""

from pathlib import Path

import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from cmt_bias.cmt import LocalAttentionInit
from cmt_bias.cmt.local_attention_init import PEAK_LOGIT
from cmt_bias.cmt.position_encoding import bev_cell_centers, normalize_points

TINY = next((Path(__file__).parents[2] / 'configs' / 'cmt').glob('cmt-tiny_*.py'))


@pytest.fixture
def head() -> torch.nn.Module:
    init_default_scope('mmdet3d')
    torch.manual_seed(0)
    cfg = Config.fromfile(TINY).model
    return MODELS.build(
        dict(cfg.pts_bbox_head, train_cfg=cfg.train_cfg.pts, test_cfg=cfg.test_cfg.pts)
    )


def attention_to(
    head: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, number: int = 1
) -> torch.Tensor:
    """Attention of bare positions ``(Q, C)`` to bare positions ``(K, C)``, ``(heads, Q, K)``."""
    attention = head.transformer.decoder.layers[0].attentions[number]
    query, key, _ = attention.project_heads(query[None], key[None], key[None])
    logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return logits.softmax(-1)[0]


def bev_positions(head: torch.nn.Module, positions: torch.Tensor) -> torch.Tensor:
    return head.bev_embedding(positions)


def share_within(head: torch.nn.Module, radius: float) -> torch.Tensor:
    """Least mass of a head within a normalized distance of 20 random positions."""
    positions = torch.rand(20, 2) * 0.8 + 0.1
    cells = bev_cell_centers(head.bev_shape, 'cpu')
    with torch.no_grad():
        mass = attention_to(head, bev_positions(head, positions), bev_positions(head, cells))
    return (mass * (torch.cdist(positions, cells) < radius)).sum(-1).amin(0)


def test_heads_gather_around_the_query_wherever_it_is(head):
    uniform = 3.14159 * 0.1**2
    assert share_within(head, 0.1).max() < 3 * uniform
    LocalAttentionInit()(head)
    assert share_within(head, 0.1).min() > 0.5


@pytest.mark.parametrize('number', [0, 1])  # among queries, to tokens
@pytest.mark.parametrize('radius', [0.02, 0.05])
def test_attention_is_a_gaussian_of_the_configured_radius(head, radius, number):
    radii = dict(radius=0.1, self_radius=radius) if number == 0 else dict(radius=radius)
    LocalAttentionInit(amplitude=20.0, **radii)(head)
    positions = torch.rand(20, 2) * 0.4 + 0.3
    cells = bev_cell_centers((200, 200), 'cpu')
    with torch.no_grad():
        mass = attention_to(
            head, bev_positions(head, positions), bev_positions(head, cells), number
        )
    deviation = (cells - positions[:, None]).square()  # (Q, K, 2)
    spread = torch.einsum('hqk,qkc->hqc', mass, deviation).sqrt()
    torch.testing.assert_close(spread, torch.full_like(spread, radius), rtol=0.1, atol=0)


def ray_positions(head: torch.nn.Module, azimuths: torch.Tensor) -> torch.Tensor:
    """Position embeddings of level rays from a camera near the origin, ``(N, C)``."""
    directions = torch.stack((azimuths.cos(), azimuths.sin(), torch.zeros_like(azimuths)), dim=-1)
    points = directions[:, None] * head.rv_embedding.depths[:, None] + torch.tensor(
        [0.5, 1.0, -0.3]
    )
    return head.rv_embedding(normalize_points(points, head.pc_range).flatten(1))


def test_heads_look_along_the_querys_own_ray(head):
    LocalAttentionInit()(head)
    all_azimuths = torch.arange(0, 360, 3).deg2rad()
    with torch.no_grad():
        rays = ray_positions(head, all_azimuths)
        mass = attention_to(head, rays, rays)[0]
    apart = (all_azimuths[:, None] - all_azimuths + torch.pi).remainder(2 * torch.pi) - torch.pi
    assert (mass * (apart.abs() < 0.4)).sum(-1).min() > 0.7
    assert (mass * (apart.abs() > 2.0)).sum(-1).max() < 0.25


def share_of_cells(head: torch.nn.Module) -> torch.Tensor:
    """Attention to the BEV map beside the cameras' rays, ``(heads, Q)``."""
    positions = torch.rand(20, 2) * 0.8 + 0.1
    with torch.no_grad():
        cells = bev_positions(head, bev_cell_centers(head.bev_shape, 'cpu'))
        # as dense as six rows of 16 cells a camera
        rays = ray_positions(head, torch.arange(0, 360, 0.7).deg2rad())
        query = bev_positions(head, positions) + ray_positions(head, torch.rand(20))
        mass = attention_to(head, query, torch.cat((cells, rays)))
    return mass[:, :, : len(cells)].sum(-1)


def test_every_head_attends_to_both_sensors(head):
    LocalAttentionInit()(head)
    share = share_of_cells(head)
    assert share.min() > 0.2
    assert share.max() < 0.8


def test_with_a_preference_half_of_the_heads_start_with_each_sensor(head):
    LocalAttentionInit(preference=3.0)(head)
    lidar, cameras = share_of_cells(head)
    assert lidar.min() > 0.8 and lidar.max() < 1
    assert cameras.min() > 0 and cameras.max() < 0.2


def test_own_cell_has_the_stated_logit(head):
    LocalAttentionInit()(head)
    attention = head.transformer.decoder.layers[1].attentions[1]
    tokens = bev_positions(head, bev_cell_centers(head.bev_shape, 'cpu'))[None]
    query, key, _ = attention.project_heads(tokens, tokens, tokens)
    own = (query * key).sum(-1)[:, 0] / query.shape[-1] ** 0.5
    torch.testing.assert_close(own, torch.full_like(own, PEAK_LOGIT), rtol=0, atol=0.05)


def test_head_without_cameras_uses_all_channels_for_the_bev_map(head):
    head.rv_embedding = None
    LocalAttentionInit()(head)
    positions = torch.rand(20, 2) * 0.8 + 0.1
    cells = bev_cell_centers(head.bev_shape, 'cpu')
    mass = attention_to(head, bev_positions(head, positions), bev_positions(head, cells))
    within = (mass * (torch.cdist(positions, cells) < 0.15)).sum(-1)
    assert within.min() > 0.5
    used = head.bev_embedding[2].weight.abs().sum(1).unflatten(0, (2, -1))  # (heads, channels)
    assert (used > 0).sum(1).tolist() == [28, 28]


def test_model_without_a_cmt_head_is_refused():
    with pytest.raises(ValueError, match='0 CMT heads'):
        LocalAttentionInit()(torch.nn.Linear(2, 2))


@pytest.mark.parametrize('num_query', [324, 40, 1])
def test_reference_points_are_spread_over_the_range_if_asked_for(head, num_query):
    random = head.reference_points.weight.detach().clone()
    LocalAttentionInit()(head)
    assert torch.equal(head.reference_points.weight, random)
    head.reference_points = torch.nn.Embedding(num_query, 3)
    LocalAttentionInit(spread_reference_points=True)(head)
    points = head.reference_points.weight.detach()
    assert torch.all(points[:, 2] == 0.5)
    assert points.min() >= 0 and points.max() <= 1
    if num_query > 1:
        distances = torch.cdist(points, points) + 9 * torch.eye(num_query)
        spacing = num_query**-0.5
        assert distances.amin(1).min() > 0.8 * spacing
        assert distances.amin(1).max() < 1.5 * spacing
