# The floor: the oracle's weights with the wrong sign.
_base_ = './oracle.py'

model = dict(pts_bbox_head=dict(weight_generator=dict(wrong_sign=True)))
