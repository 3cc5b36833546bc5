"""Parts of a test: they add up, and are scored by the official evaluation."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from nuscenes import NuScenes
from nuscenes.eval.common.loaders import load_gt
from nuscenes.eval.detection.config import config_factory
from nuscenes.eval.detection.data_classes import DetectionBox
from nuscenes.eval.detection.evaluate import DetectionEval

from cmt_bias.failures.scene_conditions import scene_condition
from cmt_bias.metrics.subset_evaluation import DISTANCE_BANDS, SubsetEvaluation, flat_metrics

VERSION, SETTINGS = 'v1.0-trainval', 'detection_cvpr_2019'


@pytest.mark.parametrize(
    ('description', 'condition'),
    [
        ('Parked truck, construction, intersection', 'day'),
        ('Night, city street, street lamps (synthetic)', 'night'),
        ('Rain, city street, wet road (synthetic)', 'rain'),
        ('Fog, city street (synthetic)', 'fog'),
        ('Turn right, after rain, bus stop', 'rain'),
        ('Night, after rain, many peds in PMD', 'night and rain'),
        ('Difficult lighting, HEAVY RAIN', 'rain'),
        ('Train station, terrain, drain, overnight parking', 'day'),
    ],
)
def test_condition_is_read_from_whole_words_of_the_description(description, condition):
    assert scene_condition(description) == condition


@pytest.fixture(scope='module')
def nusc(smallest_nuscenes: Path) -> Iterator[NuScenes]:
    """Tables of which two of three validation samples are given other scenes' weather."""
    return tables_with(smallest_nuscenes, 'Night', 'Rain')


def tables_with(root: Path, *descriptions: str) -> NuScenes:
    """Tables whose last validation samples are each given a scene of this description."""
    tables = NuScenes(VERSION, str(root), verbose=False)
    day = tables.scene[1]
    samples = [sample for sample in tables.sample if sample['scene_token'] == day['token']]
    for sample, description in zip(samples[-len(descriptions) :], descriptions, strict=True):
        scene = {**day, 'token': description, 'description': description}
        tables.scene.append(scene)
        tables._token2ind['scene'][description] = len(tables.scene) - 1
        sample['scene_token'] = description
    return tables


