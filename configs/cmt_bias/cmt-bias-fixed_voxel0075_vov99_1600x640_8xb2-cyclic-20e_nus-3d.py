_base_ = ['../cmt/cmt_voxel0075_vov99_1600x640_8xb2-cyclic-20e_nus-3d.py', './presets/fixed.py']

attention_bias_config = dict(_base_.attention_bias_config, **_base_.bias_windows)
model = dict(
    pts_bbox_head=dict(_base_.bias_head, attention_bias_config=attention_bias_config),
)
optim_wrapper = dict(paramwise_cfg=_base_.bias_paramwise_cfg)
custom_hooks = [*_base_.custom_hooks, *_base_.bias_hooks]
