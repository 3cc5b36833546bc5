"""Trust by a query's own look at the sensors' tokens."""

from collections.abc import Sequence

from mmcv.cnn.bricks.transformer import FFN
from mmdet3d.registry import MODELS
from torch import Tensor, nn
from torch.nn.functional import layer_norm

from ...cmt.precision import autocast_off
from ...ops import MODALITIES, QueryWindows, window_attention
from .weight_generator import WeightGenerator


@MODELS.register_module()
class AQRWeightGenerator(WeightGenerator):
    """The adaptive query router with continuous weights (Park et al., MoME, CVPR 2025).

    A query attends to the fused memory, over the tokens in its own windows alone; a feed-forward
    network follows with a residual, each with a normalization, then a linear layer and tanh. Where
    MoME picks one of three decoders for a query, here each sensor gets a weight.

    The query's position says where to look and is not added to what it finds. It is larger than
    the tokens (up to 300 to 1 from :class:`LocalAttentionInit`) and, added, hid from the router
    whether cameras were black; where it looks, positions and tokens are normalized first, so that
    it starts to look at both sensors.

    The linear layer starts at zero, so that all weights are 0 and a model that departs from a CMT
    checkpoint starts with exactly its outputs.

    Raises:
        ValueError: If ``embed_dims`` is not divisible by ``num_heads``.
    """

    def __init__(self, embed_dims: int, num_heads: int = 4, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        if embed_dims % num_heads:
            raise ValueError(
                f'weight_generator: embed_dims={embed_dims} is not divisible by num_heads='
                f'{num_heads}; choose num_heads that divides it.'
            )
        self.num_heads = num_heads
        self.query_proj = nn.Linear(embed_dims, embed_dims)
        self.key_proj = nn.Linear(embed_dims, embed_dims)
        self.value_proj = nn.Linear(embed_dims, embed_dims)
        self.out_proj = nn.Linear(embed_dims, embed_dims)
        self.attention_norm = nn.LayerNorm(embed_dims)
        self.ffn = FFN(embed_dims=embed_dims, feedforward_channels=4 * embed_dims)
        self.ffn_norm = nn.LayerNorm(embed_dims)
        self.weight_logits = nn.Linear(embed_dims, len(MODALITIES))
        for projection in (self.query_proj, self.key_proj, self.value_proj):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        nn.init.zeros_(self.weight_logits.weight)
        nn.init.zeros_(self.weight_logits.bias)

    def forward(
        self,
        query_pos: Tensor,
        memory: Tensor,
        memory_pos: Tensor,
        windows: QueryWindows,
        img_metas: Sequence[dict],
    ) -> tuple[Tensor, Tensor]:
        """See :meth:`WeightGenerator.forward`."""
        size = query_pos.shape[-1:]
        projected = (
            self.query_proj(layer_norm(query_pos, size)),
            self.key_proj(layer_norm(memory, size) + layer_norm(memory_pos, size)),
            self.value_proj(memory),
        )
        # (B, N, C) -> (B, H, N, D)
        query, key, value = (
            tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for tokens in projected
        )
        # zeros for a query without any token
        attended = window_attention(query, key, value, windows).transpose(1, 2).flatten(2)
        attended = self.out_proj(attended)
        with autocast_off(attended):
            routed = self.attention_norm(attended.float())
            routed = self.ffn_norm(self.ffn(routed))
            lidar, camera = self.weight_logits(routed).tanh().unbind(-1)
        return lidar, camera
