# LiDAR and cameras have a learned scale each.
_base_ = './learnable.py'

attention_bias_config = dict(scale_granularity='modality')
