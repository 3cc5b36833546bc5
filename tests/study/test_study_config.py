"""Reading a study: what it is, what the runs' configs become, and what is refused."""

from pathlib import Path

import pytest
from mmengine.config import Config

from cmt_bias.runs.preflight import ProblemsFound
from cmt_bias.study.config_overrides import OverrideError, apply_overrides, remove_entries
from cmt_bias.study.effective_config import keep_detections, run_key, variant_config
from cmt_bias.study.study_config import read_study
from cmt_bias.study.study_folder import check_variants

STUDIES = Path(__file__).parents[2] / 'configs' / 'studies'
CONFIGS = sorted((STUDIES.parent / 'cmt_bias').glob('cmt-bias-finetune*.py'))
BASE = """
model = dict(head=dict(type='A', bias=dict(scale=2.5)))
custom_hooks = [dict(type='First', interval=1), dict(type='Second', interval=100)]
optimizer = dict(custom_keys={'head.scale': dict(lr_mult=1.0)})
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a base config and a checkpoint."""
    monkeypatch.chdir(tmp_path)
    Path('base.py').write_text(BASE)
    Path('start.pth').write_bytes(b'weights')
    return tmp_path


def study_text(**changes: object) -> str:
    settings = dict(
        base_config='base.py',
        load_from='start.pth',
        seeds=[0, 1],
        variants=[dict(name='a'), dict(name='b', overrides={'model.head.bias.scale': 1.5})],
    )
    settings.update(changes)
    return '\n'.join(f'{key} = {value!r}' for key, value in settings.items())


def problem_in(**changes: object) -> str:
    Path('study.py').write_text(study_text(**changes))
    with pytest.raises(ProblemsFound) as found:
        check_variants(read_study('study.py'))
    return str(found.value)


@pytest.mark.usefixtures('folder')
def test_unnamed_things_have_the_obvious_names():
    Path('study.py').write_text(study_text())
    study = read_study('study.py', {'seeds': [7]})
    assert (study.name, study.title, study.reference, study.seeds) == ('study', 'study', 'a', (7,))
    assert [variant.title for variant in study.variants] == ['a', 'b']


def test_files_are_also_found_beside_the_study(folder, monkeypatch):
    (folder / 'study.py').write_text(study_text())
    (folder / 'elsewhere').mkdir()
    monkeypatch.chdir(folder / 'elsewhere')
    study = read_study('../study.py')
    assert Path(study.load_from).resolve() == folder / 'start.pth'
    assert Path(study.variants[0].config).resolve() == folder / 'base.py'


@pytest.mark.usefixtures('folder')
@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        (dict(seed=[1]), "has the unknown key 'seed'"),
        (dict(variants=[dict(name='a', override={})]), "the unknown key 'override'"),
        (dict(variants=[dict(name='a'), dict(name='a')]), "2 variants have the name 'a'"),
        (dict(variants=[dict(name='a/b')]), "'a/b' cannot name its folder"),
        (dict(variants=[dict(name='start')]), "'start' cannot name its folder"),
        (dict(variants=[]), 'variants must be a list of dicts with a name'),
        (dict(seeds=[0, 0]), 'seed 0 is given 2 times'),
        (dict(seeds=3), 'seeds must be a list of integers'),
        (dict(reference='c'), "reference='c' is none of the variants"),
        (dict(base_config='none.py'), "the config 'none.py' of the variant 'a' does not exist"),
        (dict(base_config=None), "the variant 'a' has no config"),
        (dict(load_from='none.pth'), "the checkpoint load_from='none.pth' does not exist"),
        (dict(load_from=None), 'gives neither load_from nor start_config'),
        (dict(start_config='base.py'), 'gives both load_from and start_config'),
        (dict(load_from=None, start_config='none.py'), "start_config='none.py' does not exist"),
        (dict(overrides={'model.haed.bias': 1}), "model has no 'haed' (its keys: head)"),
        (dict(overrides={'modle': {}}), "the config has no 'modle'"),
        (
            dict(variants=[dict(name='a', remove=['custom_hooks.Third'])]),
            "custom_hooks has no 'Third' (its elements: First, Second)",
        ),
    ],
)
def test_what_is_wrong_is_said(changes, said):
    message = problem_in(**changes)
    assert said in message
    assert 'remedy:' in message


def test_missing_study_is_named():
    with pytest.raises(ProblemsFound, match="the study 'none.py' does not exist"):
        read_study('none.py')


def test_overrides_reach_list_elements_by_their_type_and_merge_dicts(folder):
    cfg = Config.fromfile(folder / 'base.py')
    apply_overrides(
        cfg,
        {
            'custom_hooks.Second.interval': 5,
            'optimizer': dict(custom_keys={'head.scale': dict(decay_mult=0.0)}),
            'model.head.bias.new': (1, 2),
        },
    )
    remove_entries(cfg, ['custom_hooks.First', 'model.head.type'])
    assert cfg.custom_hooks == [dict(type='Second', interval=5)]
    assert cfg.optimizer.custom_keys == {'head.scale': dict(lr_mult=1.0, decay_mult=0.0)}
    assert cfg.model.head == dict(bias=dict(scale=2.5, new=(1, 2)))
    with pytest.raises(OverrideError, match="no 'First'"):
        remove_entries(cfg, ['custom_hooks.First'])


