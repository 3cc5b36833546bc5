"""Every option that tools/train.py and tools/test.py take over from mmdet3d, in runs with them."""

import json
import sys
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger
from mmengine.visualization import visualizer
from nuscenes.utils.splits import test as test_scenes

from cmt_bias.datasets.nuscenes_conversion import convert_nuscenes
from cmt_bias.runs import run_options

from .tiny_models import BASE, make_model
from .tool_modules import load_tool

pytestmark = pytest.mark.end_to_end

AUGMENTED_TEST = """
tta_model = dict(type='FirstOfAll')
tta_pipeline = [
    *_base_.test_pipeline[:-1],
    dict(type='TestTimeAug', transforms=[[_base_.test_pipeline[-1]]]),
]
custom_imports['imports'].append('first_of_all')
"""
FIRST_OF_ALL = """
from mmdet3d.registry import MODELS
from mmengine.model import BaseTTAModel


@MODELS.register_module(force=True)
class FirstOfAll(BaseTTAModel):
    def merge_preds(self, data_samples_list):
        return [samples[0] for samples in data_samples_list]
"""


@pytest.fixture(scope='module')
def model(tmp_path_factory, smallest_nuscenes) -> tuple[Path, Path]:
    """Config and checkpoint of a tiny CMT."""
    folder = tmp_path_factory.mktemp('model')
    (folder / 'first_of_all.py').write_text(FIRST_OF_ALL)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        yield make_model(folder, 'base', BASE, smallest_nuscenes, AUGMENTED_TEST)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a tool in this process, in an empty folder; its log."""

    def run_tool(tool: str, *arguments: object) -> str:
        module = load_tool(tool)
        monkeypatch.setenv('LOCAL_RANK', '0')
        words = [*map(str, arguments), '--work-dir', str(tmp_path / 'work')]
        monkeypatch.setattr(sys, 'argv', [f'tools/{tool}.py', *words])
        # Runs of one second have one name, by which mmengine would find the earlier one's log.
        monkeypatch.setattr(MMLogger, '_instance_dict', OrderedDict())
        threads = torch.get_num_threads()
        try:
            module.main()
        finally:
            torch.set_num_threads(threads)
        return max((tmp_path / 'work').rglob('*.log')).read_text()

    return run_tool


@pytest.fixture
def windows(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds of each picture that is shown in a window, which there is none of here."""
    shown: list[float] = []
    monkeypatch.setattr(run_options.matplotlib, 'get_backend', lambda: 'tkagg')
    monkeypatch.setattr(
        visualizer, 'wait_continue', lambda _, timeout, **key: shown.append(timeout)
    )
    return shown


def test_pictures_are_shown_and_written_for_one_sensor_and_settings_overridden(
    model, run, windows, tmp_path
):
    log = run(
        *('test', *model, '--show', '--wait-time', 0.5, '--task', 'lidar_det'),
        *('--show-dir', tmp_path / 'pictures', '--score-thr', 0.9, '--modality', 'L'),
        *('--launcher', 'none', '--cfg-options', 'randomness.seed=3'),
    )
    assert windows == [0.5] * 3
    assert len(list((tmp_path / 'pictures').glob('*.png'))) == 3
    assert 'sensors L' in log
    assert 'seed = 3' in log or 'seed=3' in log


def predict(run: Callable[..., str], model: tuple, folder: Path, *options: object) -> dict:
    """Detections in the first frame of the split, which could not be evaluated by itself."""
    run(
        *('test', *model, *options, '--cfg-options', 'test_dataloader.dataset.indices=1'),
        *('test_evaluator.format_only=True', f'test_evaluator.jsonfile_prefix={folder}'),
    )
    results = json.loads((folder / 'pred_instances_3d/results_nusc.json').read_text())['results']
    assert len(results) == 1
    return results


def test_pictures_are_shown_without_writing_any_while_predicting_a_part_of_the_split(
    model, run, windows, tmp_path
):
    predict(run, model, tmp_path, '--show', '--wait-time', 0, '--task', 'multi-view_det')
    assert windows == [0.0]
    assert list(tmp_path.rglob('*.png')) == []


def test_a_test_time_augmentation_that_changes_nothing_changes_nothing(model, run, tmp_path):
    options = ['--modality', 'C']
    plain = predict(run, model, tmp_path / 'plain', *options)
    assert predict(run, model, tmp_path / 'augmented', '--tta', *options) == plain


def test_training_takes_all_its_options(model, run, tmp_path, smallest_nuscenes):
    config, _ = model
    options = [
        *('--amp', '--sync_bn', 'torch', '--auto-scale-lr', '--launcher', 'none'),
        *('--cfg-options', 'train_cfg.max_epochs=1', 'train_cfg.val_begin=9'),
        *('train_dataloader.num_workers=0', 'train_dataloader.persistent_workers=True'),
        *('train_dataloader.prefetch_factor=2', 'train_dataloader.batch_size=1'),
        f'train_dataloader.dataset.data_root={smallest_nuscenes}/',
    ]
    log = run('train', config, *options)
    assert 'No GPU: AmpOptimWrapper is replaced' in log or torch.cuda.is_available()
    assert '(auto_scale_lr)' in log
    options[options.index('train_cfg.max_epochs=1')] = 'train_cfg.max_epochs=2'
    checkpoint = tmp_path / 'work/epoch_1.pth'
    assert 'resumed epoch: 1' in run('train', config, '--resume', checkpoint, *options)


def test_the_test_split_goes_from_its_tables_to_a_submission(
    model, run, smallest_nuscenes, tmp_path
):
    """v1.0-test has no annotations; its copy here is the validation split without them."""
    root = tmp_path / 'nuscenes'
    tables = root / 'v1.0-test'
    tables.mkdir(parents=True)
    for name in ('samples', 'sweeps', 'maps'):
        (root / name).symlink_to(smallest_nuscenes / name)
    for path in (smallest_nuscenes / 'v1.0-trainval').glob('*.json'):
        rows = json.loads(path.read_text())
        if path.stem in ('sample_annotation', 'instance'):
            rows = []
        elif path.stem == 'scene':
            rows = [dict(row, name=test_scenes[number]) for number, row in enumerate(rows)]
        (tables / path.name).write_text(json.dumps(rows))
    counts = convert_nuscenes(root, root, version='v1.0-test')
    assert counts == dict(test=6, objects=0, crops=0)
    run(
        *('test', *model, '--cfg-options'),
        f'test_dataloader.dataset.data_root={root}/',
        'test_dataloader.dataset.ann_file=nuscenes_infos_test.pkl',
        'test_dataloader.dataset.metainfo.version=v1.0-test',
        f'test_evaluator.data_root={root}/',
        f'test_evaluator.ann_file={root}/nuscenes_infos_test.pkl',
        'test_evaluator.format_only=True',
        f'test_evaluator.jsonfile_prefix={tmp_path}/submission',
    )
    path = tmp_path / 'submission/pred_instances_3d/results_nusc.json'
    submission = json.loads(path.read_text())
    tokens = {row['token'] for row in json.loads((tables / 'sample.json').read_text())}
    assert submission['results'].keys() == tokens
    assert submission['meta'].keys() >= {'use_camera', 'use_lidar'}
