_base_ = ['../cmt/cmt_voxel0075_vov99_1600x640_8xb2-cyclic-20e_nus-3d.py', './presets/finetune.py']

attention_bias_config = dict(_base_.attention_bias_config, **_base_.bias_windows)
model = dict(
    frozen_modules=_base_.frozen_modules,
    pts_bbox_head=dict(_base_.bias_head, attention_bias_config=attention_bias_config),
)
optim_wrapper = dict(paramwise_cfg=_base_.bias_paramwise_cfg)
# The checkpoint's last epochs were without pasted objects, and so are all of these.
custom_hooks = [dict(type='PastingSwitchOffHook', epoch=0), *_base_.bias_hooks]
train_cfg = _base_.finetune_train_cfg
param_scheduler = _base_.finetune_param_scheduler
load_from = 'ckpts/cmt_voxel0075_vov99_1600x640.pth'
