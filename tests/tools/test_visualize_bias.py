"""``tools/visualize_bias.py`` on the smallest data, with random weights."""

from pathlib import Path

import mmcv
import pandas as pd
import pytest
from mmengine.fileio import load

from .tiny_models import BASE, biased_config, make_model

pytestmark = pytest.mark.end_to_end


@pytest.fixture(scope='module')
def models(tmp_path_factory, smallest_nuscenes) -> dict[str, tuple[Path, Path]]:
    """Config and checkpoint of a tiny CMT and of one with a bias, whose router is not zero."""
    folder = tmp_path_factory.mktemp('models')
    return dict(
        base=make_model(folder, 'base', BASE, smallest_nuscenes),
        biased=make_model(folder, 'biased', biased_config('layer'), smallest_nuscenes),
    )


def test_pictures_and_shares_of_the_asked_samples_are_written(
    call_tool, models, smallest_nuscenes, tmp_path
):
    token = load(smallest_nuscenes / 'nuscenes_infos_val.pkl')['data_list'][2]['token']
    status, said = call_tool(
        'visualize_bias', *models['biased'], '--samples', 0, token, '--score-thr', 0, '--layer', 0,
        '--modality', 'L', '--out-dir', tmp_path,
    )  # fmt: skip
    assert status == 0, said
    assert f'2 pictures and attention_mass.csv in {tmp_path}' in said
    names = ['attention_mass.csv', 'test_00000_layer0.png', 'test_00002_layer0.png']
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name in names[1:]:
        height, width = mmcv.imread(tmp_path / name).shape[:2]
        assert 1700 <= width <= 2000
        assert 1200 <= height <= 1800
    table = pd.read_csv(tmp_path / 'attention_mass.csv')
    assert table['sample'].tolist() == [0] * 4 + [2] * 4
    assert table['token'].tolist()[4:] == [token] * 4
    assert table['layer'].tolist() == [0, 0, 1, 1] * 2
    assert (table['queries'] == 12).all()
    assert (table['lidar'] + table['camera']).tolist() == pytest.approx([1.0] * 8)
    without, with_bias = (table[table['bias'] == kind]['windows'] for kind in ('without', 'with'))
    assert (without.to_numpy() != with_bias.to_numpy()).all()


@pytest.mark.parametrize(
    ('extra', 'cause', 'remedy'),
    [
        (['--samples', '0', 'nosuchtoken'], '--samples nosuchtoken', '0 to 2'),
        (['--layer', '2'], '--layer 2', '0 to 1'),
    ],
)
def test_what_does_not_exist_is_named(call_tool, models, extra, cause, remedy):
    status, message = call_tool('visualize_bias', *models['biased'], *extra)
    assert status == 2
    assert cause in message
    assert remedy in message


def test_a_missing_checkpoint_is_named(call_tool, models, tmp_path):
    status, message = call_tool('visualize_bias', models['biased'][0], tmp_path / 'none.pth')
    assert status == 2
    assert 'none.pth' in message
    assert 'does not exist' in message


def test_a_model_without_bias_is_explained(call_tool, models):
    status, message = call_tool('visualize_bias', *models['base'])
    assert status == 2
    assert 'no attention bias' in message
    assert 'AttentionBiasCmtHead' in message
