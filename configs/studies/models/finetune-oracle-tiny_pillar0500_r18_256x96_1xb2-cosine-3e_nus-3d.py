# The fine-tuning with an oracle in place of the router: it knows by the scene description that at
# night the cameras suffer. In rain neither sensor is clearly the better one; both stay trusted.
_base_ = './finetune-tiny_pillar0500_r18_256x96_1xb2-cosine-3e_nus-3d.py'

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
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
