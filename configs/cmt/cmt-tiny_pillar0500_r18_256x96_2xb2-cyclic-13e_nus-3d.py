# A small fusion recipe that trains on two CPU cores: pillars, a thin ResNet-18, small images. Its
# branches are pretrained by configs/pretraining/dense-tiny_*; `make base` does both.
_base_ = [
    '../_base_/models/cmt_fusion.py',
    '../_base_/datasets/nus-3d-fusion.py',
    '../_base_/schedules/cyclic-20e.py',
    '../_base_/default_runtime.py',
]

data_root = 'data/synthetic/'
point_cloud_range = [-40.0, -40.0, -5.0, 40.0, 40.0, 3.0]
voxel_size = [0.5, 0.5, 8.0]
grid_size = [160, 160, 1]
embed_dims = 64
num_heads = 2
bias_windows = dict(lidar_window=3, camera_window=3)

attention = dict(embed_dims=embed_dims, num_heads=num_heads, dropout=0.0)
model = dict(
    use_grid_mask=False,
    init_cfg=dict(
        type='LocalAttention',
        amplitude=30.0,
        radius=0.015,
        self_radius=0.05,
        preference=3.0,
        spread_reference_points=True,  # one in each BEV cell
    ),
    # Two samples, in one of which a sensor may be missing, have not the statistics of the data.
    frozen_statistics=(
        'img_backbone',
        'pts_voxel_encoder',
        'pts_backbone',
        'pts_neck',
        'pts_bbox_head.shared_conv',
    ),
    data_preprocessor=dict(
        voxel_layer=dict(
            max_num_points=8,
            voxel_size=voxel_size,
            max_voxels=(8000, 8000),
            point_cloud_range=point_cloud_range,
        ),
    ),
    img_backbone=dict(
        _delete_=True,
        type='mmdet.ResNet',
        depth=18,
        base_channels=16,
        num_stages=4,
        out_indices=(2, 3),
        norm_cfg=dict(type='BN', requires_grad=True),
        norm_eval=False,
        style='pytorch',
    ),
    img_neck=dict(in_channels=[64, 128], out_channels=embed_dims),
    pts_voxel_encoder=dict(
        _delete_=True,
        type='PillarFeatureNet',
        in_channels=5,
        feat_channels=[24],
        with_distance=False,
        legacy=False,
        voxel_size=voxel_size,
        point_cloud_range=point_cloud_range,
    ),
    pts_middle_encoder=dict(
        _delete_=True, type='PointPillarsScatter', in_channels=24, output_shape=[160, 160]
    ),
    pts_backbone=dict(
        in_channels=24, out_channels=[32, 64], layer_nums=[1, 2], layer_strides=[2, 2]
    ),
    pts_neck=dict(in_channels=[32, 64], out_channels=[64, 64], upsample_strides=[0.5, 1]),
    pts_bbox_head=dict(
        in_channels=128,
        num_query=1600,
        hidden_dim=embed_dims,
        depth_num=16,
        downsample_scale=4,
        scalar=3,
        # Noise of half a metre and half the box: learned queries, 2 m apart, start as far.
        noise_trans=0.5,
        bbox_coder=dict(
            pc_range=point_cloud_range,
            voxel_size=voxel_size,
            max_num=200,
            nms_radius=2.0,  # a BEV cell, in each of which a query starts
        ),
        transformer=dict(
            decoder=dict(
                num_layers=2,
                transformerlayers=dict(
                    attn_cfgs=[
                        dict(attention, type='PETRMultiheadAttention'),
                        dict(attention, type='PETRMultiheadFlashAttention'),
                    ],
                    ffn_cfgs=dict(embed_dims=embed_dims, feedforward_channels=128),
                ),
            ),
        ),
    ),
    train_cfg=dict(pts=dict(grid_size=grid_size)),
    test_cfg=dict(pts=dict(grid_size=grid_size)),
)

image_augmentation = dict(
    resize_lim=(0.64, 0.70),
    final_dim=(96, 256),
    bot_pct_lim=(0.0, 0.0),
    rot_lim=(0.0, 0.0),
    H=225,
    W=400,
    rand_flip=True,
)
load_points = [
    _base_.load_points[0],
    # not drawn from all sweeps but the latest, so that testing does not depend on chance
    dict(type='LoadAlignedSweeps', sweeps_num=2, use_dim=[0, 1, 2, 3, 4], test_mode=True),
]
train_pipeline = [
    *load_points,
    *_base_.load_images,
    *_base_.load_annotations,
    # less often than in the released recipe: there is less time
    dict(type='ModalMask3D', mode='train', image_drop_prob=0.1, points_drop_prob=0.2),
    dict(
        type='CustomRandomFlip3D',
        flip_ratio_bev_horizontal=0.5,
        flip_ratio_bev_vertical=0.5,
    ),
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectNameFilter', classes=_base_.class_names),
    dict(type='ResizeCropFlipImage', data_aug_conf=image_augmentation, training=True),
    _base_.train_pipeline[-1],
]
test_pipeline = [
    *load_points,
    *_base_.load_images,
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ResizeCropFlipImage', data_aug_conf=image_augmentation, training=False),
    _base_.test_pipeline[-1],
]
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    dataset=dict(
        _delete_=True,
        type=_base_.dataset_type,
        data_root=data_root,
        ann_file='nuscenes_infos_train.pkl',
        pipeline=train_pipeline,
        metainfo=_base_.metainfo,
        modality=_base_.input_modality,
        data_prefix=_base_.data_prefix,
        test_mode=False,
        box_type_3d='LiDAR',
    ),
)
val_dataloader = dict(num_workers=2, dataset=dict(data_root=data_root, pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(data_root=data_root, ann_file=data_root + 'nuscenes_infos_val.pkl')
test_evaluator = val_evaluator

max_epochs = 13
warm_epochs = 1
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(_base_.param_scheduler[0], end=warm_epochs, T_max=warm_epochs, eta_min_ratio=4),
    dict(
        _base_.param_scheduler[1],
        begin=warm_epochs,
        end=max_epochs,
        T_max=max_epochs - warm_epochs,
    ),
]
optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='MergedParamGroupsConstructor',
    optimizer=dict(type='AdamW', lr=2.0e-4, weight_decay=0.01, fused=True),
    # What is pretrained moves at half the rate. Where attention looks starts near where it shall
    # be, and its positions are large: at the full rate all of it would turn to the LiDAR.
    paramwise_cfg=dict(
        custom_keys={
            'img_': dict(lr_mult=0.5),
            'pts_voxel_encoder': dict(lr_mult=0.5),
            'pts_backbone': dict(lr_mult=0.5),
            'pts_neck': dict(lr_mult=0.5),
            'shared_conv': dict(lr_mult=0.5),
            'pts_bbox_head.bev_embedding': dict(lr_mult=0.02),
            'pts_bbox_head.rv_embedding': dict(lr_mult=0.02),
            '.attentions.0.attn.in_proj_': dict(lr_mult=0.1),
            '.attentions.1.attn.in_proj_': dict(lr_mult=0.02),
        }
    ),
    clip_grad=dict(max_norm=35, norm_type=2),
)
auto_scale_lr = dict(base_batch_size=4)
custom_hooks = [dict(type='TokenScaleHook', std=0.1)]
load_from = 'work_dirs/dense-tiny_pillar0500_r18_256x96_2xb2-cosine-18e_nus-3d/epoch_18.pth'
