# The scale is learned from a stronger start.
_base_ = './learnable.py'

attention_bias_config = dict(bias_scale=3.5)
