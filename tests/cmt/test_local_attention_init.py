"""The start from which a fresh decoder attends to the cells around a query."""

from pathlib import Path

import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from cmt_bias.cmt import LocalAttentionInit
from cmt_bias.cmt.position_encoding import bev_cell_centers, pos2embed

TINY = next((Path(__file__).parents[2] / 'configs' / 'cmt').glob('cmt-tiny_*.py'))


@pytest.fixture
def head() -> torch.nn.Module:
    init_default_scope('mmdet3d')
    torch.manual_seed(0)
    cfg = Config.fromfile(TINY).model
    return MODELS.build(
        dict(cfg.pts_bbox_head, train_cfg=cfg.train_cfg.pts, test_cfg=cfg.test_cfg.pts)
    )


def bev_attention(head: torch.nn.Module, positions: torch.Tensor) -> torch.Tensor:
    """Attention of bare positions to bare cells in the first cross-attention, (Q, cells)."""
    attention = head.transformer.decoder.layers[0].attentions[1]
    query = head.bev_embedding(pos2embed(positions, head.hidden_dim))[None]
    key = head.bev_embedding(pos2embed(bev_cell_centers(head.bev_shape, 'cpu'), head.hidden_dim))[
        None
    ]
    query, key, _ = attention.project_heads(query, key, key)
    logits = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    return logits.softmax(-1)[0].mean(0)


def share_within(head: torch.nn.Module, radius: float) -> torch.Tensor:
    positions = torch.rand(20, 2) * 0.8 + 0.1
    distance = torch.cdist(positions, bev_cell_centers(head.bev_shape, 'cpu'))
    with torch.no_grad():
        return (bev_attention(head, positions) * (distance < radius)).sum(-1)


def test_attention_gathers_around_the_query_wherever_it_is(head):
    uniform = 3.14159 * 0.1**2
    assert share_within(head, 0.1).max() < 3 * uniform
    LocalAttentionInit()(head)
    assert share_within(head, 0.1).min() > 0.5


def test_sharpness_narrows_the_attention(head):
    LocalAttentionInit(sharpness=4)(head)
    wide = share_within(head, 0.1).mean()
    LocalAttentionInit(sharpness=24)(head)
    assert share_within(head, 0.1).mean() > wide + 0.1


def test_nearest_cell_has_the_configured_logit(head):
    LocalAttentionInit(peak_logit=5.0)(head)
    attention = head.transformer.decoder.layers[1].attentions[1]
    centers = bev_cell_centers(head.bev_shape, 'cpu')
    tokens = head.bev_embedding(pos2embed(centers, head.hidden_dim))[None]
    query, key, _ = attention.project_heads(tokens, tokens, tokens)
    own = (query * key).sum(-1) / query.shape[-1] ** 0.5
    torch.testing.assert_close(own, torch.full_like(own, 5.0), rtol=0, atol=0.05)


def test_model_without_a_cmt_head_is_refused():
    with pytest.raises(ValueError, match='0 CMT heads'):
        LocalAttentionInit()(torch.nn.Linear(2, 2))
