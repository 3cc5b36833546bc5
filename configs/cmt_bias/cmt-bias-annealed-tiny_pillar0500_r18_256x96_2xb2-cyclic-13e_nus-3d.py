_base_ = [
    '../cmt/cmt-tiny_pillar0500_r18_256x96_2xb2-cyclic-13e_nus-3d.py',
    './presets/annealed.py',
]

attention_bias_config = dict(_base_.attention_bias_config, **_base_.bias_windows)
model = dict(
    pts_bbox_head=dict(_base_.bias_head, attention_bias_config=attention_bias_config),
)
optim_wrapper = dict(paramwise_cfg=_base_.bias_paramwise_cfg)
# The preset's schedule, of 20 epochs, in the 13 of this recipe.
scale_schedule = [(0, (1.0, 2.5)), (3, (0.5, 4.0)), (9, (0.1, 5.0))]
custom_hooks = [
    *_base_.custom_hooks,
    _base_.bias_hooks[0],
    dict(type='BiasScaleRangeHook', schedule=scale_schedule),
]
