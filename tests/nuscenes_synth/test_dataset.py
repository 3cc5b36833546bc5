import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import nuscenes_synth
from nuscenes_synth import DatasetConflictError, DatasetSettings, generate_dataset, is_complete
from nuscenes_synth.scene_writer import SceneWriter

SETTINGS = DatasetSettings(
    train_scenes=2, val_scenes=1, samples_per_scene=2, image_scale=0.05, lidar_azimuths=90
)
ENVIRONMENT = {**os.environ, 'PYTHONPATH': str(Path(nuscenes_synth.__file__).parents[1])}


def digest(root):
    """Hash of every file by its path below ``root``."""
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob('*'))
        if path.is_file()
    }


@pytest.fixture(scope='module')
def dataset(tmp_path_factory):
    root = tmp_path_factory.mktemp('synthetic')
    assert generate_dataset(root, SETTINGS, show_progress=False)
    return root


def test_bytes_do_not_depend_on_the_number_of_workers(dataset, tmp_path):
    generate_dataset(tmp_path, SETTINGS, workers=2, show_progress=False)
    assert digest(tmp_path) == digest(dataset)


def test_other_seed_gives_other_bytes_in_every_sensor_file(dataset, tmp_path):
    generate_dataset(tmp_path, dataclasses.replace(SETTINGS, seed=1), show_progress=False)
    first, second = digest(dataset), digest(tmp_path)
    recordings = [path for path in first if path.startswith(('samples', 'sweeps'))]
    assert len(recordings) == 3 * (2 * 7 + 1)
    assert all(first[path] != second[path] for path in recordings)


def test_interrupted_run_has_no_tables_and_is_continued(dataset, tmp_path, monkeypatch):
    write, done = SceneWriter.write, []

    def write_one_scene_only(self):
        if done:
            raise KeyboardInterrupt
        done.append(self)
        return write(self)

    monkeypatch.setattr(SceneWriter, 'write', write_one_scene_only)
    with pytest.raises(KeyboardInterrupt):
        generate_dataset(tmp_path, SETTINGS, show_progress=False)
    assert not (tmp_path / SETTINGS.version).exists()
    assert not is_complete(tmp_path, SETTINGS)

    written = []

    def count_scenes(self):
        written.append(self)
        return write(self)

    monkeypatch.setattr(SceneWriter, 'write', count_scenes)
    generate_dataset(tmp_path, SETTINGS, show_progress=False)
    assert len(written) == 2, 'the finished scene is not written again'
    assert digest(tmp_path) == digest(dataset)


def test_scene_is_the_same_in_a_larger_dataset(dataset, tmp_path):
    larger = dataclasses.replace(SETTINGS, train_scenes=3, val_scenes=2)
    generate_dataset(tmp_path, larger, show_progress=False)
    small, large = digest(dataset), digest(tmp_path)
    recordings = [path for path in small if path.startswith(('samples', 'sweeps'))]
    assert len(recordings) == 3 * (2 * 7 + 1)
    assert all(small[path] == large[path] for path in recordings)


def test_workers_die_with_a_parent_that_is_killed(tmp_path):
    """SIGKILL leaves the parent no time to tell them."""
    settings = dataclasses.replace(SETTINGS, train_scenes=60, samples_per_scene=20)
    script = (
        'from pathlib import Path; from nuscenes_synth import *; '
        f'generate_dataset(Path({str(tmp_path)!r}), {settings!r}, workers=2)'
    )
    main = tmp_path.with_suffix('.py')
    main.write_text(f'if __name__ == "__main__":\n    {script}\n')
    parent = subprocess.Popen(
        [sys.executable, str(main)], env=ENVIRONMENT, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob('samples/LIDAR_TOP/*')) and time.monotonic() < deadline:
        time.sleep(0.05)
    workers = psutil.Process(parent.pid).children(recursive=True)
    assert len(workers) >= 2
    parent.kill()
    parent.wait()
    _, alive = psutil.wait_procs(workers, timeout=20)
    for process in alive:
        process.kill()
    assert not alive
    assert not (tmp_path / settings.version).exists()


def test_finished_dataset_is_left_alone(dataset):
    before = {path: path.stat().st_mtime_ns for path in dataset.rglob('*')}
    assert not generate_dataset(dataset, SETTINGS, show_progress=False)
    assert {path: path.stat().st_mtime_ns for path in dataset.rglob('*')} == before


def test_dataset_with_other_settings_is_refused_and_named(dataset):
    other = dataclasses.replace(SETTINGS, val_scenes=2, seed=7)
    with pytest.raises(DatasetConflictError, match=r'seed: 0 there, 7 asked for, val_scenes: 1'):
        generate_dataset(dataset, other, show_progress=False)


def test_folder_of_someone_else_is_refused(tmp_path):
    (tmp_path / 'v1.0-trainval').mkdir()
    with pytest.raises(DatasetConflictError, match=r'did not write.*Choose another --out'):
        generate_dataset(tmp_path, SETTINGS, show_progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ['v1.0-trainval']


def test_settings_are_stored_beside_the_data(dataset):
    stored = json.loads((dataset / 'synthetic_nuscenes.json').read_text())
    assert stored['seed'] == 0
    assert DatasetSettings(**{k: v for k, v in stored.items() if k != 'generator_version'})


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'version': 'v1.0-test'}, 'version must be one of v1.0-trainval, v1.0-mini'),
        ({'version': 'v1.0-mini', 'train_scenes': 9}, 'train_scenes must be between 1 and 8'),
        ({'version': 'v1.0-mini', 'val_scenes': 3, 'train_scenes': 1}, 'between 1 and 2'),
        ({'train_scenes': 701}, 'train_scenes must be between 1 and 700'),
        ({'val_scenes': 0}, 'val_scenes must be between 1 and 150'),
        ({'samples_per_scene': 1}, 'samples_per_scene must be between 2 and 40'),
        ({'image_scale': 1.5}, 'image_scale must be between 0.05 and 1.0'),
        ({'camera_harm': -0.1}, 'camera_harm must be between 0.0 and 4.0'),
        ({'lidar_harm': 9.0}, 'lidar_harm must be between 0.0 and 4.0'),
        ({'seed': -1}, 'seed must not be negative'),
    ],
)
def test_impossible_settings_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS, **change)


def test_no_workers_are_refused(tmp_path):
    with pytest.raises(ValueError, match='workers must be at least 1'):
        generate_dataset(tmp_path, SETTINGS, workers=0)


def test_mini_version_uses_the_mini_splits():
    plans = DatasetSettings(version='v1.0-mini', train_scenes=2, val_scenes=2).scene_plans()
    assert [plan.name for plan in plans] == [
        'scene-0061',
        'scene-0553',
        'scene-0103',
        'scene-0916',
    ]


def test_both_splits_have_all_weathers_by_default():
    defaults = DatasetSettings()
    plans = defaults.scene_plans()
    assert len(plans) == defaults.train_scenes + defaults.val_scenes
    for split in (plans[: defaults.train_scenes], plans[defaults.train_scenes :]):
        assert {plan.weather.name for plan in split} == {'day', 'night', 'rain', 'fog'}
