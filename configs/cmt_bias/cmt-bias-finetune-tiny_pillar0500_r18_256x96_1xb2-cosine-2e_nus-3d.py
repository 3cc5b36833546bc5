_base_ = [
    '../cmt/cmt-tiny_pillar0500_r18_256x96_2xb2-cyclic-13e_nus-3d.py',
    './presets/finetune.py',
]

attention_bias_config = dict(_base_.attention_bias_config, **_base_.bias_windows)
model = dict(
    frozen_modules=_base_.frozen_modules,
    pts_bbox_head=dict(_base_.bias_head, attention_bias_config=attention_bias_config),
)
# 240 iterations: at 40 times the rate the scale can travel 1.0.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            _base_.bias_paramwise_cfg.custom_keys,
            **{'attention_bias_generator.bias_scale': dict(lr_mult=40.0, decay_mult=0.0)},
        )
    )
)
auto_scale_lr = dict(base_batch_size=2)
custom_hooks = [dict(type='BiasScaleHook', interval=10)]
max_epochs = 2
train_cfg = dict(max_epochs=max_epochs)  # after the last of which it is tested in any case
param_scheduler = [
    dict(_base_.finetune_param_scheduler[0], end=30),
    dict(_base_.finetune_param_scheduler[1], end=max_epochs, T_max=max_epochs),
]
load_from = 'cmt_bias://cmt_tiny'  # the base that comes with the package
