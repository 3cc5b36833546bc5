# The branches of the tiny recipe learn by themselves first: CenterPoint's head on the BEV map and
# a head of class, depth and size on the camera cells. The tiny recipe starts from this.
_base_ = '../cmt/cmt-tiny_pillar0500_r18_256x96_2xb2-cyclic-13e_nus-3d.py'

range_and_voxels = dict(
    grid_size=_base_.grid_size,
    point_cloud_range=_base_.point_cloud_range,
    voxel_size=_base_.voxel_size,
    out_size_factor=4,
)
model = dict(
    init_cfg=None,
    frozen_statistics=(),
    img_backbone=dict(norm_eval=False),
    pts_bbox_head=dict(
        _delete_=True,
        type='DensePretrainingHead',
        camera_channels=_base_.embed_dims,
        in_channels=128,
        share_conv_channel=_base_.embed_dims,
        tasks=[dict(class_names=_base_.class_names)],
        # a cell's box is linear in its token, its class has one hidden layer
        common_heads=dict(reg=(2, 1), height=(1, 1), dim=(3, 1), rot=(2, 1), vel=(2, 1)),
        loss_cls=dict(type='mmdet.GaussianFocalLoss', reduction='mean'),
        loss_bbox=dict(type='mmdet.L1Loss', reduction='mean', loss_weight=0.25),
        separate_head=dict(type='SeparateHead', head_conv=64, init_bias=-2.19, final_kernel=1),
        bbox_coder=dict(
            type='CenterPointBBoxCoder',
            pc_range=_base_.point_cloud_range[:2],
            post_center_range=[-61.2, -61.2, -10.0, 61.2, 61.2, 10.0],
            max_num=200,
            score_threshold=0.02,
            out_size_factor=4,
            voxel_size=_base_.voxel_size[:2],
            code_size=9,
        ),
    ),
    train_cfg=dict(
        pts=dict(
            _delete_=True,
            **range_and_voxels,
            dense_reg=1,
            gaussian_overlap=0.1,
            min_radius=1,
            max_objs=200,
            code_weights=[1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.2, 0.2],
        )
    ),
    test_cfg=dict(
        pts=dict(
            _delete_=True,
            **range_and_voxels,
            nms_type='rotate',
            pre_max_size=1000,
            post_max_size=200,
            nms_thr=0.2,
            score_threshold=0.02,
            max_per_img=200,
            post_center_limit_range=[-61.2, -61.2, -10.0, 61.2, 61.2, 10.0],
        )
    ),
)
# all sensors see in every sample
train_dataloader = dict(
    dataset=dict(
        pipeline=[step for step in _base_.train_pipeline if step['type'] != 'ModalMask3D']
    ),
)
custom_hooks = []
load_from = None

max_epochs = 18
# not validated: a detector is trained on it
train_cfg = dict(max_epochs=max_epochs, val_begin=max_epochs + 1)
optim_wrapper = dict(optimizer=dict(lr=2.0e-3), paramwise_cfg=None, clip_grad=dict(max_norm=10))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=200, by_epoch=False),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=max_epochs,
        T_max=max_epochs,
        eta_min_ratio=1e-2,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
