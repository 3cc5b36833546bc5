"""The configs of the package as other projects find them."""

from pathlib import Path

import pytest
from mmengine.config import Config

from cmt_bias import config_path
from cmt_bias.shipped_configs import CONFIG_FOLDER

CONFIGS = Path(__file__).parents[1] / 'configs'


def test_every_config_of_the_checkout_is_found():
    names = [str(path.relative_to(CONFIGS)) for path in CONFIGS.rglob('*.py')]
    assert names
    for name in names:
        assert Path(config_path(name)).samefile(CONFIGS / name)


def test_config_in_another_folder_inherits_by_one_line(tmp_path):
    preset = next(path for path in (CONFIGS / 'cmt_bias').glob('cmt-bias-learnable-tiny*'))
    child = tmp_path / 'mine.py'
    child.write_text(
        f"_base_ = __import__('cmt_bias').config_path('cmt_bias/{preset.name}')\n"
        'model = dict(pts_bbox_head=dict(attention_bias_config=dict(bias_scale=1.5)))\n'
    )
    cfg = Config.fromfile(child)
    expected = Config.fromfile(preset)
    expected.model.pts_bbox_head.attention_bias_config.bias_scale = 1.5
    assert cfg.to_dict() == expected.to_dict()


def test_unknown_config_is_answered_with_the_nearest():
    with pytest.raises(FileNotFoundError, match='cmt-bias-learnable-tiny'):
        config_path('cmt_bias/cmt-bias-learnable-tiny.py')


def test_package_without_configs_says_how_to_install_it(monkeypatch, tmp_path):
    monkeypatch.setattr('cmt_bias.shipped_configs.CONFIG_FOLDER', tmp_path)
    assert CONFIG_FOLDER.is_dir()
    with pytest.raises(FileNotFoundError, match='pip install'):
        config_path('cmt/any.py')
