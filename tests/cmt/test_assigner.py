"""Hungarian assignment against every possible assignment."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet3d.registry import TASK_UTILS
from mmengine.structures import InstanceData

import cmt_bias.cmt  # noqa: F401  (registers the assigner)
from cmt_bias.cmt.bbox_coder import encode_boxes

CODE_WEIGHTS = [2.0, 2.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2]
CLASSES = 3


def build(**changes):
    config = dict(
        type='HungarianAssigner3D',
        cls_cost=dict(type='mmdet.FocalLossCost', weight=2.0),
        reg_cost=dict(type='BBox3DL1Cost', weight=0.25),
        iou_cost=dict(type='mmdet.IoUCost', weight=0.0),
        code_weights=CODE_WEIGHTS,
    )
    return TASK_UTILS.build(dict(config, **changes))


def random_sample(num_queries: int, num_boxes: int, seed: int) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    predicted = InstanceData(
        bboxes=torch.randn(num_queries, 10, generator=generator) * 3,
        scores=torch.randn(num_queries, CLASSES, generator=generator) * 2,
    )
    boxes = torch.randn(num_boxes, 9, generator=generator) * 3
    boxes[:, 3:6] = boxes[:, 3:6].abs() + 0.1
    labels = torch.randint(0, CLASSES, (num_boxes,), generator=generator)
    return predicted, InstanceData(bboxes=boxes, labels=labels)


def pair_cost(logits: list[float], predicted: list[float], label: int, box: list[float]) -> float:
    probability = 1 / (1 + math.exp(-logits[label]))
    positive = -math.log(probability + 1e-12) * 0.25 * (1 - probability) ** 2
    negative = -math.log(1 - probability + 1e-12) * 0.75 * probability**2
    x, y, z, first, second, third, yaw = box[:7]
    target = [
        *(x, y, math.log(first), math.log(second), z, math.log(third)),
        *(math.sin(yaw), math.cos(yaw)),
    ]
    distance = sum(
        weight * abs(a - b)
        for weight, a, b in zip(CODE_WEIGHTS[:8], predicted[:8], target, strict=True)
    )
    return 2.0 * (positive - negative) + 0.25 * distance


def costs_by_loop(predicted: InstanceData, gt: InstanceData) -> list[list[float]]:
    return [
        [
            pair_cost(logits, code, label, box)
            for label, box in zip(gt.labels.tolist(), gt.bboxes.double().tolist(), strict=True)
        ]
        for logits, code in zip(
            predicted.scores.double().tolist(), predicted.bboxes.double().tolist(), strict=True
        )
    ]


def smallest_total(costs: list[list[float]]) -> float:
    """Over every one-to-one assignment of the smaller side."""
    rows, columns = len(costs), len(costs[0])
    if rows >= columns:
        return min(
            sum(costs[row][column] for column, row in enumerate(chosen))
            for chosen in itertools.permutations(range(rows), columns)
        )
    return min(
        sum(costs[row][column] for row, column in enumerate(chosen))
        for chosen in itertools.permutations(range(columns), rows)
    )


def match(predicted: InstanceData, gt: InstanceData, **changes) -> list[tuple[int, int]]:
    """Pairs of query and box."""
    encoded = InstanceData(bboxes=encode_boxes(gt.bboxes), labels=gt.labels)
    (found,) = build(**changes).match([(predicted, encoded)])
    return list(zip(found.queries.tolist(), found.boxes.tolist(), strict=True))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(num_queries=st.integers(1, 6), num_boxes=st.integers(1, 5), seed=st.integers(0, 1000))
def test_assignment_is_the_cheapest_of_all(num_queries, num_boxes, seed):
    predicted, gt = random_sample(num_queries, num_boxes, seed)
    pairs = match(predicted, gt)
    for side in zip(*pairs, strict=True):
        assert len(set(side)) == len(pairs) == min(num_queries, num_boxes)
    costs = costs_by_loop(predicted, gt)
    total = sum(costs[query][box] for query, box in pairs)
    assert total == pytest.approx(smallest_total(costs), abs=1e-4)


def test_sets_matched_together_are_matched_as_alone():
    samples = [
        random_sample(queries, boxes, queries) for queries, boxes in ((6, 4), (5, 0), (2, 3))
    ]
    encoded = [
        (predicted, InstanceData(bboxes=encode_boxes(gt.bboxes), labels=gt.labels))
        for predicted, gt in samples
    ]
    for found, sample in zip(build().match(encoded), samples, strict=True):
        pairs = list(zip(found.queries.tolist(), found.boxes.tolist(), strict=True))
        assert pairs == match(*sample)


def test_code_weights_move_with_the_model_and_are_in_no_checkpoint():
    assigner = build()
    assert assigner.to('meta').code_weights.device.type == 'meta'
    assert not assigner.state_dict()


def test_missing_velocity_does_not_change_the_assignment():
    predicted, gt = random_sample(6, 4, seed=5)
    expected = match(predicted, gt)
    gt.bboxes[1, 7:] = torch.nan
    assert match(predicted, gt) == expected


@pytest.mark.parametrize('broken', ['logit', 'box', 'target'])
def test_cost_that_is_not_finite_is_an_error(broken):
    predicted, gt = random_sample(4, 2, seed=1)
    if broken == 'logit':
        predicted.scores[0] = torch.nan
    elif broken == 'box':
        predicted.bboxes[2, 0] = torch.inf
    else:
        gt.bboxes[1, 6] = torch.nan
    with pytest.raises(FloatingPointError, match=r'not finite.*gradient clipping'):
        match(predicted, gt)


def test_weight_on_the_unused_iou_cost_is_an_error():
    with pytest.raises(ValueError, match='iou_cost'):
        build(iou_cost=dict(type='mmdet.IoUCost', weight=1.0))


def test_without_code_weights_all_values_count_alike():
    predicted, gt = random_sample(5, 3, seed=9)
    ones = match(predicted, gt, code_weights=[1.0] * 10)
    assert match(predicted, gt, code_weights=None) == ones
