# The second part of the training of the base. In the first, attention moves slowly, so that both
# sensors are learned from; it stays broad, and boxes are a metre off. Here it learns at full rate.
_base_ = './cmt-tiny_pillar0500_r18_256x96_1xb2-cyclic-11e_nus-3d.py'

custom_hooks = []
load_from = 'work_dirs/cmt-tiny_pillar0500_r18_256x96_1xb2-cyclic-11e_nus-3d/epoch_11.pth'
max_epochs = 3
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(
    optimizer=dict(lr=5.0e-4),
    paramwise_cfg=dict(
        custom_keys=dict(
            _delete_=True,
            img_=dict(lr_mult=0.2),
            pts_voxel_encoder=dict(lr_mult=0.2),
            pts_backbone=dict(lr_mult=0.2),
            pts_neck=dict(lr_mult=0.2),
            shared_conv=dict(lr_mult=0.2),
        )
    ),
)
param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=100, by_epoch=False),
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
