# nuScenes for LiDAR-camera fusion at 800 x 320. Other recipes put the parts below together anew.
dataset_type = 'CheckedNuScenesDataset'
data_root = 'data/nuscenes/'
version = 'v1.0-trainval'
class_names = [
    'car',
    'truck',
    'construction_vehicle',
    'bus',
    'trailer',
    'barrier',
    'motorcycle',
    'bicycle',
    'pedestrian',
    'traffic_cone',
]
point_cloud_range = [-54.0, -54.0, -5.0, 54.0, 54.0, 3.0]
backend_args = None

# Images keep all their width; rows are cut from the top.
image_augmentation = dict(
    resize_lim=(0.47, 0.625),
    final_dim=(320, 800),
    bot_pct_lim=(0.0, 0.0),
    rot_lim=(0.0, 0.0),
    H=900,
    W=1600,
    rand_flip=True,
)

load_points = [
    dict(
        type='LoadPointsFromFile',
        coord_type='LIDAR',
        load_dim=5,
        use_dim=[0, 1, 2, 3, 4],
        backend_args=backend_args,
    ),
    dict(
        type='LoadAlignedSweeps',
        sweeps_num=10,
        use_dim=[0, 1, 2, 3, 4],
        backend_args=backend_args,
    ),
]
load_images = [dict(type='LoadCalibratedMultiViewImages', backend_args=backend_args)]
load_annotations = [dict(type='LoadAnnotations3D', with_bbox_3d=True, with_label_3d=True)]

sample_groups = dict(
    car=2,
    truck=3,
    construction_vehicle=7,
    bus=4,
    trailer=6,
    barrier=2,
    motorcycle=6,
    bicycle=6,
    pedestrian=2,
    traffic_cone=2,
)
db_sampler = dict(
    type='UnifiedDataBaseSampler',
    data_root=data_root,
    info_path=data_root + 'nuscenes_dbinfos_train.pkl',
    rate=1.0,
    prepare=dict(
        filter_by_difficulty=[-1],
        filter_by_min_points=dict(
            car=5,
            truck=5,
            construction_vehicle=5,
            bus=5,
            trailer=5,
            barrier=5,
            motorcycle=5,
            bicycle=5,
            pedestrian=5,
            traffic_cone=5,
        ),
    ),
    classes=class_names,
    sample_groups=sample_groups,
    points_loader=dict(
        type='LoadPointsFromFile',
        coord_type='LIDAR',
        load_dim=5,
        use_dim=[0, 1, 2, 3, 4],
        backend_args=backend_args,
    ),
    backend_args=backend_args,
)
paste_objects = [
    dict(type='UnifiedObjectSample', sample_2d=True, mixup_rate=0.5, db_sampler=db_sampler)
]
drop_modality = [dict(type='ModalMask3D', mode='train')]
augment_scene = [
    dict(
        type='GlobalRotScaleTransAll',
        rot_range=[-0.785, 0.785],
        scale_ratio_range=[0.9, 1.1],
        translation_std=[0.5, 0.5, 0.5],
    ),
    dict(
        type='CustomRandomFlip3D',
        flip_ratio_bev_horizontal=0.5,
        flip_ratio_bev_vertical=0.5,
    ),
]
filter_points = [
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='PointShuffle'),
]
filter_objects = [
    dict(type='ObjectRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ObjectNameFilter', classes=class_names),
]
meta_keys = (
    'filename',
    'camera_names',
    'lidar2img',
    'ori_lidar2img',
    'img_shape',
    'ori_shape',
    'num_views',
    'lidar_path',
    'sample_idx',
    'token',
    'timestamp',
    'box_type_3d',
    'box_mode_3d',
    'masked_modality',
    'spoiled_sensors',
    'spoiled_views',
    'spoiled_regions',
    'lidar_aug_matrix',
)

train_pipeline = [
    *load_points,
    *load_images,
    *load_annotations,
    *paste_objects,
    *drop_modality,
    *augment_scene,
    *filter_points,
    *filter_objects,
    dict(type='ResizeCropFlipImage', data_aug_conf=image_augmentation, training=True),
    dict(
        type='Pack3DDetInputs',
        keys=['points', 'img', 'gt_bboxes_3d', 'gt_labels_3d'],
        meta_keys=meta_keys,
    ),
]
test_pipeline = [
    *load_points,
    *load_images,
    dict(type='PointsRangeFilter', point_cloud_range=point_cloud_range),
    dict(type='ResizeCropFlipImage', data_aug_conf=image_augmentation, training=False),
    dict(type='Pack3DDetInputs', keys=['points', 'img'], meta_keys=meta_keys),
]

input_modality = dict(use_lidar=True, use_camera=True)
metainfo = dict(classes=class_names, version=version)
data_prefix = dict(
    pts='samples/LIDAR_TOP',
    sweeps='sweeps/LIDAR_TOP',
    CAM_FRONT='samples/CAM_FRONT',
    CAM_FRONT_LEFT='samples/CAM_FRONT_LEFT',
    CAM_FRONT_RIGHT='samples/CAM_FRONT_RIGHT',
    CAM_BACK='samples/CAM_BACK',
    CAM_BACK_RIGHT='samples/CAM_BACK_RIGHT',
    CAM_BACK_LEFT='samples/CAM_BACK_LEFT',
)

train_dataloader = dict(
    batch_size=4,
    num_workers=4,
    # Workers live for one epoch and draw new random numbers in each, so that a run can be resumed
    # exactly.
    persistent_workers=False,
    worker_init_fn=dict(type='seed_worker_per_epoch'),
    sampler=dict(type='DefaultSampler', shuffle=True),
    dataset=dict(
        type='CBGSDataset',
        dataset=dict(
            type='AllBoxesNuScenesDataset',
            data_root=data_root,
            ann_file='nuscenes_infos_train.pkl',
            pipeline=train_pipeline,
            metainfo=metainfo,
            modality=input_modality,
            data_prefix=data_prefix,
            test_mode=False,
            box_type_3d='LiDAR',
            backend_args=backend_args,
        ),
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=4,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        ann_file='nuscenes_infos_val.pkl',
        pipeline=test_pipeline,
        metainfo=metainfo,
        modality=input_modality,
        data_prefix=data_prefix,
        test_mode=True,
        box_type_3d='LiDAR',
        backend_args=backend_args,
    ),
)
test_dataloader = val_dataloader

val_evaluator = dict(
    type='NuScenesMetric',
    data_root=data_root,
    ann_file=data_root + 'nuscenes_infos_val.pkl',
    metric='bbox',
    backend_args=backend_args,
)
test_evaluator = val_evaluator
