# Each decoder layer has a learned scale.
_base_ = './learnable.py'

attention_bias_config = dict(scale_granularity='layer')
