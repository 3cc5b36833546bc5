# The learned scale starts at 2.0 in a narrow range that widens.
_base_ = './_base_.py'

model = dict(pts_bbox_head=dict(attention_bias_config=dict(bias_scale=2.0)))
schedule = [(0, (1.0, 2.5)), (1, (0.1, 5.0))]
custom_hooks = [*_base_.custom_hooks, dict(type='BiasScaleRangeHook', schedule=schedule)]