@pytest.mark.usefixtures('folder')
def test_key_changes_with_settings_seed_weights_and_processes_alone():
    Path('study.py').write_text(study_text())
    study = read_study('study.py')

    def key(variant: int = 1, seed: int = 0, digest: str = 'd', processes: int = 1) -> str:
        cfg = variant_config(study, study.variants[variant], seed, 'start.pth')
        return run_key(cfg, digest, processes)

    keys = {key(), key(variant=0), key(seed=1), key(digest='e'), key(processes=2)}
    assert len(keys) == 5
    Path('base.py').write_text('# a comment\n' + BASE)
    assert key() in keys


def test_detections_are_kept_by_the_metric_of_one_evaluator_or_of_several(tmp_path):
    metric = dict(type='NuScenesMetric')
    for evaluator in (dict(metric), [dict(type='Other'), dict(metric)]):
        cfg = Config(dict(test_evaluator=evaluator))
        keep_detections(cfg, tmp_path)
        kept = cfg.test_evaluator if isinstance(evaluator, dict) else cfg.test_evaluator[1]
        assert kept.jsonfile_prefix == str(tmp_path)
    with pytest.raises(ProblemsFound, match='no NuScenesMetric in test_evaluator'):
        keep_detections(Config(dict(test_evaluator=dict(type='Other'))), tmp_path)


@pytest.mark.parametrize('name', ['learnable_scale', 'learnable_scale_nus'])
def test_shipped_studies_name_a_config_that_exists_and_its_checkpoint(name):
    study = Config.fromfile(STUDIES / f'{name}.py')
    base = STUDIES.parents[1] / study.base_config
    assert study.load_from == Config.fromfile(base, import_custom_modules=False).load_from


@pytest.mark.parametrize('base', CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize('name', ['learnable_scale', 'learnable_scale_nus'])
def test_variants_of_the_shipped_studies_differ_in_the_bias_alone(name, base, folder, monkeypatch):
    monkeypatch.chdir(STUDIES.parents[1])
    options = dict(load_from=str(folder / 'start.pth'), base_config=str(base))
    study = read_study(str(STUDIES / f'{name}.py'), options)
    configs = {
        variant.name: variant_config(study, variant, 0, 'start.pth')
        for variant in study.variants
        if variant.config == str(base)
    }
    heads = {variant: cfg.model.pts_bbox_head for variant, cfg in configs.items()}
    scales = {
        variant: (bias.bias_scale, bias.learnable_scale, bias.get('scale_granularity', 'shared'))
        for variant, head in heads.items()
        if (bias := head.get('attention_bias_config'))
    }
    assert scales == {
        'fixed_2.5': (2.5, False, 'shared'),
        'learned_2.5': (2.5, True, 'shared'),
        'learned_1.5': (1.5, True, 'shared'),
        'learned_3.5': (3.5, True, 'shared'),
        'per_modality': (2.5, True, 'modality'),
        'per_layer': (2.5, True, 'layer'),
    }
    assert (heads['no_bias'].type, heads['no_bias'].transformer.type) == (
        'CmtHead',
        'CmtTransformer',
    )
    assert 'weight_generator' not in heads['no_bias']
    shared = ('optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader', 'default_hooks')
    first = configs['fixed_2.5']
    for cfg in configs.values():
        assert all(cfg[key] == first[key] for key in shared)
        assert cfg.model.frozen_modules == first.model.frozen_modules


@pytest.mark.parametrize('name', ['learnable_scale', 'learnable_scale_nus'])
def test_oracle_of_the_shipped_studies_differs_from_the_router_in_weights_and_labels_alone(
    name, folder, monkeypatch
):
    monkeypatch.chdir(STUDIES.parents[1])
    study = read_study(str(STUDIES / f'{name}.py'), dict(load_from=str(folder / 'start.pth')))
    configs = {v.name: variant_config(study, v, 0, 'start.pth') for v in study.variants}
    router, oracle, wrong = (configs[key] for key in ('learned_2.5', 'oracle', 'wrong_sign'))
    assert oracle.model.pts_bbox_head.weight_generator == dict(type='OracleWeightGenerator')
    assert wrong.model.pts_bbox_head.weight_generator.wrong_sign
    for cfg in (oracle, wrong):
        cfg.model.pts_bbox_head.weight_generator = router.model.pts_bbox_head.weight_generator
        for dataset in (cfg.train_dataloader.dataset, cfg.test_dataloader.dataset):
            pipeline = dataset.get('dataset', dataset).pipeline
            assert pipeline[-2].type == 'LabelSpoiledSensors'
            assert 'spoiled_sensors' in pipeline[-1].meta_keys
            del pipeline[-2]
        for key in ('model', 'train_dataloader', 'test_dataloader', 'optim_wrapper', 'load_from'):
            assert cfg[key] == router[key]
