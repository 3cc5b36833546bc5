_base_ = './cmt_voxel0100_r50_800x320_8xb4-cyclic-20e_nus-3d.py'

voxel_size = [0.075, 0.075, 0.2]
grid_size = [1440, 1440, 40]
bias_windows = dict(camera_window=15)  # the images have twice the cells
model = dict(
    data_preprocessor=dict(voxel_layer=dict(voxel_size=voxel_size)),
    img_backbone=dict(
        _delete_=True,
        type='VoVNet',
        spec_name='V-99-eSE',
        norm_eval=True,
        frozen_stages=-1,
        input_ch=3,
        out_features=('stage4', 'stage5'),
    ),
    img_neck=dict(in_channels=[768, 1024]),
    pts_middle_encoder=dict(sparse_shape=[41, 1440, 1440]),
    pts_bbox_head=dict(bbox_coder=dict(voxel_size=voxel_size)),
    train_cfg=dict(pts=dict(grid_size=grid_size)),
    test_cfg=dict(pts=dict(grid_size=grid_size)),
)

image_augmentation = dict(
    resize_lim=(0.94, 1.25),
    final_dim=(640, 1600),
    bot_pct_lim=(0.0, 0.0),
    rot_lim=(0.0, 0.0),
    H=900,
    W=1600,
    rand_flip=True,
)
train_pipeline = [
    *_base_.load_points,
    *_base_.load_images,
    *_base_.load_annotations,
    *_base_.paste_objects,
    *_base_.drop_modality,
    *_base_.augment_scene,
    *_base_.filter_points,
    *_base_.filter_objects,
    dict(type='ResizeCropFlipImage', data_aug_conf=image_augmentation, training=True),
    _base_.train_pipeline[-1],
]
test_pipeline = [
    *_base_.load_points,
    *_base_.load_images,
    dict(type='PointsRangeFilter', point_cloud_range=_base_.point_cloud_range),
    dict(type='ResizeCropFlipImage', data_aug_conf=image_augmentation, training=False),
    _base_.test_pipeline[-1],
]
train_dataloader = dict(batch_size=2, dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

lr = 1.0e-4
optim_wrapper = dict(optimizer=dict(lr=lr))
auto_scale_lr = dict(base_batch_size=16)
param_scheduler = [
    dict(_base_.param_scheduler[0], eta_min_ratio=8),
    *_base_.param_scheduler[1:],
]

# VoVNet-99 trained on nuScenes images by FCOS3D, as the released recipe starts from.
load_from = 'ckpts/fcos3d_vovnet_imgbackbone-remapped.pth'
