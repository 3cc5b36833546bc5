"""Encoding of boxes and choice of the best (query, class) pairs."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmt_bias.cmt import MultiTaskBBoxCoder
from cmt_bias.cmt.bbox_coder import decode_boxes, encode_boxes

PC_RANGE = [-50.0, -50.0, -5.0, 50.0, 50.0, 3.0]

coordinate = st.floats(-100, 100)
size = st.floats(0.05, 30)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    center=st.tuples(coordinate, coordinate, coordinate),
    sizes=st.tuples(size, size, size),
    yaw=st.floats(-10, 10),
    velocity=st.tuples(coordinate, coordinate),
)
def test_decoding_inverts_encoding(center, sizes, yaw, velocity):
    box = torch.tensor([*center, *sizes, yaw, *velocity], dtype=torch.float64)
    decoded = decode_boxes(encode_boxes(box))
    assert -math.pi <= decoded[6] <= math.pi
    assert math.cos(decoded[6] - yaw) == pytest.approx(1.0)
    decoded[6] = yaw
    torch.testing.assert_close(decoded, box)


def test_encoded_values_have_the_released_order():
    box = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.5, 7.0, 8.0])
    expected = [
        *(1.0, 2.0, math.log(4.0), math.log(5.0), 3.0, math.log(6.0)),
        *(math.sin(0.5), math.cos(0.5), 7.0, 8.0),
    ]
    np.testing.assert_allclose(encode_boxes(box).numpy(), expected, rtol=1e-6)


def test_boxes_without_velocity_encode_to_nan_there_only():
    box = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.5, torch.nan, torch.nan])
    assert torch.isfinite(encode_boxes(box)).tolist() == [True] * 8 + [False] * 2


def random_tasks(classes: tuple[int, ...], num_queries: int, seed: int = 0) -> tuple[list, list]:
    generator = torch.Generator().manual_seed(seed)
    logits = [torch.randn(2, num_queries, n, generator=generator) for n in classes]
    boxes = [torch.randn(2, num_queries, 10, generator=generator) for _ in classes]
    for box in boxes:
        box[..., :2] *= 30
    return logits, boxes


def pairs_by_loop(logits: list, boxes: list, sample: int) -> list[tuple]:
    """Every (score, label, box, query), best first."""
    pairs, first_class = [], 0
    for task_logits, task_boxes in zip(logits, boxes, strict=True):
        for query, scores in enumerate(task_logits[sample].double().sigmoid().tolist()):
            code = task_boxes[sample, query].double().tolist()
            x, y, first, second, z, third, sine, cosine, vx, vy = code
            sizes = [math.exp(value) for value in (first, second, third)]
            box = [x, y, z, *sizes, math.atan2(sine, cosine), vx, vy]
            pairs += [
                (score, first_class + label, box, query) for label, score in enumerate(scores)
            ]
        first_class += task_logits.shape[-1]
    return sorted(pairs, key=lambda pair: -pair[0])


@pytest.mark.parametrize('nms_radius', [3.0, 10.0, 50.0])
def test_of_near_boxes_of_a_class_the_best_is_kept(nms_radius):
    logits, boxes = random_tasks((1, 2, 2), num_queries=40)
    coder = MultiTaskBBoxCoder(PC_RANGE, max_num=150, num_classes=5, nms_radius=nms_radius)
    for sample, result in enumerate(coder.decode(logits, boxes)):
        kept: list[tuple] = []
        for score, label, box, query in pairs_by_loop(logits, boxes, sample)[:150]:
            near = [
                other
                for _, of_class, other, _ in kept
                if of_class == label and math.dist(box[:2], other[:2]) <= nms_radius
            ]
            if not near:
                kept.append((score, label, box, query))
        assert result['labels'].tolist() == [label for _, label, _, _ in kept]
        assert result['queries'].tolist() == [query for *_, query in kept]
        assert len(kept) < 150


def suppressed_by(coder: MultiTaskBBoxCoder, logits: list, boxes: list) -> list[tuple]:
    """(label, query) of what is left of one sample."""
    (result,) = coder.decode([part[None] for part in logits], [part[None] for part in boxes])
    pairs = zip(result['labels'].tolist(), result['queries'].tolist(), strict=True)
    return list(pairs)


@pytest.mark.parametrize('label', [0, 9])
@pytest.mark.parametrize(('distance', 'kept'), [(1.999, [0, 2]), (2.001, [0, 1, 2])])
def test_the_radius_is_exact_for_every_class(label, distance, kept):
    boxes = torch.zeros(3, 10)
    boxes[:, 0] = torch.tensor([40.0, 40.0 + distance, -40.0])
    logits = torch.full((3, 10), -20.0)
    logits[:, label] = torch.tensor([3.0, 2.0, 1.0])
    coder = MultiTaskBBoxCoder(PC_RANGE, max_num=3, nms_radius=2.0)
    assert suppressed_by(coder, [logits], [boxes]) == [(label, query) for query in kept]


def test_of_equal_scores_the_first_is_kept_and_the_order_stays():
    boxes = torch.zeros(6, 10)
    boxes[:, 0] = torch.tensor([0.0, 0.5, 10.0, 10.5, 20.0, 30.0])
    logits = torch.full((6, 1), 30.0)  # all scores are 1
    without, coder = (
        MultiTaskBBoxCoder(PC_RANGE, max_num=6, num_classes=1, nms_radius=radius)
        for radius in (None, 1.0)
    )
    expected: list[tuple] = []
    for label, query in suppressed_by(without, [logits], [boxes]):
        near = [other for _, other in expected if abs(boxes[query, 0] - boxes[other, 0]) <= 1.0]
        expected += [] if near else [(label, query)]
    assert suppressed_by(coder, [logits], [boxes]) == expected
    assert len(expected) == 4


def test_boxes_outside_of_the_range_suppress_none():
    boxes = torch.zeros(2, 10)
    boxes[:, 0] = torch.tensor([50.5, 49.5])
    logits = torch.tensor([[3.0], [2.0]])
    coder = MultiTaskBBoxCoder(
        PC_RANGE, post_center_range=PC_RANGE, max_num=2, num_classes=1, nms_radius=2.0
    )
    assert suppressed_by(coder, [logits], [boxes]) == [(0, 1)]


@pytest.mark.parametrize('nms_radius', [0.0, -2.0, 2e5, math.nan])
def test_a_radius_that_cannot_be_meant_is_refused(nms_radius):
    with pytest.raises(ValueError, match='nms_radius=.* must be positive, in metres'):
        MultiTaskBBoxCoder(PC_RANGE, nms_radius=nms_radius)


def test_boxes_that_require_gradients_are_suppressed_all_the_same():
    logits, boxes = random_tasks((1, 2, 2), num_queries=40)
    coder = MultiTaskBBoxCoder(PC_RANGE, max_num=150, num_classes=5, nms_radius=3.0)
    expected = coder.decode(logits, boxes)
    actual = coder.decode(
        *([part.requires_grad_() for part in parts] for parts in (logits, boxes))
    )
    for one, other in zip(actual, expected, strict=True):
        assert one['queries'].tolist() == other['queries'].tolist()
        assert one['bboxes'].requires_grad


def test_nothing_is_suppressed_where_nothing_is_left():
    logits, boxes = random_tasks((5,), num_queries=12)
    coder = MultiTaskBBoxCoder(PC_RANGE, score_threshold=1.0, num_classes=5, nms_radius=1.0)
    assert [len(result['labels']) for result in coder.decode(logits, boxes)] == [0, 0]


@pytest.mark.parametrize('classes', [(5,), (1, 2, 2), (1, 1, 3)])
@pytest.mark.parametrize('max_num', [7, 20, 1000])
def test_best_pairs_over_all_task_groups_are_kept(classes, max_num):
    logits, boxes = random_tasks(classes, num_queries=12)
    coder = MultiTaskBBoxCoder(PC_RANGE, max_num=max_num, num_classes=5)
    for sample, result in enumerate(coder.decode(logits, boxes)):
        expected = pairs_by_loop(logits, boxes, sample)[:max_num]
        assert len(result['scores']) == min(max_num, 60)
        assert result['labels'].tolist() == [label for _, label, _, _ in expected]
        assert result['queries'].tolist() == [query for *_, query in expected]
        np.testing.assert_allclose(result['scores'], [s for s, *_ in expected], rtol=1e-5)
        np.testing.assert_allclose(result['bboxes'], [box for _, _, box, _ in expected], rtol=1e-4)


def test_centres_outside_the_range_and_low_scores_are_left_out():
    logits, boxes = random_tasks((2, 3), num_queries=20)
    limits = [-20.0, -25.0, -1.0, 25.0, 20.0, 1.5]
    coder = MultiTaskBBoxCoder(
        PC_RANGE, post_center_range=limits, max_num=60, score_threshold=0.55, num_classes=5
    )
    for sample, result in enumerate(coder.decode(logits, boxes)):
        expected = [
            (score, label)
            for score, label, box, _ in pairs_by_loop(logits, boxes, sample)[:60]
            if score > 0.55
            and all(
                low <= value <= high
                for low, value, high in zip(limits[:3], box[:3], limits[3:], strict=True)
            )
        ]
        assert 0 < len(expected) < 60
        assert result['labels'].tolist() == [label for _, label in expected]
        np.testing.assert_allclose(result['scores'], [s for s, _ in expected], rtol=1e-5)


def test_classes_that_do_not_add_up_are_an_error():
    coder = MultiTaskBBoxCoder(PC_RANGE, num_classes=10)
    with pytest.raises(ValueError, match='num_classes=10'):
        coder.decode(*random_tasks((2, 3), num_queries=4))
