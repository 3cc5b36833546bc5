"""Tiny models with random weights on the smallest data, and the tools that run on them."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from mmdet3d.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

ROOT = Path(__file__).parents[2]
BASE = next((ROOT / 'configs' / 'cmt').glob('cmt-tiny*.py'))
CONFIG = """
_base_ = '{base}'
data_root = '{data_root}/'
custom_imports = dict(imports=['cmt_bias'], allow_failed_imports=False)
val_dataloader = dict(
    num_workers=0, persistent_workers=False, dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(data_root=data_root, ann_file=data_root + 'nuscenes_infos_val.pkl')
test_evaluator = val_evaluator
model = dict(pts_bbox_head=dict(num_query=40))
load_from = None
{more}
"""


def biased_config(preset: str) -> Path:
    """The tiny recipe with a preset of the bias."""
    return next((ROOT / 'configs' / 'cmt_bias').glob(f'cmt-bias-{preset}-tiny*.py'))


def make_model(
    folder: Path,
    name: str,
    base: Path,
    data_root: Path,
    more: str = '',
    bias_scale: Sequence[float] | None = None,
) -> tuple[Path, Path]:
    """Write a config and a checkpoint, whose router, if there is one, does not give zeros.

    Args:
        folder: Where to write.
        name: Of the files.
        base: Config to inherit from.
        data_root: The data.
        more: Lines at the end of the config.
        bias_scale: Entries of the bias scale in place of the config's.

    Returns:
        The config and the checkpoint.
    """
    config, checkpoint = folder / f'{name}.py', folder / f'{name}.pth'
    config.write_text(CONFIG.format(base=base, data_root=data_root, more=more))
    settings = Config.fromfile(config).model
    init_default_scope('mmdet3d')
    torch.manual_seed(1)
    model = MODELS.build(settings)
    model.init_weights()
    state = model.state_dict()
    for key, value in state.items():
        if key.endswith('weight_logits.weight'):
            torch.nn.init.normal_(value)
        if bias_scale is not None and key.endswith('bias_scale'):
            value.copy_(torch.tensor(bias_scale))
    torch.save(dict(state_dict=state, meta={}), checkpoint)
    return config, checkpoint


def run_tool(tool: str, *arguments: object) -> subprocess.CompletedProcess:
    """Run a command line tool in one thread; its errors are in ``stdout``."""
    return subprocess.run(
        [sys.executable, f'tools/{tool}.py', *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
