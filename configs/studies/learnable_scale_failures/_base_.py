# What all variants share: the study beside this one, with sensors that fail in training.
_base_ = ['../learnable_scale/_base_.py', '../../cmt_bias/presets/robust.py']

place = [step['type'] for step in _base_.train_pipeline].index('CustomRandomFlip3D')
train_pipeline = [
    *_base_.train_pipeline[:place],
    _base_.random_failure,
    *_base_.train_pipeline[place:],
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
custom_hooks = [*_base_.failure_hooks, *_base_.custom_hooks]
