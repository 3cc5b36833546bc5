"""Denoising queries: noised ground-truth centres that stabilize the matching in training.

Each box of a sample is repeated in G groups; a group's queries see one another and the learned
queries, the learned queries see no denoising query. Shape letters: B batch, Q learned queries,
n the largest number of boxes in a sample, G groups, P = G * n denoising queries a sample, N = G
times the number of boxes in the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .position_encoding import PointRange, normalize_points


@dataclass(frozen=True)
class DenoisingQueries:
    """The denoising part of a batch."""

    reference_points: Tensor  # (B, P, 3) normalized; padding is 0
    boxes: Tensor  # (N, 9) to be found: gravity centre, sizes, yaw, velocity
    labels: Tensor  # (N,) classes to be predicted, background where the noise was large
    box_labels: Tensor  # (N,) classes of the boxes
    sample_index: Tensor  # (N,) sample of each
    query_index: Tensor  # (N,) position in reference_points of each
    group_size: int  # n

    @property
    def num_queries(self) -> int:
        """P, padding included."""
        return self.reference_points.shape[1]

    def self_attention_mask(self, num_learned: int) -> Tensor | None:
        """``(P + Q, P + Q)``, True where a query (row) must not see another (column).

        None without denoising queries; ``num_learned`` is Q.
        """
        if not self.num_queries:
            return None
        index = torch.arange(self.num_queries + num_learned, device=self.reference_points.device)
        group = torch.div(index, self.group_size, rounding_mode='floor')
        denoising = index < self.num_queries
        return denoising & ~(denoising[:, None] & (group[:, None] == group))


def make_denoising_queries(
    gt_boxes: Sequence[Tensor],
    gt_labels: Sequence[Tensor],
    num_learned: int,
    pc_range: PointRange,
    background_label: int,
    max_groups: int,
    noise_scale: float,
    noise_trans: float,
    split: float,
) -> DenoisingQueries:
    """Noise and repeat the boxes of a batch; without boxes there are no denoising queries.

    Args:
        gt_boxes, gt_labels: For each sample ``(n_b, 9)``, as :attr:`DenoisingQueries.boxes`, in
            metres, and ``(n_b,)`` class indices.
        num_learned: Q.
        pc_range: Range by which centres are normalized, metres.
        max_groups: Most groups G; fewer where G * n would exceed the learned queries.
        noise_scale: Factor of the noise; 1 moves a centre within its box.
        noise_trans: Added to the half size of the box, in metres.
        split: Queries whose noise draw in [-1, 1)^3 has a larger 2-norm become background.
    """
    counts = [len(boxes) for boxes in gt_boxes]
    group_size = max(counts)
    groups = min(max_groups, num_learned // group_size) if group_size else 0
    boxes = torch.cat(list(gt_boxes)).repeat(groups, 1)
    box_labels = torch.cat(list(gt_labels)).long().repeat(groups)
    device = boxes.device

    # counted on the host, and copied to the device without waiting for it
    samples = torch.repeat_interleave(torch.tensor(counts))
    indices = torch.stack((samples, torch.cat([torch.arange(count) for count in counts])))
    sample_index, index_in_sample = indices.to(device, non_blocking=True)
    group_start = torch.arange(groups, device=device) * group_size
    query_index = (group_start[:, None] + index_in_sample).flatten()
    where = sample_index.repeat(groups), query_index

    centers, labels = boxes[:, :3], box_labels
    if noise_scale > 0:
        draw = torch.rand_like(centers) * 2 - 1
        reach = boxes[:, 3:6] / 2 + noise_trans
        centers = centers + draw * reach * noise_scale
        labels = labels.masked_fill(draw.norm(dim=1) > split, background_label)
    points = boxes.new_zeros(len(counts), groups * group_size, 3)
    points[where] = normalize_points(centers, pc_range).clamp(0, 1)
    return DenoisingQueries(points, boxes, labels, box_labels, *where, group_size)
