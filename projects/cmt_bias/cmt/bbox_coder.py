"""Boxes, the ten values that CMT regresses for each, and from the head's outputs to boxes."""

from collections.abc import Sequence

import torch
from mmdet3d.models.layers import circle_nms
from mmdet3d.registry import TASK_UTILS
from torch import Tensor

# Values of an encoded box: cx, cy, log w, log l, cz, log h, sin yaw, cos yaw, vx, vy.
ENCODED_BOX_SIZE = 10
CLASS_DISTANCE = 1e5  # metres, between the classes' boxes where they are suppressed


def encode_boxes(boxes: Tensor) -> Tensor:
    """Encode boxes as regression targets: ``(..., 9)`` to ``(..., 10)``.

    A box is its gravity centre x, y, z, three sizes in metres, yaw in radians and velocity vx, vy
    in m/s; LiDAR frame. The head's branches are concatenated as center (2), height (1), dim (3),
    rot (2), vel (2), so the branch called ``height`` learns the log of the first size, and the
    second value of ``dim`` the centre's z. This naming quirk of the released checkpoints is kept.
    """
    center, sizes, yaw, velocity = boxes.split((3, 3, 1, 2), dim=-1)
    (xy, z), (log_size_01, log_size_2) = (v.split((2, 1), dim=-1) for v in (center, sizes.log()))
    return torch.cat((xy, log_size_01, z, log_size_2, yaw.sin(), yaw.cos(), velocity), dim=-1)


def decode_boxes(encoded: Tensor) -> Tensor:
    """Invert :func:`encode_boxes`: ``(..., 10)`` to ``(..., 9)`` with yaw in (-pi, pi]."""
    parts = encoded.split((2, 2, 1, 1, 1, 1, 2), dim=-1)
    xy, log_size_01, z, log_size_2, sine, cosine, velocity = parts
    yaw = torch.atan2(sine, cosine)
    return torch.cat((xy, z, log_size_01.exp(), log_size_2.exp(), yaw, velocity), dim=-1)


@TASK_UTILS.register_module()
class MultiTaskBBoxCoder:
    """Keep the best (query, class) pairs over all task groups.

    The released CMT suppresses nothing: in six layers its queries see what others have found.
    After two layers several queries still find the same object, which ``nms_radius`` is for.

    Args:
        pc_range: Range by which the head normalizes positions, in metres.
        post_center_range: Boxes with a centre outside are left out; None keeps all.
        max_num: Number of pairs kept, before any is suppressed.
        score_threshold: Boxes with a lower score are left out; None keeps all.
        nms_radius: Of the boxes of a class whose centres are no farther apart, in metres in the
            plane, only the best is kept, as by mmdet3d's CenterPoint; None keeps all. Of equal
            scores the one that comes first counts as the better.
        num_classes: Classes of all task groups together.
        voxel_size: Accepted for the released configs; decoding does not depend on it.

    Raises:
        ValueError: If ``nms_radius`` is not positive, or as large as a map of objects.
    """

    def __init__(
        self,
        pc_range: Sequence[float],
        post_center_range: Sequence[float] | None = None,
        max_num: int = 100,
        score_threshold: float | None = None,
        nms_radius: float | None = None,
        num_classes: int = 10,
        voxel_size: Sequence[float] | None = None,
    ) -> None:
        if nms_radius is not None and not 0 < nms_radius < CLASS_DISTANCE / 100:
            raise ValueError(
                f'MultiTaskBBoxCoder: nms_radius={nms_radius} must be positive, in metres and '
                f'less than {CLASS_DISTANCE / 100:g}; leave it out to keep all boxes.'
            )
        self.pc_range = list(pc_range)
        self.post_center_range = post_center_range
        self.max_num, self.num_classes = max_num, num_classes
        self.score_threshold, self.nms_radius = score_threshold, nms_radius

    def decode(
        self, task_logits: Sequence[Tensor], task_boxes: Sequence[Tensor]
    ) -> list[dict[str, Tensor]]:
        """Decode each task group's logits ``(B, Q, classes)`` and encoded boxes ``(B, Q, 10)``.

        Returns:
            For each sample ``bboxes`` ``(n, 9)`` (gravity centre, sizes, yaw, velocity; metres,
            LiDAR frame), ``scores`` ``(n,)`` in descending order, ``labels`` ``(n,)`` counted
            through the groups, and ``queries`` ``(n,)`` that the boxes come from.

        Raises:
            ValueError: If the groups' classes do not add up to ``num_classes``.
        """
        classes_of_task = [logits.shape[-1] for logits in task_logits]
        if sum(classes_of_task) != self.num_classes:
            raise ValueError(
                f'MultiTaskBBoxCoder: num_classes={self.num_classes} but the task groups have '
                f'{classes_of_task} classes; make bbox_coder.num_classes their sum.'
            )
        scores = torch.cat(list(task_logits), dim=-1).sigmoid()  # (B, Q, num_classes)
        boxes = torch.stack(list(task_boxes), dim=1)  # (B, tasks, Q, 10)
        task_of_class = torch.repeat_interleave(torch.tensor(classes_of_task))
        task_of_class = task_of_class.to(scores.device, non_blocking=True)
        results = []
        for of_sample, its_boxes in zip(scores, boxes, strict=True):
            best, pairs = of_sample.flatten().topk(min(self.max_num, of_sample.numel()))
            queries, labels = pairs // self.num_classes, pairs % self.num_classes
            decoded = decode_boxes(its_boxes[task_of_class[labels], queries])
            keep = torch.ones_like(best, dtype=torch.bool)
            if self.post_center_range is not None:
                limits = torch.tensor(self.post_center_range).to(decoded, non_blocking=True)
                center = decoded[:, :3]
                keep &= ((center >= limits[:3]) & (center <= limits[3:])).all(dim=-1)
            if self.score_threshold is not None:
                keep &= best > self.score_threshold
            kept = keep.nonzero().squeeze(-1)
            if self.nms_radius is not None:
                kept = kept[self._suppress(decoded[kept, :2], labels[kept])]
            found = dict(bboxes=decoded, scores=best, labels=labels, queries=queries)
            results.append({name: values[kept] for name, values in found.items()})
        return results

    def _suppress(self, centers: Tensor, labels: Tensor) -> Tensor:
        """Indices of what is kept of boxes ``(n, 2)``, the best of which come first."""
        assert self.nms_radius is not None
        boxes = torch.cat((centers.detach(), labels[:, None]), dim=1).double().cpu().numpy()
        boxes[:, 0] += CLASS_DISTANCE * boxes[:, 2]  # classes side by side, too far to touch
        boxes[:, 2] = range(len(boxes), 0, -1)  # their rank, which equal scores do not tell
        kept = circle_nms(boxes, self.nms_radius**2, len(boxes))
        return torch.as_tensor(kept, dtype=torch.long, device=labels.device)
