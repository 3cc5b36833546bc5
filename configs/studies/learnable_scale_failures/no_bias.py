# CMT without bias, fine-tuned equally long with the same frozen parts and rates.
_base_ = './_base_.py'

head = dict(_base_.model.pts_bbox_head, type='CmtHead', _delete_=True)
head.pop('weight_generator')
head.pop('attention_bias_config')
head['transformer'] = dict(head['transformer'], type='CmtTransformer')
model = dict(pts_bbox_head=head)
custom_hooks = _base_.custom_hooks[:-1]
