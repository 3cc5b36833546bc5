"""The weights that come with the package load strictly and score what their record says."""

import shutil
from pathlib import Path
from types import ModuleType

import pytest
import torch
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.runner import CheckpointLoader, Runner

from cmt_bias.checkpoints import CheckpointError, shipped_weights, weights_record
from cmt_bias.datasets.nuscenes_conversion import convert_nuscenes
from cmt_bias.metrics.nuscenes_metric_table import parse_nuscenes_metrics
from nuscenes_synth import DatasetSettings, generate_dataset

from ..tools.tool_modules import load_tool

ROOT = Path(__file__).parents[2]
NAME = 'cmt_tiny'
MOST_BYTES = 8e6


@pytest.fixture(scope='module')
def small_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fixed small set: what tools/run_demo.py has the base tested on."""
    root = tmp_path_factory.mktemp('small')
    settings = DatasetSettings(train_scenes=1, val_scenes=2, samples_per_scene=3)
    generate_dataset(root, settings, show_progress=False)
    convert_nuscenes(root, root)
    return root


def test_all_of_the_model_comes_from_the_file():
    record = weights_record(NAME)
    checkpoint = CheckpointLoader.load_checkpoint(f'cmt_bias://{NAME}', map_location='cpu')
    model = MODELS.build(Config.fromfile(ROOT / record['config']).model)
    model.load_state_dict(checkpoint['state_dict'], strict=True)
    halves = {value.dtype for value in checkpoint['state_dict'].values()}
    assert halves == {torch.float16, torch.int64}
    size = (shipped_weights.FOLDER / f'{NAME}.pth').stat().st_size
    assert size == record['bytes'] <= MOST_BYTES


def test_the_base_scores_on_the_small_set_what_its_record_says(small_set, tmp_path):
    record = weights_record(NAME)
    cfg = Config.fromfile(ROOT / record['config'])
    cfg.work_dir = str(tmp_path)
    cfg.load_from = f'cmt_bias://{NAME}'
    cfg.test_dataloader.dataset.data_root = f'{small_set}/'
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.test_evaluator.update(
        data_root=f'{small_set}/', ann_file=str(small_set / 'nuscenes_infos_val.pkl')
    )
    (scores,) = parse_nuscenes_metrics(Runner.from_cfg(cfg).test()).values()
    claimed = record['scores']['small']
    # the record is of the float32 checkpoint, on the machine that made it
    assert scores.mean_ap == pytest.approx(claimed['mAP'], abs=0.02)
    assert scores.nds == pytest.approx(claimed['NDS'], abs=0.02)


def test_the_base_needs_both_sensors():
    scores = weights_record(NAME)['scores']
    both, without_cameras, without_lidar = (scores[name]['mAP'] for name in ('LC', 'L', 'C'))
    assert without_cameras <= both - 0.05
    assert 0.02 < without_lidar <= both - 0.05


def test_another_file_than_the_recorded_one_is_refused(tmp_path, monkeypatch):
    for file in shipped_weights.FOLDER.glob(f'{NAME}.*'):
        shutil.copy(file, tmp_path)
    with (tmp_path / f'{NAME}.pth').open('ab') as file:
        file.write(b'more')
    monkeypatch.setattr(shipped_weights, 'FOLDER', tmp_path)
    with pytest.raises(CheckpointError, match='not the file that its record describes'):
        CheckpointLoader.load_checkpoint(f'cmt_bias://{NAME}')


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(CheckpointError, match=f'cmt_bias://{NAME}'):
        CheckpointLoader.load_checkpoint('cmt_bias://cmt_large')


@pytest.fixture(scope='module')
def ship_weights() -> ModuleType:
    """tools/ship_weights.py."""
    return load_tool('ship_weights')


def test_weights_that_half_precision_cannot_hold_are_refused(ship_weights, tmp_path):
    with pytest.raises(ValueError, match=r"'neck\.bias'"):
        ship_weights.write_weights(tmp_path / 'w.pth', {'neck.bias': torch.tensor([1e6])}, {}, {})
    assert not list(tmp_path.iterdir())


def test_what_is_written_is_read_back_rounded(ship_weights, tmp_path, monkeypatch):
    state = {'weight': torch.tensor([0.1, -3.0]), 'count': torch.tensor(7)}
    ship_weights.write_weights(tmp_path / 'w.pth', state, dict(note='a'), dict(config='b'))
    monkeypatch.setattr(shipped_weights, 'FOLDER', tmp_path)
    loaded = CheckpointLoader.load_checkpoint('cmt_bias://w')
    assert loaded['meta'] == dict(note='a')
    assert torch.equal(loaded['state_dict']['weight'], state['weight'].half())
    assert loaded['state_dict']['count'] == 7
    assert weights_record('w')['config'] == 'b'
