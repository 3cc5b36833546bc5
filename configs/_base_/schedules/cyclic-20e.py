# AdamW with the released cyclic schedule: the rate rises over 40 % of the run, then falls to
# nothing; the momentum moves the other way. Ratios, unlike an absolute eta_min, keep the lr_mult
# of every parameter group and follow --auto-scale-lr.
lr = 1.4e-4
max_epochs = 20
warm_epochs = 8

optim_wrapper = dict(
    type='AmpOptimWrapper',
    loss_scale='dynamic',
    dtype='float16',
    constructor='MergedParamGroupsConstructor',
    optimizer=dict(type='AdamW', lr=lr, weight_decay=0.01),
    paramwise_cfg=dict(
        custom_keys={
            'img_backbone': dict(lr_mult=0.01, decay_mult=5),
            'img_neck': dict(lr_mult=0.1),
        }
    ),
    clip_grad=dict(max_norm=35, norm_type=2),
)

param_scheduler = [
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=warm_epochs,
        T_max=warm_epochs,
        eta_min_ratio=6,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingLR',
        begin=warm_epochs,
        end=max_epochs,
        T_max=max_epochs - warm_epochs,
        eta_min_ratio=1e-4,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingMomentum',
        begin=0,
        end=warm_epochs,
        T_max=warm_epochs,
        eta_min_ratio=0.85 / 0.95,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type='CosineAnnealingMomentum',
        begin=warm_epochs,
        end=max_epochs,
        T_max=max_epochs - warm_epochs,
        eta_min_ratio=1,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]

train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict()
test_cfg = dict()

# 8 GPUs x 4 samples
auto_scale_lr = dict(enable=False, base_batch_size=32)
