"""How the fusion head behaves; its numbers are held by `test_head_goldens.py`."""

import numpy as np
import pytest
import torch
from mmdet3d.registry import MODELS
from mmdet3d.structures import LiDARInstance3DBoxes
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from ..bias.golden_head import ARRAYS, SPEC, build_baseline, features, ground_truth, metas

INIT_NONE = dict(type='SeparateTaskHead', init_cfg=None)


@pytest.fixture
def head():
    return build_baseline()


def outputs(head, pts, img, img_metas) -> dict[str, torch.Tensor]:
    with torch.no_grad():
        return head(pts, img, img_metas)[0][0]


def test_sample_in_a_batch_equals_the_sample_alone(head):
    head.eval()
    pts, img = features()
    together = outputs(head, pts, img, metas())
    views = ARRAYS['lidar2img'].shape[1]
    for index in range(2):
        alone = outputs(
            head,
            [pts[0][index : index + 1]],
            [img[0][index * views : (index + 1) * views]],
            metas()[index : index + 1],
        )
        for name, values in alone.items():
            torch.testing.assert_close(
                values[:, 0], together[name][:, index], rtol=1e-4, atol=1e-5
            )


def test_shapes_of_each_view_as_in_old_pipelines_change_nothing(head):
    head.eval()
    expected = outputs(head, *features(), metas())
    img_metas = metas()
    for meta in img_metas:
        meta['pad_shape'] = meta['img_shape'] = [(*meta['pad_shape'], 3)] * 5
    actual = outputs(head, *features(), img_metas)
    for name, values in expected.items():
        assert torch.equal(actual[name], values), name


def test_order_of_the_cameras_does_not_matter(head):
    head.eval()
    pts, img = features()
    expected = outputs(head, pts, img, metas())
    order = [3, 0, 4, 1, 2]
    img_metas = metas()
    for meta in img_metas:
        meta['lidar2img'] = meta['lidar2img'][order]
    shuffled = img[0].unflatten(0, (2, 5))[:, order].flatten(0, 1)
    actual = outputs(head, pts, [shuffled], img_metas)
    for name, values in expected.items():
        torch.testing.assert_close(actual[name], values, rtol=1e-4, atol=1e-4)


