# The learned scale starts in a narrow range that widens. Epochs of the 20-epoch recipes; the tiny
# recipe has a schedule of its own.
_base_ = './learnable.py'

attention_bias_config = dict(bias_scale=2.0)
scale_schedule = [(0, (1.0, 2.5)), (5, (0.5, 4.0)), (15, (0.1, 5.0))]
bias_hooks = [
    dict(type='BiasScaleHook', interval=100),
    dict(type='BiasScaleRangeHook', schedule=scale_schedule),
]
