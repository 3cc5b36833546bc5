# What all variants share: fine-tuning of the tiny CMT with the bias, backbones frozen.
_base_ = '../../cmt_bias/cmt-bias-finetune-tiny_pillar0500_r18_256x96_1xb2-cosine-4e_nus-3d.py'

data_root = 'data/synthetic_study/'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(data_root=data_root, ann_file=data_root + 'nuscenes_infos_val.pkl')
test_evaluator = val_evaluator

max_epochs = 3
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs, val_begin=1000)  # tested after
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_epochs, T_max=max_epochs),
]
# Adam moves a scalar by about its learning rate an iteration, whatever its gradient: twice the
# preset's rate, so that scales from 1.5 and 3.5 could meet and go on.
scale_rate = dict(lr_mult=40.0, decay_mult=0.0)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'attention_bias_generator.bias_scale': scale_rate})
)
custom_hooks = [*_base_.custom_hooks[:-1], dict(type='BiasScaleHook', interval=10)]
default_hooks = dict(logger=dict(interval=10))
log_processor = dict(window_size=10)
