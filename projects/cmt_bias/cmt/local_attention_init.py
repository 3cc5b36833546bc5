"""A start of CMT's weights from which every query attends to the tokens around it."""

import math

import torch
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from .head import CmtHead
from .position_encoding import BevEmbedding, RayEmbedding, bev_cell_centers, period

# Logit of the BEV cell at the reference point itself, where no camera sees it, and mean logit of a
# camera token on the query's own ray; tokens more than two channels' azimuths away are below 0.
PEAK_LOGIT = 9.0
# How far a direction's channel reaches, in channels: at 2 the logit of a ray to itself depends
# little on how the channels' directions lie to it.
REACH = 2
# Negative part of a direction's channel behind it, relative to its peak: prefers a ray to the
# opposite one, which lies on the same line and excites the same channel.
BEHIND = 0.5


@WEIGHT_INITIALIZERS.register_module(name='LocalAttention')
class LocalAttentionInit:
    """Initialize attention to be local, in the BEV map and in the cameras' directions.

    CMT's position embeddings vary slowly over range and rays, so a fresh decoder attends to all
    tokens alike and learns over epochs to look where its reference point is; a recipe of minutes
    has not the iterations for that. Use: ``model = dict(init_cfg=dict(type='LocalAttention'))``.

    The first half of each head's channels is for the BEV map, the second for the cameras; a head
    of one sensor alone could not be taught whom to trust.

    - BEV channels: the embedding starts as a selection of its own sines and cosines, of which sums
      of products fall off with the distance alone. One channel is constant and levels the logit.
    - Camera channels: each stands for an azimuth; a ray excites those nearest to its own.

    Args:
        amplitude: Size of the BEV position channels. What tokens hold is added to them and blurs
            where attention looks, the more the larger it is against them.
        radius: Standard deviation of the attention to tokens around the reference point, near it
            a Gaussian, as a share of the range's width.
        self_radius: That of the attention to other queries; by default ``radius``.
        spread_reference_points: Put the reference points on a grid at half height.
        preference: Logits by which the peak of the cameras is lowered in the first half of the
            heads, and that of the BEV map in the other half. Without it all heads turn to the
            sensor that is easier to learn from, and what gets no attention gets no gradient.
    """

    def __init__(
        self,
        amplitude: float = 10.0,
        radius: float = 0.07,
        self_radius: float | None = None,
        spread_reference_points: bool = False,
        preference: float = 0.0,
    ) -> None:
        self.amplitude, self.preference = amplitude, preference
        self.radius = radius
        self.self_radius = radius if self_radius is None else self_radius
        self.spread_reference_points = spread_reference_points

    @torch.no_grad()
    def __call__(self, module: nn.Module) -> None:
        """Initialize the one :class:`CmtHead` in ``module``.

        Raises ValueError if there is not one, or its attention heads are too wide or too narrow.
        """
        found = [part for part in module.modules() if isinstance(part, CmtHead)]
        if len(found) != 1:
            raise ValueError(
                f'init_cfg LocalAttention: {type(module).__name__} has {len(found)} CMT heads, '
                'one is needed; remove it from the init_cfg of this model.'
            )
        (head,) = found
        layers = head.transformer.decoder.layers
        cross_attentions = [layer.cross_attention.attn for layer in layers]
        heads, head_dim = cross_attentions[0].num_heads, cross_attentions[0].head_dim
        channels = torch.arange(heads * head_dim).unflatten(0, (heads, head_dim))
        of_sensors = channels.chunk(1 if head.rv_embedding is None else 2, dim=1)
        selected = _selected_features(of_sensors[0].shape[1], 2 * head.hidden_dim)
        self._init_bev_embedding(head.bev_embedding, of_sensors[0], selected)
        # A pair of sine and cosine with period d contributes cos(2 pi x / d) to the product at the
        # normalized distance x, hence -(2 pi / d)^2 x^2 / 2 near 0.
        periods = period(selected[len(selected) // 2 :: 2] - head.hidden_dim, head.hidden_dim)
        curvature = float((2 * math.pi / periods).square().sum())
        gain = (head_dim**0.5 / curvature) ** 0.5 / self.amplitude  # over the radius
        lowered = torch.arange(heads) >= (heads + 1) // 2
        peaks = PEAK_LOGIT - self.preference * lowered.double()
        for attention in (part.attn for layer in layers for part in layer.attentions):
            radius = self.radius if attention in cross_attentions else self.self_radius
            self._init_projections(attention, of_sensors[0], len(selected), gain / radius, peaks)
        if head.rv_embedding is not None:
            peaks = PEAK_LOGIT - self.preference * (~lowered).double()
            squares = peaks * head_dim**0.5
            _init_ray_embedding(head.rv_embedding, of_sensors[1], squares, gain / self.radius)
        if self.spread_reference_points:
            _spread(head.reference_points.weight)

    def _init_bev_embedding(
        self, embedding: BevEmbedding, channels: Tensor, selected: Tensor
    ) -> None:
        """Make it the selected sines and cosines in each head, whose last channel is constant."""
        first, last = embedding.linears
        count, rows = len(selected), torch.arange(len(selected))
        first.weight[:count] = 0
        first.weight[rows, selected] = 1
        first.bias[:count] = 1  # sines plus 1 pass the ReLU as they are
        last.weight.zero_()
        last.bias.zero_()
        last.weight[channels[:, :count], rows] = self.amplitude
        last.bias[channels[:, :count]] = -self.amplitude
        last.bias[channels[:, -1]] = self.amplitude

    def _init_projections(
        self, attn: nn.MultiheadAttention, channels: Tensor, count: int, gain: float, peaks: Tensor
    ) -> None:
        """Share one scaled identity between queries and keys, and level the heads' BEV logits."""
        query_weight, key_weight, _ = attn.in_proj_weight.chunk(3)
        identity = torch.eye(attn.embed_dim, device=query_weight.device) * gain
        query_weight.copy_(identity)
        key_weight.copy_(identity)
        query_weight[channels[:, -1]] = 0
        # a pair of sine and cosine contributes 1 to the product at distance 0
        nearest = (gain * self.amplitude) ** 2 * count / 2 / attn.head_dim**0.5
        level = (peaks - nearest) * attn.head_dim**0.5 / (gain * self.amplitude)
        attn.in_proj_bias[channels[:, -1]] = level.to(attn.in_proj_bias)


def _selected_features(num_channels: int, num_features: int) -> Tensor:
    """Indices of pairs of sine and cosine, as many of y as of x, over all frequencies."""
    half = num_features // 2
    pairs = (num_channels - 1) // 4
    if not pairs:
        raise ValueError(
            f'init_cfg LocalAttention: {num_channels} BEV channels of an attention head are '
            'too few, it takes 5; use less num_heads.'
        )
    first_of_pair = torch.linspace(0, half // 2 - 1, pairs).round().long() * 2
    of_one_axis = torch.stack((first_of_pair, first_of_pair + 1), dim=1).flatten()
    return torch.cat((of_one_axis, of_one_axis + half))


def _init_ray_embedding(
    embedding: RayEmbedding, channels: Tensor, squares: Tensor, gain: float
) -> None:
    """Let each of ``(heads, n)`` channels be excited by rays of one azimuth.

    Across its azimuth, ``s`` metres aside for each metre of depth, a channel is the hat function
    ``max(0, 1 - |s| / w)``, a sum of three ReLUs, less a part of its way behind. ``squares``
    ``(heads,)`` are the sums of a level ray's squared channels, times the gain.
    """
    (first, last), count = embedding.linears, channels.shape[1]
    if 4 * count > first.out_features:
        raise ValueError(
            f'init_cfg LocalAttention: {count} camera channels of an attention head are too many; '
            'use more num_heads.'
        )
    azimuth = 2 * math.pi * torch.arange(count) / count
    width = math.sin(REACH * 2 * math.pi / count)
    along = _ray_weight(embedding, azimuth.cos(), azimuth.sin())
    aside = _ray_weight(embedding, -azimuth.sin(), azimuth.cos())
    first.weight[: 4 * count] = torch.cat((aside, aside, aside, -along))
    first.bias[: 4 * count] = torch.tensor((width, 0.0, -width, 0.0)).repeat_interleave(count)
    around = torch.linspace(0, 2 * math.pi, 3601)[:-1]
    channel = (1 - around.sin().abs() / width).clamp(min=0)
    channel -= BEHIND * (-around.cos()).clamp(min=0)
    of_one = count * float(channel.square().mean())
    hat = torch.tensor((1 / width, -2 / width, 1 / width, -BEHIND))
    factors = hat * (squares / of_one).sqrt().float().unsqueeze(1) / gain  # (heads, 4)
    last.weight.zero_()
    last.bias.zero_()
    hidden = torch.arange(4 * count).view(4, count)
    last.weight[channels.unsqueeze(1), hidden] = factors.to(last.weight).unsqueeze(2)


def _ray_weight(embedding: RayEmbedding, x: Tensor, y: Tensor) -> Tensor:
    """Rows that read off a ray's ends how far it goes along ``(x, y)`` for a metre of depth."""
    limits, depths = embedding.range_limits.cpu(), embedding.depths.cpu()
    factor = torch.stack((x, y), dim=1) * (limits[3:5] - limits[:2]) / (depths[-1] - depths[0])
    weight = torch.zeros(len(x), len(depths), 3)
    weight[:, -1, :2] = factor
    weight[:, 0, :2] = -factor
    return weight.flatten(1)


def _spread(points: Tensor) -> None:
    """Spread ``(Q, 3)`` normalized points over a square grid, evenly left out if Q is none."""
    side = math.ceil(len(points) ** 0.5)
    grid = bev_cell_centers((math.ceil(len(points) / side), side), points.device)
    chosen = torch.linspace(0, len(grid) - 1, len(points), device=points.device).round().long()
    points[:, :2] = grid[chosen]
    points[:, 2] = 0.5
