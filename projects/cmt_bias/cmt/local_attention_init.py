"""A start of CMT's weights from which every query attends to the tokens around it."""

import math
from collections.abc import Sequence

import torch
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from .head import CmtHead
from .position_encoding import bev_cell_centers, ray_depths

# Negative part of a direction's channel behind it, relative to its peak: prefers a ray to the
# opposite one, which lies on the same line and excites the same channel.
BEHIND = 0.15


@WEIGHT_INITIALIZERS.register_module(name='LocalAttention')
class LocalAttentionInit:
    """Initialize attention to be local, in the BEV map and in the cameras' directions.

    CMT's position embeddings vary slowly over range and rays, so a fresh decoder attends to all
    tokens alike and learns over epochs to look where its reference point is. The released recipe
    has the iterations for that, a recipe of minutes has not. This start is no part of the released
    training; the model and its parameters are the same.

    The first half of the heads looks at the LiDAR's tokens, the second half at the cameras'; a
    head has position channels for its own sensor alone, so that neither can take all attention.

    - BEV heads: the embedding starts as a selection of its own sines and cosines, of which sums
      of products fall off with the distance alone. One channel is constant and levels the logit.
    - Camera heads: each channel stands for an azimuth; a ray excites those nearest to its own.

    Queries and keys start with the same projection. Use it as ``init_cfg`` of the detector:
    ``model = dict(init_cfg=dict(type='LocalAttention'))``.

    Args:
        amplitude: Size of the BEV position channels; large against the content's, which is
            about 1.
        sharpness: How fast the logits fall off with the distance. At 12 nearly half of a BEV
            head's attention lies within 6 % of the range's width.
        peak_logit: Logit of the BEV cell at the reference point itself; other sensors' tokens are
            at 0.
        camera_peak_logit: Mean logit of a camera token on the same ray as the query; tokens more
            than two channels' azimuths away are at or below 0.
        spread_reference_points: Put the reference points on a grid at half height instead of
            anywhere.
    """

    def __init__(
        self,
        amplitude: float = 10.0,
        sharpness: float = 12.0,
        peak_logit: float = 9.0,
        camera_peak_logit: float = 5.0,
        spread_reference_points: bool = False,
    ) -> None:
        self.amplitude = amplitude
        self.sharpness = sharpness
        self.peak_logit = peak_logit
        self.camera_peak_logit = camera_peak_logit
        self.spread_reference_points = spread_reference_points

    def __call__(self, module: nn.Module) -> None:
        """Initialize the :class:`CmtHead` in ``module``.

        Raises:
            ValueError: If there is not exactly one CMT head, or its attention heads are too wide.
        """
        heads = [part for part in module.modules() if isinstance(part, CmtHead)]
        if len(heads) != 1:
            raise ValueError(
                f'init_cfg LocalAttention: {type(module).__name__} has {len(heads)} CMT heads, '
                'one is needed; remove it from the init_cfg of this model.'
            )
        (head,) = heads
        attentions = [
            attention.attn
            for layer in head.transformer.decoder.layers
            for attention in layer.attentions
        ]
        of_heads = torch.arange(head.hidden_dim).chunk(attentions[0].num_heads)
        num_bev_heads = len(of_heads) if head.rv_embedding is None else (len(of_heads) + 1) // 2
        bev_heads, camera_heads = of_heads[:num_bev_heads], of_heads[num_bev_heads:]
        with torch.no_grad():
            count = self._init_bev_embedding(head.bev_embedding, bev_heads)
            for attention in attentions:
                self._init_projections(attention, bev_heads, count)
            if camera_heads:
                self._init_ray_embedding(head, camera_heads)
            if self.spread_reference_points:
                self._init_reference_points(head.reference_points.weight)

    @property
    def _gain(self) -> float:
        """Factor of queries and of keys."""
        return self.sharpness**0.5 / self.amplitude

    def _init_bev_embedding(self, embedding: nn.Sequential, bev_heads: Sequence[Tensor]) -> int:
        """Make the embedding linear in selected sines and cosines, once for each BEV head.

        Returns:
            Number of position channels of a head; the last one of a head is constant.
        """
        first, last = embedding[0], embedding[2]
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        selected = self._selected_features(len(bev_heads[0]), first.in_features)
        count = len(selected)
        rows = torch.arange(count)
        first.weight[:count] = 0
        first.weight[rows, selected] = 1
        first.bias[:count] = 1  # sines plus 1 pass the ReLU as they are
        last.weight.zero_()
        last.bias.zero_()
        for channels in bev_heads:
            last.weight[channels[:count], rows] = self.amplitude
            last.bias[channels[:count]] = -self.amplitude
            last.bias[channels[-1]] = self.amplitude
        return count

    @staticmethod
    def _selected_features(head_channels: int, num_features: int) -> Tensor:
        """Indices of pairs of sine and cosine, as many of y as of x, over all frequencies."""
        half = num_features // 2
        pairs = (head_channels - 1) // 4
        first_of_pair = torch.linspace(0, half // 2 - 1, pairs).round().long() * 2
        of_one_axis = torch.stack((first_of_pair, first_of_pair + 1), dim=1).flatten()
        return torch.cat((of_one_axis, of_one_axis + half))

    def _init_projections(
        self, attn: nn.MultiheadAttention, bev_heads: Sequence[Tensor], count: int
    ) -> None:
        """Share one scaled identity between queries and keys, and level the BEV heads' logits."""
        query_weight, key_weight, _ = attn.in_proj_weight.chunk(3)
        identity = torch.eye(attn.embed_dim, device=query_weight.device) * self._gain
        query_weight.copy_(identity)
        key_weight.copy_(identity)
        # A pair of sine and cosine contributes 1 at distance 0.
        nearest = self.sharpness * count / 2 / attn.head_dim**0.5
        shift = (self.peak_logit - nearest) * attn.head_dim**0.5 / (self._gain * self.amplitude)
        for channels in bev_heads:
            query_weight[channels[-1]] = 0
            attn.in_proj_bias[channels[-1]] = shift

    def _init_ray_embedding(self, head: CmtHead, camera_heads: Sequence[Tensor]) -> None:
        """Let each channel of a camera head be excited by rays of one azimuth.

        Across its azimuth, ``s`` metres aside for each metre of depth, a channel is the hat
        function ``max(0, 1 - |s| / w)``, a sum of three ReLUs.
        """
        assert head.rv_embedding is not None
        first, last = head.rv_embedding[0], head.rv_embedding[2]
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        num_azimuths = len(camera_heads[0])
        if 4 * num_azimuths > first.out_features:
            raise ValueError(
                f'init_cfg LocalAttention: attention heads of {num_azimuths} channels are too '
                'wide; use more num_heads.'
            )
        azimuth = 2 * math.pi * torch.arange(num_azimuths) / num_azimuths
        width = math.sin(2 * math.pi / num_azimuths)
        along = self._ray_weight(head, azimuth.cos(), azimuth.sin())
        aside = self._ray_weight(head, -azimuth.sin(), azimuth.cos())
        used = first.weight[: 4 * num_azimuths].unflatten(0, (4, num_azimuths))
        used.copy_(torch.stack((aside, aside, aside, -along)))
        edges = torch.tensor((width, 0.0, -width, 0.0)).repeat_interleave(num_azimuths)
        first.bias[: 4 * num_azimuths] = edges
        # hats next to each other, as wide as their distance, have squares that sum to 2/3
        peak = self.camera_peak_logit * num_azimuths**0.5 / (2 / 3)
        amplitude = peak**0.5 / self._gain
        last.weight.zero_()
        last.bias.zero_()
        hat = torch.tensor((1 / width, -2 / width, 1 / width, -BEHIND)) * amplitude
        for channels in camera_heads:
            for part, factor in enumerate(hat):
                hidden = part * num_azimuths + torch.arange(num_azimuths)
                last.weight[channels, hidden] = factor

    @staticmethod
    def _ray_weight(head: CmtHead, x: Tensor, y: Tensor) -> Tensor:
        """Rows that read, off a ray's points, how far it goes along ``(x, y)`` a metre of depth.

        The points come depth by depth, normalized; their difference from first to last is used.
        """
        low, high = torch.tensor(head.pc_range[:3]), torch.tensor(head.pc_range[3:])
        depths = ray_depths(head.depth_num, head.pc_range[3], 'cpu')
        factor = torch.stack((x, y), dim=1) * (high - low)[:2] / (depths[-1] - depths[0])
        weight = torch.zeros(len(x), head.depth_num, 3)
        weight[:, -1, :2] = factor
        weight[:, 0, :2] = -factor
        return weight.flatten(1)

    @staticmethod
    def _init_reference_points(points: Tensor) -> None:
        """Spread ``(Q, 3)`` normalized points over a square grid, evenly left out if Q is none."""
        side = math.ceil(len(points) ** 0.5)
        rows = math.ceil(len(points) / side)
        grid = bev_cell_centers((rows, side), points.device)
        chosen = torch.linspace(0, len(grid) - 1, len(points), device=points.device).round().long()
        points[:, :2] = grid[chosen]
        points[:, 2] = 0.5
