_base_ = [
    '../cmt/cmt-tiny_pillar0500_r18_256x96_1xb2-cyclic-11e_nus-3d.py',
    './presets/finetune.py',
]

attention_bias_config = dict(_base_.attention_bias_config, **_base_.bias_windows)
model = dict(
    frozen_modules=_base_.frozen_modules,
    pts_bbox_head=dict(_base_.bias_head, attention_bias_config=attention_bias_config),
)
# 480 iterations: at 20 times the rate the scale can travel 1.0.
optim_wrapper = dict(
    paramwise_cfg=dict(
        custom_keys=dict(
            _base_.bias_paramwise_cfg.custom_keys,
            _delete_=True,
            **{'attention_bias_generator.bias_scale': dict(lr_mult=20.0, decay_mult=0.0)},
        )
    )
)
custom_hooks = [dict(type='BiasScaleHook', interval=20)]
max_epochs = 4
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(_base_.finetune_param_scheduler[0], end=60),
    dict(_base_.finetune_param_scheduler[1], end=max_epochs, T_max=max_epochs),
]
load_from = 'cmt_bias://cmt_tiny'  # the base that comes with the package
