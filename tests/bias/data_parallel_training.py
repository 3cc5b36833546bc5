"""Trains presets for a few steps, alone or as one of several gloo processes.

Run as a program: ``data_parallel_training.py DATA_ROOT RESULT CONFIG...``. Each process takes the
samples of its rank from the same two; the bias scale after each step of each config goes to
``RESULT.<rank>.json``. What would make two ranks differ from one process with both samples is held
still: batch statistics, augmentation, and the number of boxes and their denoising noise.
"""

import json
import os
import random
import sys
from pathlib import Path

import numpy as np
import torch
from mmdet3d.registry import DATASETS, MODELS
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.dist import get_dist_info
from mmengine.model import MMDistributedDataParallel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import init_default_scope

from cmt_bias.datasets.nuscenes_dataset import transforms_with

NUM_SAMPLES, NUM_BOXES, STEPS = 2, 5, 4


def load_samples(cfg: Config) -> list[dict]:
    """The first samples, always augmented in the same way."""
    dataset = DATASETS.build(cfg.train_dataloader.dataset)
    for transform in transforms_with(dataset, 'epoch'):
        transform.epoch.fill_(0)
    samples = []
    for index in range(NUM_SAMPLES):
        random.seed(index)
        np.random.seed(index)
        samples.append(dataset[index])
        instances = samples[-1]['data_samples'].gt_instances_3d
        assert len(instances) >= NUM_BOXES
        samples[-1]['data_samples'].gt_instances_3d = instances[:NUM_BOXES]
    return samples


def build_model(cfg: Config) -> torch.nn.Module:
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()
    return model


def train(config: str, data_root: str) -> list[list[float]]:
    """The flattened ``bias_scale`` after each step."""
    cfg = Config.fromfile(config)
    cfg.merge_from_dict({'train_dataloader.dataset.data_root': data_root})
    cfg.model.pts_bbox_head.update(num_query=40, noise_scale=0.0)
    rank, world_size = get_dist_info()
    samples = load_samples(cfg)[rank::world_size]
    model = build_model(cfg)
    generator = model.pts_bbox_head.attention_bias_generator
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper)
    if world_size > 1:
        model = MMDistributedDataParallel(module=model)
    scales = []
    for _ in range(STEPS):
        model.train_step(pseudo_collate(samples), optimizer)
        scales.append(generator.bias_scale.detach().flatten().tolist())
    return scales


def main(data_root: str, result: str, *configs: str) -> None:
    torch.set_num_threads(1)
    if 'RANK' in os.environ:
        torch.distributed.init_process_group('gloo')
    init_default_scope('mmdet3d')
    scales = {Path(config).stem: train(config, data_root) for config in configs}
    rank, _ = get_dist_info()
    Path(f'{result}.{rank}.json').write_text(json.dumps(scales))


if __name__ == '__main__':
    main(*sys.argv[1:])