@pytest.fixture(scope='module')
def detections(nusc: NuScenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The annotations as detections, every third shifted by 1.2 m and every fifth left out."""
    annotated = load_gt(nusc, 'val', DetectionBox)
    results = {}
    for token in annotated.sample_tokens:
        boxes = [box.serialize() for box in annotated[token]]
        for number, box in enumerate(boxes):
            box['detection_score'] = 1 / (2 + number)
            box['velocity'] = [0.0, 0.0]
            x, y, z = box['translation']
            box['translation'] = [x + 1.2 * (number % 3 == 0), y, z]
        results[token] = [box for number, box in enumerate(boxes) if number % 5]
    path = tmp_path_factory.mktemp('detections') / 'results_nusc.json'
    meta = dict(
        use_camera=True, use_lidar=True, use_radar=False, use_map=False, use_external=False
    )
    path.write_text(json.dumps(dict(results=results, meta=meta)))
    return path


@pytest.fixture(scope='module')
def subsets(nusc, detections):
    found = SubsetEvaluation(nusc, detections, VERSION, SETTINGS).subsets()
    return {subset.name: subset for subset in found}


def test_samples_and_objects_of_the_parts_add_up_to_the_whole(subsets):
    whole = subsets['whole']
    assert whole.samples == 3
    assert whole.objects > 0
    by_condition = [subset for subset in subsets.values() if subset.kind == 'condition']
    assert [subset.name for subset in by_condition] == ['day', 'night', 'rain']
    assert sum(subset.samples for subset in by_condition) == whole.samples
    assert sum(subset.objects for subset in by_condition) == whole.objects
    assert sum(subsets[name].objects for name in DISTANCE_BANDS) == whole.objects
    assert all(subsets[name].samples == whole.samples for name in DISTANCE_BANDS)


@pytest.fixture
def evaluated(monkeypatch) -> list[list[str]]:
    """The samples of each part whose boxes were evaluated, in their order."""
    parts = []

    def evaluate(evaluation: SubsetEvaluation) -> tuple:
        parts.append(evaluation.gt_boxes.sample_tokens)
        assert set(evaluation.pred_boxes.sample_tokens) == set(parts[-1])
        return DetectionEval.evaluate(evaluation)

    monkeypatch.setattr(SubsetEvaluation, 'evaluate', evaluate)
    return parts


def test_every_sample_is_in_exactly_one_condition(nusc, detections, evaluated):
    SubsetEvaluation(nusc, detections, VERSION, SETTINGS).subsets()
    whole, *conditions = evaluated[: -len(DISTANCE_BANDS)]
    assert len(conditions) == 3
    assert sorted(token for tokens in conditions for token in tokens) == sorted(whole)


def test_conditions_beside_halves_are_the_same_parts(nusc, detections, subsets):
    *parts, _, _ = SubsetEvaluation(nusc, detections, VERSION, SETTINGS).subsets('half')
    assert [part.name for part in parts] == ['whole', 'day', 'night', 'rain']
    assert all(part == subsets[part.name] for part in parts)


def test_halves_share_no_scene(smallest_nuscenes, detections, evaluated):
    tables = tables_with(smallest_nuscenes, 'Night')  # the other scene has two samples
    SubsetEvaluation(tables, detections, VERSION, SETTINGS).subsets('half')
    first, second = (
        [tables.get('sample', token)['scene_token'] for token in half] for half in evaluated[-2:]
    )
    assert {len(first), len(second)} == {2, 1}
    assert not set(first) & set(second)


def test_halves_add_up(nusc, detections, subsets):
    parts = SubsetEvaluation(nusc, detections, VERSION, SETTINGS).subsets('half')
    halves = [part for part in parts if part.kind.startswith('half')]
    assert [(half.name, half.kind) for half in halves] == [
        ('whole', 'half 1'),
        ('whole', 'half 2'),
    ]  # the conditions have one scene each
    assert [half.samples for half in halves] == [2, 1]
    assert [half.scenes for half in halves] == [2, 1]
    assert sum(half.objects for half in halves) == subsets['whole'].objects


def test_scenes_are_counted_once_for_all_their_samples(subsets):
    assert {name: subsets[name].scenes for name in ('whole', 'day', '0-20 m')} == {
        'whole': 3,
        'day': 1,
        '0-20 m': 3,
    }


def test_whole_is_the_official_evaluation_exactly(nusc, detections, subsets, tmp_path):
    official = DetectionEval(
        nusc, config_factory(SETTINGS), str(detections), 'val', str(tmp_path), verbose=False
    )
    metrics, _ = official.evaluate()
    assert subsets['whole'].metrics == pytest.approx(flat_metrics(metrics), abs=0, nan_ok=True)
    assert 0 < subsets['whole'].metrics['mAP'] < 1


def test_a_condition_is_the_official_evaluation_of_its_samples_alone(nusc, detections, subsets):
    evaluation = SubsetEvaluation(nusc, detections, VERSION, SETTINGS)
    night = [
        t for t in evaluation.sample_tokens if nusc.get('sample', t)['scene_token'] == 'Night'
    ]
    for boxes in (evaluation.gt_boxes, evaluation.pred_boxes):
        for token in set(boxes.sample_tokens) - set(night):
            del boxes.boxes[token]
    metrics, _ = evaluation.evaluate()
    assert subsets['night'].metrics == flat_metrics(metrics)
    assert subsets['night'].metrics != subsets['rain'].metrics


def test_a_band_of_distance_holds_the_boxes_in_it(nusc, detections, subsets):
    evaluation = SubsetEvaluation(nusc, detections, VERSION, SETTINGS)
    distances = [box.ego_dist for box in evaluation.gt_boxes.all]
    for name, (low, high) in DISTANCE_BANDS.items():
        assert subsets[name].objects == sum(low <= distance < high for distance in distances)


def test_classes_without_objects_are_named_and_count_as_nothing_found(subsets):
    far = subsets['40+ m']
    assert {'pedestrian', 'traffic_cone', 'barrier', 'bicycle'} <= set(far.absent_classes)
    assert all(far.metrics[f'AP {name}'] == 0 for name in far.absent_classes)
