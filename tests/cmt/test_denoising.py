"""Denoising queries against a loop, and who may see whom."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmt_bias.cmt.denoising import DenoisingQueries, make_denoising_queries

PC_RANGE = (-50.0, -40.0, -5.0, 50.0, 40.0, 3.0)
BACKGROUND = 10
CONFIG = dict(max_groups=4, noise_scale=0.7, noise_trans=0.3, split=0.75)


def random_samples(counts: list[int], seed: int = 0) -> tuple[list, list]:
    """Boxes ``(n, 9)`` and labels of samples with the given numbers of boxes."""
    generator = torch.Generator().manual_seed(seed)
    boxes, labels = [], []
    for count in counts:
        box = torch.rand(count, 9, generator=generator)
        box[:, :3] = box[:, :3] * torch.tensor([60.0, 60.0, 2.0]) - torch.tensor([30.0, 30.0, 2.0])
        box[:, 3:6] = box[:, 3:6] * 4 + 0.5
        boxes.append(box)
        labels.append(torch.randint(0, BACKGROUND, (count,), generator=generator))
    return boxes, labels


def make(
    counts: list[int], num_learned: int = 50, config: dict = CONFIG, seed: int = 0
) -> DenoisingQueries:
    return make_from(*random_samples(counts, seed), num_learned, config)


def make_from(boxes: list, labels: list, num_learned: int, config: dict) -> DenoisingQueries:
    return make_denoising_queries(
        boxes,
        labels,
        num_learned=num_learned,
        pc_range=PC_RANGE,
        background_label=BACKGROUND,
        **config,
    )


def test_queries_equal_a_loop_over_groups_and_boxes():
    counts = [3, 0, 5]
    boxes, labels = random_samples(counts)
    boxes[0][:, 0] = 49.9  # some of these are moved out of the range and clamped
    torch.manual_seed(7)
    queries = make_from(boxes, labels, 50, CONFIG)
    torch.manual_seed(7)
    draw = (torch.rand(4 * sum(counts), 3) * 2 - 1).double().numpy()

    low, high = np.array(PC_RANGE[:3]), np.array(PC_RANGE[3:])
    expected = np.zeros((3, 4 * 5, 3))
    index = 0
    for group in range(4):
        for sample, (sample_boxes, sample_labels) in enumerate(zip(boxes, labels, strict=True)):
            for number, (box, label) in enumerate(zip(sample_boxes, sample_labels, strict=True)):
                sizes = box[3:6].double().numpy()
                noise = draw[index] * (sizes / 2 + 0.3) * 0.7
                center = (box[:3].double().numpy() + noise - low) / (high - low)
                expected[sample, group * 5 + number] = np.clip(center, 0, 1)
                noisy = np.linalg.norm(draw[index]) > 0.75
                assert queries.labels[index] == (BACKGROUND if noisy else label)
                assert queries.box_labels[index] == label
                assert torch.equal(queries.boxes[index], box)
                assert queries.sample_index[index] == sample
                assert queries.query_index[index] == group * 5 + number
                index += 1
    assert index == len(queries.labels)
    assert (queries.labels == BACKGROUND).any() and (queries.labels != BACKGROUND).any()
    assert (expected == 1).any()
    np.testing.assert_allclose(queries.reference_points.numpy(), expected, atol=1e-6)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=4),
    num_learned=st.integers(1, 30),
    max_groups=st.integers(1, 6),
)
def test_there_are_as_many_whole_groups_as_fit_the_learned_queries(
    counts, num_learned, max_groups
):
    queries = make(counts, num_learned, dict(CONFIG, max_groups=max_groups))
    largest = max(counts)
    groups = 0
    while largest and groups < max_groups and (groups + 1) * largest <= num_learned:
        groups += 1
    assert queries.num_queries == groups * largest
    assert queries.reference_points.shape == (len(counts), groups * largest, 3)
    assert len(queries.boxes) == len(queries.labels) == groups * sum(counts)
    assert ((queries.reference_points >= 0) & (queries.reference_points <= 1)).all()


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    counts=st.lists(st.integers(0, 4), min_size=1, max_size=3),
    num_learned=st.integers(4, 9),
    max_groups=st.integers(1, 3),
)
def test_mask_hides_denoising_queries_from_learned_ones_and_from_other_groups(
    counts, num_learned, max_groups
):
    queries = make(counts, num_learned, dict(CONFIG, max_groups=max_groups))
    mask = queries.self_attention_mask(num_learned)
    if max(counts) == 0:
        assert mask is None
        return
    total = queries.num_queries + num_learned
    assert mask.shape == (total, total) and mask.dtype == torch.bool

    def group_of(index):
        return index // max(counts) if index < queries.num_queries else None

    for query in range(total):
        for key in range(total):
            learned_key = group_of(key) is None
            hidden = not learned_key and group_of(query) != group_of(key)
            assert bool(mask[query, key]) == hidden, (query, key)


def test_no_query_is_hidden_from_itself():
    queries = make([2, 3])
    assert not queries.self_attention_mask(50).diagonal().any()


@pytest.mark.parametrize('counts', [[0], [0, 0, 0]])
def test_batch_without_boxes_has_no_denoising_queries(counts):
    queries = make(counts)
    assert queries.num_queries == 0
    assert queries.reference_points.shape == (len(counts), 0, 3)
    assert queries.self_attention_mask(50) is None
    assert len(queries.boxes) == len(queries.labels) == len(queries.query_index) == 0


def test_more_boxes_than_learned_queries_leave_no_room_for_a_group():
    queries = make([8, 2], num_learned=7)
    assert queries.num_queries == 0 and queries.self_attention_mask(7) is None


def test_without_noise_queries_sit_on_their_boxes_and_keep_their_labels():
    boxes, labels = random_samples([2, 4])
    queries = make([2, 4], config=dict(CONFIG, max_groups=2, noise_scale=0.0))
    low, high = torch.tensor(PC_RANGE[:3]), torch.tensor(PC_RANGE[3:])
    centers = ((torch.cat(boxes)[:, :3] - low) / (high - low)).repeat(2, 1)
    found = queries.reference_points[queries.sample_index, queries.query_index]
    torch.testing.assert_close(found, centers)
    assert torch.equal(queries.labels, torch.cat(labels).repeat(2))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10_000))
def test_noise_of_scale_one_stays_within_the_box(seed):
    torch.manual_seed(seed)
    queries = make([6, 3], config=dict(CONFIG, noise_scale=1.0, noise_trans=0.0), seed=seed)
    low, high = torch.tensor(PC_RANGE[:3]), torch.tensor(PC_RANGE[3:])
    found = queries.reference_points[queries.sample_index, queries.query_index]
    offset = (found * (high - low) + low - queries.boxes[:, :3]).abs()
    assert (offset <= queries.boxes[:, 3:6] / 2 + 1e-4).all()
