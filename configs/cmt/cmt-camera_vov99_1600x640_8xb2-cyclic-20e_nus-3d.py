_base_ = './cmt_voxel0075_vov99_1600x640_8xb2-cyclic-20e_nus-3d.py'

model = dict(
    use_grid_mask=False,
    data_preprocessor=dict(voxel=False, voxel_type=None, voxel_layer=None),
    pts_voxel_encoder=None,
    pts_middle_encoder=None,
    pts_backbone=None,
    pts_neck=None,
    pts_bbox_head=dict(
        type='CmtImageHead',
        transformer=dict(type='CmtImageTransformer'),
    ),
)

train_pipeline = [
    *_base_.load_images,
    *_base_.load_annotations,
    dict(
        type='GlobalRotScaleTransImage',
        rot_range=[-0.3925, 0.3925],
        scale_ratio_range=[0.95, 1.05],
        translation_std=[0.0, 0.0, 0.0],
    ),
    *_base_.filter_objects,
    dict(type='ResizeCropFlipImage', data_aug_conf=_base_.image_augmentation, training=True),
    dict(
        type='Pack3DDetInputs',
        keys=['img', 'gt_bboxes_3d', 'gt_labels_3d'],
        meta_keys=_base_.meta_keys,
    ),
]
test_pipeline = [
    *_base_.load_images,
    dict(type='ResizeCropFlipImage', data_aug_conf=_base_.image_augmentation, training=False),
    dict(type='Pack3DDetInputs', keys=['img'], meta_keys=_base_.meta_keys),
]
input_modality = dict(use_lidar=False, use_camera=True)
train_dataloader = dict(
    dataset=dict(dataset=dict(pipeline=train_pipeline, modality=input_modality))
)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline, modality=input_modality))
test_dataloader = val_dataloader

custom_hooks = []
