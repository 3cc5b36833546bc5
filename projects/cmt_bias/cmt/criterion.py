"""CMT's training losses: set prediction for learned queries, reconstruction for denoising ones.

Shape letters: L decoder layers, B batch, Q queries, N denoising queries that stand for a box.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import torch
from mmdet.utils import reduce_mean
from mmdet3d.registry import MODELS, TASK_UTILS
from mmengine.structures import InstanceData
from torch import Tensor, nn

from .assigner import Match
from .box_encoding import ENCODED_BOX_SIZE, encode_boxes
from .denoising import DenoisingQueries
from .precision import autocast_off
from .task_head import encoded_boxes

# Weight of an unmatched query in the average factor of the class loss (released value).
BACKGROUND_AVERAGE_WEIGHT = 0.1

# Class logits (L, B, Q, classes of the group) and encoded boxes (L, B, Q, 10) of a task group.
_Prediction = tuple[Tensor, Tensor]


class CmtCriterion(nn.Module):
    """Losses of all decoder layers, summed over the task groups.

    Args:
        loss_cls, loss_bbox, assigner: Configs of the class loss, the box loss and the assigner.
        code_weights: Weight of each of the ten values of an encoded box.
        classes_of_task: Number of classes of each task group; labels count through the groups.
        dn_weight: Factor of the denoising losses.
        dn_split: ``split`` of the denoising queries: the class loss is averaged over the expected
            number of queries that stay foreground.

    Raises:
        ValueError: If there are not ten code weights.
    """

    box_weights: Tensor

    def __init__(
        self,
        loss_cls: dict,
        loss_bbox: dict,
        assigner: dict,
        code_weights: Sequence[float],
        classes_of_task: Sequence[int],
        dn_weight: float,
        dn_split: float,
    ) -> None:
        super().__init__()
        if len(code_weights) != ENCODED_BOX_SIZE:
            raise ValueError(
                f'train_cfg.code_weights needs {ENCODED_BOX_SIZE} values, got '
                f'{len(code_weights)}: {list(code_weights)}.'
            )
        self.loss_cls = MODELS.build(loss_cls)
        self.loss_bbox = MODELS.build(loss_bbox)
        self.assigner = TASK_UTILS.build(assigner)
        self.register_buffer('box_weights', torch.tensor(code_weights).float(), persistent=False)
        # first class of each task group, and that of the next one
        self.class_ranges = list(pairwise(accumulate(classes_of_task, initial=0)))
        self.dn_weight = dn_weight
        self.dn_split = dn_split

    def forward(
        self, tasks: Sequence[dict], batch_gt_instances_3d: Sequence[InstanceData]
    ) -> dict[str, Tensor]:
        """Compute the losses, in float32.

        Args:
            tasks: For each task group the outputs that :meth:`CmtHead.forward` gives.
            batch_gt_instances_3d: For each sample ``bboxes_3d`` and ``labels_3d``.

        Returns:
            ``loss_cls`` and ``loss_bbox`` of the last layer, ``d{i}.loss_cls`` ... of layer i, and
            the same with ``dn_`` for the denoising queries, if there are some.
        """
        with autocast_off(self.box_weights):
            kinds = {'': self._matching_losses(_predictions(tasks), batch_gt_instances_3d)}
            if 'denoising' in tasks[0]:
                noised = _predictions(tasks, 'dn_')
                kinds['dn_'] = self._denoising_losses(noised, tasks[0]['denoising'])
        losses: dict[str, Tensor] = {}
        for prefix, of_layers in kinds.items():
            layers = [*(f'd{number}.' for number in range(len(of_layers) - 1)), '']
            for layer, of_layer in zip(layers, of_layers, strict=True):
                losses[f'{layer}{prefix}loss_cls'], losses[f'{layer}{prefix}loss_bbox'] = of_layer
        return losses

    def _matching_losses(
        self, tasks: list[_Prediction], batch_gt_instances_3d: Sequence[InstanceData]
    ) -> Tensor:
        """Class and box loss of each layer, ``(L, 2)``."""
        targets = self._targets(batch_gt_instances_3d)
        layers = [  # of one task group after the other
            (logits[layer], boxes[layer], of_task)
            for (logits, boxes), of_task in zip(tasks, targets, strict=True)
            for layer in range(len(logits))
        ]
        pairs = [
            (InstanceData(scores=of_sample, bboxes=its_boxes), target)
            for layer in layers
            for of_sample, its_boxes, target in zip(*layer, strict=True)
        ]
        matches = iter(self.assigner.match(pairs))
        losses = [
            self._matching_loss(*layer, [next(matches) for _ in batch_gt_instances_3d])
            for layer in layers
        ]
        return _sum_over_tasks(losses, len(tasks))

    def _targets(self, batch_gt_instances_3d: Sequence[InstanceData]) -> list[list[InstanceData]]:
        """For each task group and sample the encoded boxes and the labels of the group's classes.

        Which boxes these are is found on the host: with one copy of all labels to it, and one of
        all indices back.
        """
        device = self.box_weights.device
        boxes = [encode_boxes(gravity_center_boxes(gt).to(device)) for gt in batch_gt_instances_3d]
        labels = [gt.labels_3d.to(device).long() for gt in batch_gt_instances_3d]
        on_host = torch.cat(labels).cpu().split([len(part) for part in labels])
        chosen = [
            ((part >= first) & (part < end)).nonzero().squeeze(-1)
            for first, end in self.class_ranges
            for part in on_host
        ]
        indices = torch.cat(chosen).to(device, non_blocking=True)
        parts = iter(indices.split([len(part) for part in chosen]))
        return [
            [
                InstanceData(bboxes=of_sample[index], labels=label[index] - first)
                for of_sample, label, index in zip(boxes, labels, parts, strict=False)
            ]
            for first, _ in self.class_ranges
        ]

    def _matching_loss(
        self, logits: Tensor, boxes: Tensor, targets: list[InstanceData], matches: list[Match]
    ) -> Tensor:
        """Losses ``(2,)`` of one layer and task group: ``(B, Q, classes)``, ``(B, Q, 10)``."""
        labels = torch.full(logits.shape[:2], logits.shape[-1], device=logits.device)
        for of_sample, target, match in zip(labels, targets, matches, strict=True):
            of_sample[match.queries] = target.labels[match.boxes]
        predicted = [of[match.queries] for of, match in zip(boxes, matches, strict=True)]
        wanted = [of.bboxes[match.boxes] for of, match in zip(targets, matches, strict=True)]

        positives = sum(len(match.queries) for match in matches)
        negatives = labels.numel() - positives
        class_average = max(positives + BACKGROUND_AVERAGE_WEIGHT * negatives, 1.0)
        loss_cls = self.loss_cls(logits.flatten(0, 1), labels.flatten(), avg_factor=class_average)
        loss_bbox = self._box_loss(
            torch.cat(predicted), torch.cat(wanted), max(positives, 1), True
        )
        return torch.stack((loss_cls, loss_bbox))

    def _denoising_losses(self, tasks: list[_Prediction], denoising: DenoisingQueries) -> Tensor:
        """Class and box loss of each layer, ``(L, 2)``.

        Every rank calls ``reduce_mean``, whether it has boxes or not.
        """
        num_boxes = len(denoising.boxes)
        class_average = max(num_boxes * math.pi / 6 * self.dn_split**3, 1.0)
        count = denoising.boxes.new_full((), float(num_boxes))
        box_average = reduce_mean(count).clamp(min=1)
        wanted = encode_boxes(denoising.boxes)

        where = (denoising.sample_index, denoising.query_index)
        losses = []
        for (logits, boxes), (first, end) in zip(tasks, self.class_ranges, strict=True):
            labels, box_labels = (
                (of - first).masked_fill((of < first) | (of >= end), end - first)  # background
                for of in (denoising.labels, denoising.box_labels)
            )
            is_own = box_labels < end - first
            for of_layer, its_boxes in zip(logits, boxes, strict=True):
                loss_cls = self.loss_cls(of_layer[where], labels, avg_factor=class_average)
                loss_bbox = self._box_loss(its_boxes[where], wanted, box_average, is_own)
                losses.append(torch.stack((loss_cls, loss_bbox)))
        return self.dn_weight * _sum_over_tasks(losses, len(tasks))

    def _box_loss(
        self, predicted: Tensor, wanted: Tensor, average: int | Tensor, counted: Tensor | bool
    ) -> Tensor:
        """Weighted loss of ``(n, 10)`` predictions, of those that are ``counted`` ``(n,)``.

        Boxes with a non-finite target have no weight: nuScenes has some without a velocity (NaN).
        """
        finite = torch.isfinite(wanted).all(dim=-1)
        weight = self.box_weights * (finite & counted).unsqueeze(-1)
        wanted = wanted.where(finite.unsqueeze(-1), 0.0)
        return self.loss_bbox(predicted, wanted, weight, avg_factor=average)


def _predictions(tasks: Sequence[dict], prefix: str = '') -> list[_Prediction]:
    """Class logits and encoded boxes of each task group, in float32."""
    return [
        (task[f'{prefix}cls_logits'].float(), encoded_boxes(task, prefix).float())
        for task in tasks
    ]


def _sum_over_tasks(losses: list[Tensor], num_tasks: int) -> Tensor:
    """``(L, 2)`` of the losses ``(2,)`` of all layers of the first task group, the second, ..."""
    return torch.stack(losses).unflatten(0, (num_tasks, -1)).sum(dim=0)


def gravity_center_boxes(gt_instances_3d: InstanceData) -> Tensor:
    """Boxes of a sample as ``(n, 9)``: gravity centre, sizes, yaw, velocity.

    Raises:
        ValueError: If the boxes carry no velocity.
    """
    boxes = gt_instances_3d.bboxes_3d
    if boxes.tensor.shape[-1] != 9:
        raise ValueError(
            f'CMT needs boxes with velocity (9 values), got {boxes.tensor.shape[-1]}; set '
            "with_velocity=True in the dataset and keep 'bboxes_3d' of the info file complete."
        )
    return torch.cat((boxes.gravity_center, boxes.tensor[:, 3:]), dim=1)