def test_learned_queries_do_not_see_the_denoising_ones(head):
    head.train()
    head.shared_conv.eval()  # its batch statistics would move
    pts, img = features()
    few = outputs(head, pts, img, metas(ground_truth((1, 2))))
    many = outputs(head, pts, img, metas(ground_truth()))
    none = outputs(head.eval(), pts, img, metas())
    assert few['dn_center'].shape != many['dn_center'].shape
    for name, values in none.items():
        torch.testing.assert_close(few[name], values, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(many[name], values, rtol=1e-4, atol=1e-4)


def test_calibration_may_be_a_list_of_lists_or_a_tensor(head):
    head.eval()
    pts, img = features()
    expected = outputs(head, pts, img, metas())
    for convert in (np.ndarray.tolist, list, torch.from_numpy):
        img_metas = [dict(m, lidar2img=convert(m['lidar2img'])) for m in metas()]
        actual = outputs(head, pts, img, img_metas)
        assert torch.equal(actual['center'], expected['center'])


@pytest.mark.parametrize('missing', ['pts', 'img'])
@pytest.mark.parametrize('absent', [None, [None]])
def test_missing_sensor_trains_and_predicts(head, missing, absent):
    pts, img = features()
    pts, img = (absent, img) if missing == 'pts' else (pts, absent)
    instances = ground_truth()
    head.train()
    losses = head.loss_by_feat(head(pts, img, metas(instances)), instances)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert torch.isfinite(head.reference_points.weight.grad).all()
    head.eval()
    result = head.predict_by_feat(head(pts, img, metas()), metas())
    assert all(len(sample.scores_3d) for sample in result)


def test_cameras_have_no_influence_where_their_features_are_missing_from_the_memory(head):
    """Without camera features only the queries' positions depend on the calibration."""
    head.eval()
    pts, _ = features()
    without = [{k: v for k, v in m.items() if k != 'lidar2img'} for m in metas()]
    blind = outputs(head, pts, None, without)
    seeing = outputs(head, pts, None, metas())
    assert all(torch.isfinite(values).all() for values in blind.values())
    assert not torch.allclose(blind['center'], seeing['center'])


def test_no_sensor_at_all_is_an_error(head):
    with pytest.raises(ValueError, match='neither LiDAR nor camera'):
        head.eval()(None, None, metas())


@pytest.mark.parametrize('counts', [(0, 0), (0, 3), (3, 0)])
def test_samples_without_boxes_train(head, counts):
    instances = ground_truth(counts)
    head.train()
    losses = head.loss_by_feat(head(*features(), metas(instances)), instances)
    sum(losses.values()).backward()
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses['loss_cls'] > 0
    assert set(losses) == {k[5:] for k in ARRAYS if k.startswith('loss/')}
    if counts == (0, 0):
        assert losses['loss_bbox'] == losses['dn_loss_cls'] == losses['dn_loss_bbox'] == 0
    for name, parameter in head.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name


@pytest.mark.parametrize('shape', [(6, 12), (12, 6)])
def test_cells_of_a_map_that_is_not_square_sit_at_their_centres(shape):
    """The released code is right for square maps only."""
    height, width = shape
    grid = dict(grid_size=[width * 8, height * 8, 40])
    head = build_baseline(
        train_cfg=dict(SPEC['cfg']['train_cfg'], **grid),
        test_cfg=dict(SPEC['cfg']['test_cfg'], **grid),
    ).eval()
    given = []
    head.transformer.register_forward_pre_hook(lambda _, inputs: given.append(inputs))
    pts = torch.from_numpy(ARRAYS['pts_feat'])[..., :height, :width]
    outputs(head, [pts], None, metas())
    bev_tokens, bev_pos = given[0][:2]
    with torch.no_grad():
        cells = head.shared_conv(pts)
        for row in range(height):
            for column in range(width):
                center = torch.tensor([(column + 0.5) / width, (row + 0.5) / height])
                expected = head.bev_embedding(center)
                cell = row * width + column
                torch.testing.assert_close(bev_pos[1, cell], expected, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(bev_tokens[1, cell], cells[1, :, row, column])


@pytest.mark.parametrize('cls', ['CmtHead', 'CmtLidarHead'])
@pytest.mark.parametrize(
    ('key', 'hint'),
    [('num_querys', r" \(did you mean 'num_query'\?\)"), ('colour', '')],
)
def test_unknown_key_is_named_with_the_nearest_known_one(cls, key, hint):
    with pytest.raises(
        TypeError, match=rf"{cls}: unknown key in pts_bbox_head: '{key}'{hint}\. Known keys: bbox_"
    ):
        MODELS.build(ConfigDict(SPEC['cfg'], **{'type': cls, key: 1}))


@pytest.mark.parametrize('key', ['tasks', 'transformer', 'bbox_coder'])
def test_missing_part_of_the_config_is_named(key):
    config = {k: v for k, v in SPEC['cfg'].items() if k != key}
    with pytest.raises(ValueError, match='pts_bbox_head needs tasks, transformer and bbox_coder'):
        MODELS.build(ConfigDict(config))


def test_parts_that_are_left_out_or_none_are_the_usual_ones(head):
    usual = ('common_heads', 'separate_head', 'loss_cls', 'loss_bbox')
    config = {k: v for k, v in SPEC['cfg'].items() if k not in usual}
    for changes in ({}, dict.fromkeys((*usual, 'init_cfg')), dict(separate_head=INIT_NONE)):
        bare = MODELS.build(ConfigDict(config, **changes))
        shapes = {name: value.shape for name, value in bare.state_dict().items()}
        assert shapes == {name: value.shape for name, value in head.state_dict().items()}
        assert type(bare.criterion.loss_cls) is type(head.criterion.loss_cls)
        assert bare.criterion.loss_bbox.loss_weight == 0.25


@pytest.mark.parametrize(
    'changes', [dict(init_cfg={}), dict(separate_head=dict(INIT_NONE, init_cfg={}))]
)
def test_other_initial_values_are_refused(changes):
    with pytest.raises(ValueError, match='init_cfg.*None; remove'):
        MODELS.build(ConfigDict(SPEC['cfg'], **changes))


def test_map_that_does_not_fit_grid_size_is_an_error(head):
    pts, img = features()
    with pytest.raises(ValueError, match=r'\(12, 11\).*grid_size'):
        head.eval()([pts[0][..., :11]], img, metas())


def test_camera_channels_that_do_not_fit_hidden_dim_are_an_error(head):
    pts, img = features()
    with pytest.raises(ValueError, match=r'31 channels.*img_neck'):
        head.eval()(pts, [img[0][:, :31]], metas())


def test_camera_features_without_calibration_are_an_error(head):
    without = [{k: v for k, v in m.items() if k != 'lidar2img'} for m in metas()]
    with pytest.raises(KeyError, match='lidar2img'):
        head.eval()(*features(), without)


@pytest.mark.parametrize('smaller', [0, 1])
def test_images_of_different_sizes_in_a_batch_are_an_error(head, smaller):
    """They are padded to one size, which is that of no sample's pad_shape but the largest's."""
    img_metas = metas()
    height, width = img_metas[smaller]['pad_shape']
    img_metas[smaller]['pad_shape'] = (height // 2, width)
    with pytest.raises(ValueError, match='pad_shape differs within a batch.*ResizeCropFlipImage'):
        head.eval()(*features(), img_metas)


def test_training_without_ground_truth_is_an_error(head):
    with pytest.raises(KeyError, match='gt_instances_3d'):
        head.train()(*features(), metas())


def test_losses_without_train_cfg_are_an_error():
    head = build_baseline(train_cfg=None).eval()
    with torch.no_grad():
        predicted = head(*features(), metas())
    with pytest.raises(ValueError, match='train_cfg'):
        head.loss_by_feat(predicted, ground_truth())


def test_boxes_without_velocity_values_are_an_error(head):
    instances = [
        InstanceData(
            bboxes_3d=LiDARInstance3DBoxes(gt.bboxes_3d.tensor[:, :7], box_dim=7),
            labels_3d=gt.labels_3d,
        )
        for gt in ground_truth()
    ]
    with pytest.raises(ValueError, match='velocity'):
        head.train()(*features(), metas(instances))


def test_predictions_that_are_not_finite_are_an_error(head):
    instances = ground_truth()
    with torch.no_grad():
        head.task_heads[0].dim[0].weight[0] = torch.nan
    head.train()
    predicted = head(*features(), metas(instances))
    with pytest.raises(FloatingPointError, match='not finite'):
        head.loss_by_feat(predicted, instances)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_half_precision_stays_near_float32(head, dtype):
    instances = ground_truth()
    head.train()
    losses = []
    for enabled in (False, True):
        torch.manual_seed(0)
        with torch.autocast('cpu', dtype=dtype, enabled=enabled):
            predicted = head(*features(), metas(instances))
            losses.append(head.loss_by_feat(predicted, instances))
    for name, loss in losses[0].items():
        assert losses[1][name].dtype == torch.float32
        torch.testing.assert_close(losses[1][name], loss, rtol=0.05, atol=0.05)
