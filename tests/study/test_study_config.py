"""Reading a study: what it is, what the runs' configs become, and what is refused."""

import hashlib
from pathlib import Path

import pytest
from mmengine.config import Config

from cmt_bias.checkpoints import weights_record
from cmt_bias.runs.preflight import ProblemsFound
from cmt_bias.study.study_config import keep_detections, read_study, run_config, run_key

STUDIES = sorted((Path(__file__).parents[2] / 'configs' / 'studies').glob('*/study.py'))
CONFIG = """
model = dict(type='A', scale=2.5)
test_evaluator = dict(type='NuScenesMetric')
load_from = 'start.pth'
work_dir = 'elsewhere'
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with the configs of two variants and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    Path('a.py').write_text(CONFIG)
    Path('b.py').write_text("_base_ = './a.py'\nmodel = dict(scale=1.5)\n")
    Path('start.pth').write_bytes(b'weights')
    return tmp_path


def write_study(**changes: object) -> Path:
    settings = dict(variants=dict(a='the first', b='the second'), seeds=[0, 1])
    settings.update(changes)
    path = Path('study.py')
    path.write_text('\n'.join(f'{key} = {value!r}' for key, value in settings.items()))
    return path


def test_unnamed_things_have_the_obvious_names(folder):
    study = read_study(write_study())
    assert (study.title, study.reference, study.seeds) == (folder.name, 'a', (0, 1))
    assert (study.failures, study.failure_options) == ((), ())
    assert dict(study.variants) == dict(a='the first', b='the second')


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        (dict(seed=[1]), "has the unknown key 'seed'"),
        (dict(variants=[]), 'variants must name the variants'),
        (dict(variants={'a/b': ''}), "'a/b' cannot name its folder"),
        (dict(variants=dict(c='')), "the variant 'c' has no config"),
        (dict(seeds=[0, 0]), 'seeds must be a list of different integers'),
        (dict(seeds=3), 'seeds must be a list of different integers'),
        (dict(reference='c'), "'c' is none of the variants"),
        (dict(questions=[dict(text='?', variant='a')]), 'cannot be understood'),
        (dict(questions=[dict(text='?', variant='a', against='c')]), "'c' is none of the"),
        (dict(questions=[dict(text='?', variant='a', against='a')]), "compares 'a' with itself"),
        (
            dict(failures=['lidar_drop', 'camera_dorp']),
            'no failures are called camera_dorp; there',
        ),
        (dict(failures='lidar_drop'), "failures must be a list of names, not 'lidar_drop'"),
        (dict(failures=dict(lidar_drop=1)), 'failures must be a list of names, not {'),
        (dict(failures=None), 'failures must be a list of names, not None'),
        (dict(failures=[3]), "failures = \\['lidar_drop', 'night_3', ...]"),
    ],
)
def test_what_is_wrong_is_said_with_a_remedy(changes, said):
    with pytest.raises(ProblemsFound, match=said) as found:
        read_study(write_study(**changes))
    assert 'remedy: ' in str(found.value)


def test_all_that_is_wrong_with_a_question_is_said():
    question = dict(txt='?', variant='a', against='c')
    with pytest.raises(ProblemsFound, match='cannot be understood') as found:
        read_study(write_study(questions=[question]))
    assert "'c' is none of the variants" in str(found.value)


def test_settings_of_tests_under_failures_are_none_where_there_are_no_failures():
    options = {'test_dataloader.batch_size': 2}
    assert read_study(write_study(failure_options=options)).failure_options == ()
    study = read_study(write_study(failure_options=options, failures=['lidar_*']))
    assert study.failure_options == ('test_dataloader.batch_size=2',)


def test_one_folder_for_the_checkpoints_of_all_runs_is_refused():
    Path('b.py').write_text(
        "_base_ = './a.py'\ndefault_hooks = dict(checkpoint=dict(out_dir='x'))"
    )
    with pytest.raises(ProblemsFound, match=r'default_hooks\.checkpoint\.out_dir'):
        run_config(read_study(write_study()), 'b', 0)


def test_missing_study_is_named():
    with pytest.raises(ProblemsFound, match=r"the study 'none\.py' does not exist"):
        read_study(Path('none.py'))


def test_config_of_a_run_is_the_variants_with_its_seed():
    study = read_study(write_study())
    cfg = run_config(study, 'b', 7, {'model.type': 'B'})
    assert cfg.model == dict(type='B', scale=1.5)
    assert cfg.randomness == dict(seed=7)
    assert 'work_dir' not in cfg and cfg.resume is False


def test_missing_weights_and_metric_are_named():
    study = read_study(write_study())
    Path('start.pth').unlink()
    Path('a.py').write_text("load_from = 'start.pth'")
    with pytest.raises(ProblemsFound) as found:
        run_config(study, 'a', 0)
    assert "load_from='start.pth' does not exist" in str(found.value)
    assert 'has no NuScenesMetric in test_evaluator' in str(found.value)


def test_key_changes_with_all_that_decides_the_result():
    study = read_study(write_study())
    keys = {
        run_key(run_config(study, 'a', 0), 1),
        run_key(run_config(study, 'a', 1), 1),
        run_key(run_config(study, 'b', 0), 1),
        run_key(run_config(study, 'a', 0), 2),
    }
    Path('start.pth').write_bytes(b'other weights')
    keys.add(run_key(run_config(study, 'a', 0), 1))
    assert len(keys) == 5
    assert run_key(run_config(study, 'a', 0), 1) in keys


def test_a_study_may_start_from_weights_of_the_package_or_the_net():
    study = read_study(write_study())
    shipped, remote = (
        run_config(study, 'a', 0, {'load_from': name})
        for name in ('cmt_bias://cmt_tiny', 'https://example.org/cmt.pth')
    )
    assert run_key(shipped, 1) != run_key(remote, 1)


def test_key_is_that_of_earlier_versions(folder):
    """By hand: what a study has run must not be made again."""
    cfg = Config(dict(load_from='start.pth'))
    text = b'{"load_from": "start.pth"}'
    assert run_key(cfg, 2) == hashlib.sha256(text + b'2' + b'weights').hexdigest()
    shipped = Config(dict(load_from='cmt_bias://cmt_tiny'))
    record = weights_record('cmt_tiny')['sha256'].encode()
    text = b'{"load_from": "cmt_bias://cmt_tiny"}'
    assert run_key(shipped, 1) == hashlib.sha256(text + b'1' + record).hexdigest()


def test_detections_are_kept_where_the_analysis_looks(folder):
    cfg = Config(dict(test_evaluator=[dict(type='Other'), dict(type='NuScenesMetric')]))
    keep_detections(cfg, folder / 'x')
    assert cfg.test_evaluator[1].jsonfile_prefix == str(folder / 'x')
    assert 'jsonfile_prefix' not in cfg.test_evaluator[0]


@pytest.mark.parametrize('path', STUDIES, ids=lambda path: path.parent.name)
def test_shipped_study_differs_between_variants_only_where_it_says(path, monkeypatch):
    monkeypatch.chdir(path.parents[3])
    study = read_study(path)
    configs = {
        name: Config.fromfile(path.with_name(f'{name}.py'), import_custom_modules=False)
        for name in study.variants
    }
    reference = configs[study.reference]
    for name, cfg in configs.items():
        for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'load_from'):
            assert cfg.get(key) == reference.get(key), (name, key)
        assert cfg.train_dataloader.batch_size == reference.train_dataloader.batch_size
        assert cfg.model.frozen_modules == reference.model.frozen_modules
        fails = path.parent.name.endswith('_failures')
        assert str(cfg.train_dataloader).count("'RandomFailure'") == fails, name
        assert str(cfg.custom_hooks).count("'FailureEpochHook'") == fails, name
    heads = {name: cfg.model.pts_bbox_head for name, cfg in configs.items()}
    assert heads['no_bias'].type == 'CmtHead'
    assert 'attention_bias_config' not in heads['no_bias']
    assert len({str(head) for head in heads.values()}) + 1 >= len(heads)  # annealed by a hook
