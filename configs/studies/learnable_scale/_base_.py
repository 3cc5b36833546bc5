# What all variants share: fine-tuning of the tiny CMT with the bias, backbones frozen, on every
# fourth keyframe of the training scenes. No sensor is ever missing.
_base_ = '../../cmt_bias/cmt-bias-finetune-tiny_pillar0500_r18_256x96_1xb2-cosine-2e_nus-3d.py'

data_root = 'data/synthetic_study/'
train_pipeline = [step for step in _base_.train_pipeline if step['type'] != 'ModalMask3D']
alone = dict(num_workers=0, persistent_workers=False)  # runs are what shares the cores
train_dataloader = dict(
    **alone,
    dataset=dict(data_root=data_root, pipeline=train_pipeline, indices=list(range(0, 960, 4))),
)
test_dataloader = dict(**alone, dataset=dict(data_root=data_root))
test_evaluator = dict(data_root=data_root, ann_file=data_root + 'nuscenes_infos_val.pkl')
val_dataloader = val_evaluator = val_cfg = None  # every run is tested afterwards
train_cfg = dict(val_interval=2)  # of no effect; so are the configs of the runs that there are
# The metric takes its time by the box; scenes have less than 50 objects.
model = dict(pts_bbox_head=dict(bbox_coder=dict(max_num=100)))

# Adam moves a scalar by about its learning rate an iteration, whatever its gradient: twice the
# preset's rate, so that in 240 iterations scales from 1.5 and 3.5 could meet.
scale_rate = dict(lr_mult=80.0, decay_mult=0.0)
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={'attention_bias_generator.bias_scale': scale_rate})
)
custom_hooks = [*_base_.custom_hooks[:-1], dict(type='BiasScaleHook', interval=5)]
default_hooks = dict(logger=dict(interval=5))
log_processor = dict(window_size=5)
