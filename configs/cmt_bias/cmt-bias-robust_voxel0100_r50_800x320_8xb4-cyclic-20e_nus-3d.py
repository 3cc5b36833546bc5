_base_ = [
    './cmt-bias-learnable_voxel0100_r50_800x320_8xb4-cyclic-20e_nus-3d.py',
    './presets/robust.py',
]

train_pipeline = [
    _base_.random_failure if step['type'] == 'ModalMask3D' else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
custom_hooks = [*_base_.custom_hooks, *_base_.failure_hooks]
