# What all variants share: fine-tuning of the released CMT (800 x 320) with the bias on nuScenes.
_base_ = '../../cmt_bias/cmt-bias-finetune_voxel0100_r50_800x320_8xb4-cosine-6e_nus-3d.py'

train_cfg = dict(val_begin=1000)  # never: every run is tested afterwards
# 23 000 iterations of batch 32 carry the scale by more than 1.5 at the detector's own rate.
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'attention_bias_generator.bias_scale': dict(lr_mult=1.0)})
)
default_hooks = dict(logger=dict(interval=50))
log_processor = dict(window_size=50)
load_from = 'ckpts/cmt_voxel0100_r50_800x320.pth'
