"""Training losses against loops over queries, boxes and every possible matching."""

import itertools
import math
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.structures import InstanceData

from cmt_bias.cmt.criterion import CmtCriterion, gravity_center_boxes
from cmt_bias.cmt.denoising import make_denoising_queries

CODE_WEIGHTS = [2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2]
CLASSES_OF_TASK = (1, 2, 1)
CLASSES = sum(CLASSES_OF_TASK)
LAYERS, BATCH, QUERIES = 2, 2, 5
DN_WEIGHT, SPLIT = 0.5, 0.7


class TaskPrediction(NamedTuple):
    """Class logits and encoded boxes of a task group."""

    logits: torch.Tensor
    boxes: torch.Tensor

    def branches(self, prefix: str = '') -> dict[str, torch.Tensor]:
        """As a head's branches give them."""
        parts = self.boxes.split((2, 1, 3, 2, 2), dim=-1)
        named = zip(('center', 'height', 'dim', 'rot', 'vel'), parts, strict=True)
        return {prefix + 'cls_logits': self.logits} | {prefix + name: x for name, x in named}


def losses_of(predictions, instances, dn_predictions=None, denoising=None) -> dict:
    tasks = [prediction.branches() for prediction in predictions]
    for task, prediction in zip(tasks, dn_predictions or (), strict=False):
        task.update(prediction.branches('dn_'), denoising=denoising)
    return build()(tasks, instances)


def build(**changes) -> CmtCriterion:
    settings_ = dict(
        loss_cls=dict(type='mmdet.FocalLoss', use_sigmoid=True, loss_weight=2.0),
        loss_bbox=dict(type='mmdet.L1Loss', loss_weight=0.25),
        assigner=dict(
            type='HungarianAssigner3D',
            cls_cost=dict(type='mmdet.FocalLossCost', weight=2.0),
            reg_cost=dict(type='BBox3DL1Cost', weight=0.25),
            code_weights=CODE_WEIGHTS,
        ),
        code_weights=CODE_WEIGHTS,
        classes_of_task=CLASSES_OF_TASK,
        dn_weight=DN_WEIGHT,
        dn_split=SPLIT,
    )
    return CmtCriterion(**dict(settings_, **changes))


def random_ground_truth(counts: tuple[int, ...], seed: int, nan_velocity: bool) -> list:
    generator = torch.Generator().manual_seed(seed)
    instances = []
    for count in counts:
        boxes = torch.randn(count, 9, generator=generator) * 3
        boxes[:, 3:6] = boxes[:, 3:6].abs() + 0.2
        if nan_velocity and count:
            boxes[0, 7:] = torch.nan
        labels = torch.randint(0, CLASSES, (count,), generator=generator)
        instances.append(
            InstanceData(bboxes_3d=LiDARInstance3DBoxes(boxes, box_dim=9), labels_3d=labels)
        )
    return instances


def random_predictions(num_queries: int, seed: int) -> list[TaskPrediction]:
    generator = torch.Generator().manual_seed(seed)
    shape = (LAYERS, BATCH, num_queries)
    return [
        TaskPrediction(
            torch.randn(*shape, classes, generator=generator).requires_grad_(),
            (3 * torch.randn(*shape, 10, generator=generator)).requires_grad_(),
        )
        for classes in CLASSES_OF_TASK
    ]


def make_denoising(instances: list):
    return make_denoising_queries(
        [gravity_center_boxes(gt) for gt in instances],
        [gt.labels_3d for gt in instances],
        num_learned=9,
        pc_range=(-50, -50, -5, 50, 50, 3),
        background_label=CLASSES,
        max_groups=3,
        noise_scale=1.0,
        noise_trans=0.0,
        split=SPLIT,
    )


def focal(logit: float, positive: bool) -> float:
    p = 1 / (1 + math.exp(-logit))
    if positive:
        return -0.25 * (1 - p) ** 2 * math.log(p)
    return -0.75 * p**2 * math.log(1 - p)


def focal_cost(logit: float) -> float:
    p = 1 / (1 + math.exp(-logit))
    positive = -0.25 * (1 - p) ** 2 * math.log(p + 1e-12)
    return positive + 0.75 * p**2 * math.log(1 - p + 1e-12)


def encode(box: list[float]) -> list[float]:
    x, y, z, a, b, c, yaw, vx, vy = box
    sizes = [math.log(value) for value in (a, b, c)]
    return [x, y, *sizes[:2], z, sizes[2], math.sin(yaw), math.cos(yaw), vx, vy]


def weighted_distance(code: list[float], target: list[float], values: int) -> float:
    return sum(CODE_WEIGHTS[i] * abs(code[i] - target[i]) for i in range(values))


def cheapest_matching(logits: list, codes: list, targets: list) -> tuple[int, ...]:
    """The query of each target."""

    def total(queries: tuple[int, ...]) -> float:
        return sum(
            2.0 * focal_cost(logits[query][label])
            + 0.25 * weighted_distance(codes[query], target, 8)
            for query, (label, target) in zip(queries, targets, strict=True)
        )

    return min(itertools.permutations(range(len(codes)), len(targets)), key=total)


