"""The prediction branches of one task group, for all decoder layers at once, and their boxes.

Shape letters: L decoder layers, B batch, Q queries, C channels.
"""

from collections.abc import Mapping, Sequence

import torch
from mmdet.models.layers import inverse_sigmoid
from mmdet3d.registry import MODELS
from mmengine.model import BaseModule
from torch import Tensor, nn

from .position_encoding import range_limits

# The branches whose outputs, in this order, are the ten values of an encoded box.
BOX_BRANCHES = ('center', 'height', 'dim', 'rot', 'vel')


class GroupLayerNorm1d(nn.Module):
    """Layer normalization over the channels of each group, unlike ``nn.GroupNorm`` not over Q."""

    def __init__(self, channels: int, groups: int = 1, eps: float = 1e-6) -> None:
        super().__init__()
        self.groups, self.eps = groups, eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, features: Tensor) -> Tensor:
        """Normalize ``(B, channels, Q)`` and apply the affine parameters."""
        grouped = features.unflatten(1, (self.groups, -1))  # (B, groups, channels / groups, Q)
        # Two means: torch.var_mean is many times slower over an axis that is not the last.
        centered = grouped - grouped.mean(dim=2, keepdim=True)
        variance = centered.square().mean(dim=2, keepdim=True)
        normalized = (centered * torch.rsqrt(variance + self.eps)).flatten(1, 2)
        return normalized * self.weight[:, None] + self.bias[:, None]


@MODELS.register_module()
class SeparateTaskHead(BaseModule):
    """One small convolutional branch for each predicted quantity.

    All decoder layers run at once, as groups of the convolutions with weights of their own.

    Args:
        in_channels, groups: Channels C of a query, and number of decoder layers L.
        heads: For each branch, among them ``cls_logits``, the number of outputs and convolutions.
        head_conv: Hidden channels of a branch.
        final_kernel: Kernel size of the convolutions, over neighbouring queries.
        init_bias: Initial bias of the class logits.
        init_cfg: Must be None: the branches start Kaiming-normal.
    """

    def __init__(
        self,
        in_channels: int,
        heads: Mapping[str, Sequence[int]],
        groups: int = 1,
        head_conv: int = 64,
        final_kernel: int = 1,
        init_bias: float = -2.19,
        init_cfg: None = None,
    ) -> None:
        if init_cfg is not None:
            raise ValueError('separate_head: init_cfg must be None; remove it from the config.')
        super().__init__(init_cfg=dict(type='Kaiming', layer='Conv1d'))
        self.groups, self.init_bias = groups, init_bias
        # Not as a dict has them: mmengine sorts the keys of the configs that it writes, and an
        # optimizer's state knows its parameters by their order.
        others = sorted(set(heads) - {*BOX_BRANCHES, 'cls_logits'})
        self.branch_names = tuple(n for n in (*BOX_BRANCHES, *others, 'cls_logits') if n in heads)

        def conv(inputs: int, outputs: int, bias: bool) -> nn.Conv1d:
            sizes = (inputs * groups, outputs * groups, final_kernel)
            return nn.Conv1d(*sizes, padding=final_kernel // 2, groups=groups, bias=bias)

        for name in self.branch_names:
            out_channels, num_convs = heads[name]
            branch = nn.Sequential()
            channels = in_channels
            for _ in range(num_convs - 1):
                norm = GroupLayerNorm1d(head_conv * groups, groups)
                branch.extend([conv(channels, head_conv, False), norm, nn.ReLU(inplace=True)])
                channels = head_conv
            branch.append(conv(channels, out_channels, True))
            self.add_module(name, branch)
        # Here too, as `init_weights` never reaches modules within a ModuleList.
        nn.init.constant_(self.get_submodule('cls_logits')[-1].bias, init_bias)

    def init_weights(self) -> None:
        """Kaiming convolutions; the class logits start at a low probability."""
        super().init_weights()
        nn.init.constant_(self.get_submodule('cls_logits')[-1].bias, self.init_bias)

    def forward(self, queries: Tensor) -> dict[str, Tensor]:
        """For each branch ``(L, B, Q, outputs)`` of the decoder layers' ``(L, B, Q, C)``."""
        stacked = queries.permute(1, 0, 3, 2).flatten(1, 2)  # (B, L * C, Q)
        outputs = {}
        for name in self.branch_names:
            output = self.get_submodule(name)(stacked)  # (B, L * outputs, Q)
            outputs[name] = output.unflatten(1, (self.groups, -1)).permute(1, 0, 3, 2)
        return outputs


def predict_task(
    task_head: nn.Module, queries: Tensor, reference_points: Tensor, pc_range: Tensor
) -> dict[str, Tensor]:
    """Outputs ``(L, B, Q, values)`` of a task head, centre and height in metres.

    ``queries`` are ``(L, B, Q, C)``, ``reference_points`` ``(B, Q, 3)`` normalized.
    """
    branches = task_head(queries)
    reference = inverse_sigmoid(reference_points)
    low, high = range_limits(pc_range, queries)
    center = (branches['center'] + reference[..., :2]).sigmoid()
    height = (branches['height'] + reference[..., 2:]).sigmoid()
    branches['center'] = center * (high - low)[:2] + low[:2]
    branches['height'] = height * (high - low)[2:] + low[2:]
    return branches


def encoded_boxes(task: dict[str, Tensor], prefix: str = '') -> Tensor:
    """``(L, B, Q, 10)`` of the outputs of a task group's branches."""
    return torch.cat([task[prefix + name] for name in BOX_BRANCHES], dim=-1)
