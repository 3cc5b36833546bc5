_base_ = './_base_.py'

model = dict(pts_bbox_head=dict(attention_bias_config=dict(bias_scale=3.5)))
