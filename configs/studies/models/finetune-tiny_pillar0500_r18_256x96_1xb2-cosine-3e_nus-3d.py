# The demo's fine-tuning, three epochs, on data with more validation scenes, so that a metric's
# noise is smaller.
_base_ = '../../cmt_bias/cmt-bias-finetune-tiny_pillar0500_r18_256x96_1xb2-cosine-4e_nus-3d.py'

data_root = 'data/synthetic_study/'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
val_evaluator = dict(data_root=data_root, ann_file=data_root + 'nuscenes_infos_val.pkl')
test_evaluator = val_evaluator

max_epochs = 3
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    _base_.param_scheduler[0],
    dict(_base_.param_scheduler[1], end=max_epochs, T_max=max_epochs),
]
