# The 800x320 recipe on nuScenes-mini (8 scenes to train, 2 to test): for trying things, not for
# results. The evaluation takes its split from the version that the datasets state. The learning
# rate is that of the whole recipe, for a batch of 32: train with --auto-scale-lr.
_base_ = './cmt_voxel0100_r50_800x320_8xb4-cyclic-20e_nus-3d.py'

version = 'v1.0-mini'
metainfo = dict(classes=_base_.class_names, version=version)
train_dataloader = dict(batch_size=2, dataset=dict(dataset=dict(metainfo=metainfo)))
val_dataloader = dict(dataset=dict(metainfo=metainfo))
test_dataloader = val_dataloader
