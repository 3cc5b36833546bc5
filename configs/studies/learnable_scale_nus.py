# The study on nuScenes, from a checkpoint of the released CMT as it was downloaded (800 x 320).
_base_ = './learnable_scale.py'

name = 'learnable_scale_nus'
title = 'Learned scale of the attention bias on nuScenes'
base_config = 'configs/cmt_bias/cmt-bias-finetune_voxel0100_r50_800x320_8xb4-cosine-6e_nus-3d.py'
load_from = 'ckpts/cmt_voxel0100_r50_800x320.pth'
oracle_config = (
    'configs/studies/models/finetune-oracle_voxel0100_r50_800x320_8xb4-cosine-6e_nus-3d.py'
)
variants = [
    dict(variant, config=oracle_config) if 'config' in variant else variant
    for variant in _base_.variants
]
del oracle_config

# 23 000 iterations of batch 32 carry the scale up to 1.6 at the detector's own rate of 1.4e-4.
overrides = {
    'optim_wrapper.paramwise_cfg': dict(
        custom_keys={'attention_bias_generator.bias_scale': dict(lr_mult=1.0)}
    ),
    'custom_hooks.BiasScaleHook.interval': 100,
    'default_hooks.logger.interval': 50,
    'log_processor.window_size': 50,
}
