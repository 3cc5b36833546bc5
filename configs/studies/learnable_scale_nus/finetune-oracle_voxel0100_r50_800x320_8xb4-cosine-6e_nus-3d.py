# As finetune-oracle-tiny, on nuScenes.
_base_ = '../../cmt_bias/cmt-bias-finetune_voxel0100_r50_800x320_8xb4-cosine-6e_nus-3d.py'

label = dict(
    type='LabelSpoiledSensors',
    data_root=_base_.data_root,
    version=_base_.version,
    spoiled_by=dict(night='C'),
)
model = dict(
    pts_bbox_head=dict(weight_generator=dict(_delete_=True, type='OracleWeightGenerator'))
)
train_pipeline = [*_base_.train_pipeline[:-1], label, _base_.train_pipeline[-1]]
test_pipeline = [*_base_.test_pipeline[:-1], label, _base_.test_pipeline[-1]]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
