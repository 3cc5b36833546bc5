"""A start of CMT's weights from which every query attends to the BEV cells around it."""

import math

import torch
from mmengine.registry import WEIGHT_INITIALIZERS
from torch import Tensor, nn

from .head import CmtHead


@WEIGHT_INITIALIZERS.register_module(name='LocalAttention')
class LocalAttentionInit:
    """Initialize cross-attention to be local in the BEV map.

    CMT's position embedding varies slowly, by one period over the whole range, so a fresh decoder
    attends to all cells alike and learns over epochs to look where its reference point is. The
    released recipe has the iterations for that, a recipe of minutes has not. This start is no part
    of the released training; the model and its parameters are the same.

    The BEV embedding starts as a selection of its own sines and cosines, of which sums of products
    fall off with the distance alone, and queries and keys start with the same projection. One
    channel of each head holds a constant that levels the nearest cell's logit, so that camera
    tokens, whose logits start near 0, keep a share of the attention.

    Use it as ``init_cfg`` of the detector: ``model = dict(init_cfg=dict(type='LocalAttention'))``.

    Args:
        amplitude: Size of the position channels; large against the content's, which is about 1.
        sharpness: How fast the logits fall off. At 12 nearly half of the BEV attention lies
            within 6 % of the range's width.
        peak_logit: Logit of the cell that a head attends to most.
        head_offset: How far beside the reference point the heads of the cross-attention look, each
            in a direction of its own, normalized by the range. CMT's values carry no position: one
            head alone cannot tell on which side of its reference point an object is.
    """

    def __init__(
        self,
        amplitude: float = 10.0,
        sharpness: float = 12.0,
        peak_logit: float = 9.0,
        head_offset: float = 0.0,
    ) -> None:
        self.amplitude = amplitude
        self.sharpness = sharpness
        self.peak_logit = peak_logit
        self.head_offset = head_offset

    def __call__(self, module: nn.Module) -> None:
        """Initialize the :class:`CmtHead` in ``module``.

        Raises:
            ValueError: If there is not exactly one CMT head.
        """
        heads = [part for part in module.modules() if isinstance(part, CmtHead)]
        if len(heads) != 1:
            raise ValueError(
                f'init_cfg LocalAttention: {type(module).__name__} has {len(heads)} CMT heads, '
                'one is needed; remove it from the init_cfg of this model.'
            )
        first, last = heads[0].bev_embedding[0], heads[0].bev_embedding[2]
        assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
        layers = heads[0].transformer.decoder.layers
        num_heads = layers[0].attentions[0].num_heads
        with torch.no_grad():
            selected = self._init_embedding(first, last, num_heads)
            for layer in layers:
                self_attention, cross_attention = layer.attentions
                self._init_projections(self_attention.attn, len(selected))
                self._init_projections(cross_attention.attn, len(selected))
                self._turn_heads(cross_attention.attn, selected, first.in_features // 2)

    def _init_embedding(self, first: nn.Linear, last: nn.Linear, num_heads: int) -> Tensor:
        """Make the embedding linear in the selected features, once for each attention head.

        Returns:
            Indices of the features that a head's first channels hold; its last one is constant.
        """
        selected = self._selected_features(last.out_features // num_heads, first.in_features)
        count = len(selected)
        rows = torch.arange(count)
        first.weight[:count] = 0
        first.weight[rows, selected] = 1
        first.bias[:count] = 1  # sines plus 1 pass the ReLU as they are
        last.weight[:, :count] = 0
        for channels in torch.arange(last.out_features).chunk(num_heads):
            last.weight[channels[:count]] = 0
            last.weight[channels[:count], rows] = self.amplitude
            last.bias[channels[:count]] = -self.amplitude
            last.weight[channels[-1]] = 0
            last.bias[channels[-1]] = self.amplitude
        return selected

    @staticmethod
    def _selected_features(head_channels: int, num_features: int) -> Tensor:
        """Indices of pairs of sine and cosine, as many of y as of x, over all frequencies."""
        half = num_features // 2
        pairs = (head_channels - 1) // 4
        first_of_pair = torch.linspace(0, half // 2 - 1, pairs).round().long() * 2
        of_one_axis = torch.stack((first_of_pair, first_of_pair + 1), dim=1).flatten()
        return torch.cat((of_one_axis, of_one_axis + half))

    def _init_projections(self, attn: nn.MultiheadAttention, count: int) -> None:
        """Share one scaled identity between queries and keys, and level the logits."""
        embed_dims, head_dim = attn.embed_dim, attn.head_dim
        gain = self.sharpness**0.5 / self.amplitude
        query_weight, key_weight, _ = attn.in_proj_weight.chunk(3)
        identity = torch.eye(embed_dims, device=query_weight.device) * gain
        query_weight.copy_(identity)
        key_weight.copy_(identity)
        constant = torch.arange(head_dim - 1, embed_dims, head_dim)
        query_weight[constant] = 0
        # A pair of sine and cosine contributes 1 at distance 0.
        nearest = self.sharpness * count / 2 / head_dim**0.5
        shift = (self.peak_logit - nearest) * head_dim**0.5 / (gain * self.amplitude)
        attn.in_proj_bias[constant] = shift

    def _turn_heads(self, attn: nn.MultiheadAttention, selected: Tensor, per_axis: int) -> None:
        """Let each head look beside the reference point: turn its pairs of sine and cosine."""
        query_weight, _, _ = attn.in_proj_weight.chunk(3)
        frequency = 2 * math.pi / (2 * torch.div(selected[::2] % per_axis, 2) / per_axis + 1)
        for head, direction in enumerate(torch.arange(attn.num_heads) / attn.num_heads):
            angle = 2 * math.pi * (float(direction) + 0.125)
            offset = self.head_offset * torch.tensor((math.sin(angle), math.cos(angle)))  # y, x
            turn = frequency * offset[(selected[::2] >= per_axis).long()]
            rows = head * attn.head_dim + torch.arange(0, len(selected), 2)
            gain = query_weight[rows, rows]
            # sin(a + b) = sin a cos b + cos a sin b, cos(a + b) = cos a cos b - sin a sin b
            query_weight[rows, rows] = gain * turn.cos()
            query_weight[rows, rows + 1] = gain * turn.sin()
            query_weight[rows + 1, rows + 1] = gain * turn.cos()
            query_weight[rows + 1, rows] = -gain * turn.sin()
