_base_ = './cmt_voxel0075_vov99_1600x640_8xb2-cyclic-20e_nus-3d.py'

model = dict(
    use_grid_mask=False,
    data_preprocessor=dict(mean=None, std=None),
    img_backbone=None,
    img_neck=None,
    pts_bbox_head=dict(
        type='CmtLidarHead',
        separate_head=dict(final_kernel=3),
        transformer=dict(type='CmtLidarTransformer'),
    ),
)

train_pipeline = [
    *_base_.load_points,
    *_base_.load_annotations,
    dict(type='UnifiedObjectSample', db_sampler=_base_.db_sampler),
    dict(
        type='GlobalRotScaleTrans',
        rot_range=[-0.785, 0.785],
        scale_ratio_range=[0.9, 1.1],
        translation_std=[0.5, 0.5, 0.5],
    ),
    dict(
        type='RandomFlip3D',
        sync_2d=False,
        flip_ratio_bev_horizontal=0.5,
        flip_ratio_bev_vertical=0.5,
    ),
    *_base_.filter_points,
    *_base_.filter_objects,
    dict(
        type='Pack3DDetInputs',
        keys=['points', 'gt_bboxes_3d', 'gt_labels_3d'],
        meta_keys=_base_.meta_keys,
    ),
]
test_pipeline = [
    *_base_.load_points,
    dict(type='PointsRangeFilter', point_cloud_range=_base_.point_cloud_range),
    dict(type='Pack3DDetInputs', keys=['points'], meta_keys=_base_.meta_keys),
]
input_modality = dict(use_lidar=True, use_camera=False)
train_dataloader = dict(
    dataset=dict(dataset=dict(pipeline=train_pipeline, modality=input_modality))
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, modality=input_modality))
test_dataloader = val_dataloader

optim_wrapper = dict(paramwise_cfg=dict(_delete_=True))
param_scheduler = [
    dict(_base_.param_scheduler[0], eta_min_ratio=6),
    *_base_.param_scheduler[1:],
]
load_from = None