def own_targets(instances: InstanceData, first: int, classes: int) -> list[tuple]:
    boxes = gravity_center_boxes(instances).double().tolist()
    return [
        (label - first, encode(box))
        for label, box in zip(instances.labels_3d.tolist(), boxes, strict=True)
        if first <= label < first + classes
    ]


def matching_losses(predictions: list, instances: list, layer: int) -> tuple[float, float]:
    loss_cls = loss_bbox = 0.0
    first = 0
    for prediction, classes in zip(predictions, CLASSES_OF_TASK, strict=True):
        class_sum = box_sum = 0.0
        positives = 0
        for sample in range(BATCH):
            logits = prediction.logits[layer, sample].double().tolist()
            codes = prediction.boxes[layer, sample].double().tolist()
            targets = own_targets(instances[sample], first, classes)
            queries = cheapest_matching(logits, codes, targets)
            label_of = {query: label for query, (label, _) in zip(queries, targets, strict=True)}
            positives += len(queries)
            for query, values in enumerate(logits):
                for label, logit in enumerate(values):
                    class_sum += focal(logit, label_of.get(query) == label)
            for query, (_, target) in zip(queries, targets, strict=True):
                if all(map(math.isfinite, target)):
                    box_sum += weighted_distance(codes[query], target, 10)
        negatives = BATCH * len(codes) - positives
        loss_cls += 2.0 * class_sum / max(positives + 0.1 * negatives, 1)
        loss_bbox += 0.25 * box_sum / max(positives, 1)
        first += classes
    return loss_cls, loss_bbox


def denoising_losses(predictions: list, denoising, layer: int) -> tuple[float, float]:
    count = len(denoising.boxes)
    class_average = max(count * math.pi / 6 * SPLIT**3, 1)
    loss_cls = loss_bbox = 0.0
    first = 0
    for prediction, classes in zip(predictions, CLASSES_OF_TASK, strict=True):
        for index in range(count):
            where = layer, int(denoising.sample_index[index]), int(denoising.query_index[index])
            wanted = int(denoising.labels[index]) - first
            for label, logit in enumerate(prediction.logits[where].double().tolist()):
                loss_cls += 2.0 * focal(logit, label == wanted) / class_average
            target = encode(denoising.boxes[index].double().tolist())
            own = first <= int(denoising.box_labels[index]) < first + classes
            if own and all(map(math.isfinite, target)):
                code = prediction.boxes[where].double().tolist()
                loss_bbox += 0.25 * weighted_distance(code, target, 10) / max(count, 1)
        first += classes
    return DN_WEIGHT * loss_cls, DN_WEIGHT * loss_bbox


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    counts=st.tuples(st.integers(0, 4), st.integers(0, 4)),
    nan_velocity=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_losses_equal_their_definition(counts, nan_velocity, seed):
    instances = random_ground_truth(counts, seed, nan_velocity)
    predictions = random_predictions(QUERIES, seed)
    torch.manual_seed(seed)
    denoising = make_denoising(instances)
    dn_predictions = random_predictions(denoising.num_queries, seed + 1)
    losses = losses_of(predictions, instances, dn_predictions, denoising)

    expected = {}
    for layer, prefix in enumerate(('d0.', '')):
        pair = matching_losses(predictions, instances, layer)
        expected[f'{prefix}loss_cls'], expected[f'{prefix}loss_bbox'] = pair
        pair = denoising_losses(dn_predictions, denoising, layer)
        expected[f'{prefix}dn_loss_cls'], expected[f'{prefix}dn_loss_bbox'] = pair
    assert set(losses) == set(expected)
    for name, value in expected.items():
        assert losses[name].item() == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_without_denoising_queries_there_are_no_denoising_losses():
    instances = random_ground_truth((2, 1), 0, False)
    losses = losses_of(random_predictions(QUERIES, 0), instances)
    assert set(losses) == {'loss_cls', 'loss_bbox', 'd0.loss_cls', 'd0.loss_bbox'}


def test_batch_without_boxes_has_gradients_for_every_prediction():
    instances = random_ground_truth((0, 0), 0, False)
    predictions = random_predictions(QUERIES, 0)
    denoising = make_denoising(instances)
    dn_predictions = random_predictions(0, 1)
    losses = losses_of(predictions, instances, dn_predictions, denoising)
    sum(losses.values()).backward()
    for prediction in predictions:
        assert prediction.logits.grad.abs().sum() > 0
        assert (prediction.boxes.grad == 0).all()


def test_box_of_unknown_velocity_trains_no_box_but_its_class():
    instances = random_ground_truth((1, 0), 3, nan_velocity=True)
    predictions = random_predictions(QUERIES, 3)
    losses = losses_of(predictions, instances)
    assert losses['loss_bbox'] == 0
    background = losses_of(predictions, random_ground_truth((0, 0), 0, False))
    assert losses['loss_cls'] != background['loss_cls']


def test_other_numbers_of_code_weights_are_refused():
    with pytest.raises(ValueError, match='10 values, got 8'):
        build(code_weights=CODE_WEIGHTS[:8])
