# The scale is learned with the detector, one for all layers and both sensors.
_base_ = './fixed.py'

attention_bias_config = dict(learnable_scale=True)
