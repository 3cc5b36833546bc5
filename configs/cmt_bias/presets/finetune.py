# From a CMT checkpoint (`load_from`), with backbones, necks and voxel encoder frozen: router and
# scale at the full learning rate, the decoder at half, the rest of the head at 0.8.
_base_ = './learnable.py'

frozen_modules = (
    'img_backbone',
    'img_neck',
    'pts_voxel_encoder',
    'pts_middle_encoder',
    'pts_backbone',
    'pts_neck',
)
bias_paramwise_cfg = dict(
    custom_keys={
        'attention_bias_generator.bias_scale': dict(lr_mult=1.0, decay_mult=0.0),
        'pts_bbox_head.weight_generator': dict(lr_mult=1.0),
        'pts_bbox_head.transformer': dict(lr_mult=0.5),
        'pts_bbox_head': dict(lr_mult=0.8),
    }
)
finetune_epochs = 6
finetune_train_cfg = dict(max_epochs=finetune_epochs, val_interval=finetune_epochs)
finetune_param_scheduler = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=500, by_epoch=False),
    dict(
        type='CosineAnnealingLR',
        begin=0,
        end=finetune_epochs,
        T_max=finetune_epochs,
        eta_min_ratio=1e-2,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
