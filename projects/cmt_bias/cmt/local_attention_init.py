"""A start of CMT's weights from which every query attends to the tokens around it."""

import math
from collections.abc import Sequence

import torch
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from .head import CmtHead
from .position_encoding import bev_cell_centers, period, ray_depths

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
    tokens alike and learns over epochs to look where its reference point is. The released recipe
    has the iterations for that, a recipe of minutes has not. This start is no part of the released
    training; the model and its parameters are the same.

    Each head has position channels for both sensors, the first half of its channels for the BEV
    map, the second half for the cameras; a head of one sensor alone could not be taught whom to
    trust. Without a preference it starts with about as much attention on the one as on the other.
    Where one sensor is the easier one to learn from, all heads then turn to it within an epoch,
    and what gets no attention gets no gradient: a preference keeps half of the heads with each.

    - BEV channels: the embedding starts as a selection of its own sines and cosines, of which sums
      of products fall off with the distance alone. One channel is constant and levels the logit.
    - Camera channels: each stands for an azimuth; a ray excites those nearest to its own.

    Queries and keys start with the same projection. Use it as ``init_cfg`` of the detector:
    ``model = dict(init_cfg=dict(type='LocalAttention'))``.

    Args:
        amplitude: Size of the BEV position channels; large against the content's, which is
            about 1.
        radius: Standard deviation of the attention around the reference point, near it a
            Gaussian, as a share of the range's width.
        peak_logit: Logit of the BEV cell at the reference point itself; without a camera's view
            of it, other sensors' tokens are at 0.
        camera_peak_logit: Mean logit of a camera token on the same ray as the query; tokens more
            than two channels' azimuths away are at or below 0.
        spread_reference_points: Put the reference points on a grid at half height instead of
            anywhere.
        preference: Logits by which the peak of the cameras is lowered in the first half of the
            heads, and that of the BEV map in the other half.
    """

    def __init__(
        self,
        amplitude: float = 10.0,
        radius: float = 0.07,
        peak_logit: float = 9.0,
        camera_peak_logit: float = 9.0,
        spread_reference_points: bool = False,
        preference: float = 0.0,
    ) -> None:
        self.amplitude = amplitude
        self.radius = radius
        self.peak_logit = peak_logit
        self.camera_peak_logit = camera_peak_logit
        self.spread_reference_points = spread_reference_points
        self.preference = preference

    def __call__(self, module: nn.Module) -> None:
        """Initialize the :class:`CmtHead` in ``module``.

        Raises:
            ValueError: If there is not exactly one CMT head, or its attention heads are too wide
                or too narrow.
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
        sees_cameras = head.rv_embedding is not None
        halves = [channels.chunk(2) if sees_cameras else (channels,) for channels in of_heads]
        bev_channels = [parts[0] for parts in halves]
        selected = self._selected_features(len(bev_channels[0]), 2 * head.hidden_dim)
        with torch.no_grad():
            self._init_bev_embedding(head.bev_embedding, bev_channels, selected)
            gain = self._gain(selected, head.hidden_dim, attentions[0].head_dim)
            for attention in attentions:
                self._init_projections(attention, bev_channels, len(selected), gain)
            if sees_cameras:
                camera_channels = [parts[1] for parts in halves]
                self._init_ray_embedding(head, camera_channels, gain, attentions[0].head_dim)
            if self.spread_reference_points:
                self._init_reference_points(head.reference_points.weight)

    def _gain(self, selected: Tensor, num_pos_feats: int, head_dim: int) -> float:
        """Factor of queries and of keys at which the logits fall off as ``radius`` says.

        A pair of sine and cosine with period d contributes ``cos(2 pi x / d)`` to the product at
        the normalized distance x, hence ``-(2 pi / d)^2 x^2 / 2`` near 0.
        """
        of_x = selected[len(selected) // 2 :: 2] - num_pos_feats
        curvature = (2 * math.pi / period(of_x, num_pos_feats)).square().sum()
        product = head_dim**0.5 / (self.radius**2 * float(curvature))
        return product**0.5 / self.amplitude

    def _init_bev_embedding(
        self, embedding: nn.Sequential, bev_channels: Sequence[Tensor], selected: Tensor
    ) -> None:
        """Make the embedding linear in selected sines and cosines, once for each head.

        The last of a head's BEV channels is constant.
        """
        first, last = embedding[0], embedding[2]
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        count = len(selected)
        rows = torch.arange(count)
        first.weight[:count] = 0
        first.weight[rows, selected] = 1
        first.bias[:count] = 1  # sines plus 1 pass the ReLU as they are
        last.weight.zero_()
        last.bias.zero_()
        for channels in bev_channels:
            last.weight[channels[:count], rows] = self.amplitude
            last.bias[channels[:count]] = -self.amplitude
            last.bias[channels[-1]] = self.amplitude

    @staticmethod
    def _selected_features(num_channels: int, num_features: int) -> Tensor:
        """Indices of pairs of sine and cosine, as many of y as of x, over all frequencies.

        Raises:
            ValueError: If there is no channel for a pair of each axis and the constant.
        """
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

    def _init_projections(
        self,
        attn: nn.MultiheadAttention,
        bev_channels: Sequence[Tensor],
        count: int,
        gain: float,
    ) -> None:
        """Share one scaled identity between queries and keys, and level the BEV logits."""
        query_weight, key_weight, _ = attn.in_proj_weight.chunk(3)
        identity = torch.eye(attn.embed_dim, device=query_weight.device) * gain
        query_weight.copy_(identity)
        key_weight.copy_(identity)
        # a pair of sine and cosine contributes 1 to the product at distance 0
        nearest = (gain * self.amplitude) ** 2 * count / 2 / attn.head_dim**0.5
        for head, channels in enumerate(bev_channels):
            peak = self.peak_logit - self.preference * (head >= (len(bev_channels) + 1) // 2)
            query_weight[channels[-1]] = 0
            attn.in_proj_bias[channels[-1]] = (
                (peak - nearest) * attn.head_dim**0.5 / (gain * self.amplitude)
            )

    def _init_ray_embedding(
        self, head: CmtHead, camera_channels: Sequence[Tensor], gain: float, head_dim: int
    ) -> None:
        """Let each camera channel of a head be excited by rays of one azimuth.

        Across its azimuth, ``s`` metres aside for each metre of depth, a channel is the hat
        function ``max(0, 1 - |s| / w)``, a sum of three ReLUs, less a part of its way behind.
        """
        assert head.rv_embedding is not None
        first, last = head.rv_embedding[0], head.rv_embedding[2]
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        num_azimuths = len(camera_channels[0])
        if 4 * num_azimuths > first.out_features:
            raise ValueError(
                f'init_cfg LocalAttention: {num_azimuths} camera channels of an attention head '
                'are too many; use more num_heads.'
            )
        azimuth = 2 * math.pi * torch.arange(num_azimuths) / num_azimuths
        width = math.sin(REACH * 2 * math.pi / num_azimuths)
        along = self._ray_weight(head, azimuth.cos(), azimuth.sin())
        aside = self._ray_weight(head, -azimuth.sin(), azimuth.cos())
        used = first.weight[: 4 * num_azimuths].unflatten(0, (4, num_azimuths))
        used.copy_(torch.stack((aside, aside, aside, -along)))
        edges = torch.tensor((width, 0.0, -width, 0.0)).repeat_interleave(num_azimuths)
        first.bias[: 4 * num_azimuths] = edges
        last.weight.zero_()
        last.bias.zero_()
        hat = torch.tensor((1 / width, -2 / width, 1 / width, -BEHIND))
        for index, channels in enumerate(camera_channels):
            prefers_lidar = index < (len(camera_channels) + 1) // 2
            peak = self.camera_peak_logit - self.preference * prefers_lidar
            square = peak * head_dim**0.5 / self._mean_square(num_azimuths, width)
            for part, factor in enumerate(hat * square**0.5 / gain):
                hidden = part * num_azimuths + torch.arange(num_azimuths)
                last.weight[channels, hidden] = factor

    @staticmethod
    def _mean_square(num_azimuths: int, width: float) -> float:
        """Sum of a level ray's squared channels, before the amplitude, mean over azimuths."""
        azimuth = torch.linspace(0, 2 * math.pi, 3601)[:-1]
        hat = (1 - azimuth.sin().abs() / width).clamp(min=0)
        channel = hat - BEHIND * (-azimuth.cos()).clamp(min=0)
        return num_azimuths * float(channel.square().mean())

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
