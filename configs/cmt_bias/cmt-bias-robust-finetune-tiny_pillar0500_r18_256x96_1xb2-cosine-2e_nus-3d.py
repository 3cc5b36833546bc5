_base_ = [
    './cmt-bias-finetune-tiny_pillar0500_r18_256x96_1xb2-cosine-2e_nus-3d.py',
    './presets/robust.py',
]

train_pipeline = [
    _base_.random_failure if step['type'] == 'ModalMask3D' else step
    for step in _base_.train_pipeline
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
custom_hooks = [*_base_.custom_hooks, *_base_.failure_hooks]
