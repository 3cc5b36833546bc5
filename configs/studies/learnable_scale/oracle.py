# The ceiling of what weights can do: +1 for healthy sensors, -1 for spoiled ones. At night the
# cameras suffer; a failure of the pipeline says itself what it spoils.
_base_ = './_base_.py'

label = dict(
    type='LabelSpoiledSensors',
    data_root=[_base_.data_root, 'data/synthetic_study_failures/'],  # both of study.py
    version=_base_.version,
    spoiled_by=dict(night='C'),
)
model = dict(
    pts_bbox_head=dict(weight_generator=dict(_delete_=True, type='OracleWeightGenerator'))
)
train_pipeline = [*_base_.train_pipeline[:-1], label, _base_.train_pipeline[-1]]
test_pipeline = [*_base_.test_pipeline[:-1], label, _base_.test_pipeline[-1]]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
