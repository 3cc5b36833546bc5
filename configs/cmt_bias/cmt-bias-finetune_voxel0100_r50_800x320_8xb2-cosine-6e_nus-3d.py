# With two samples a GPU, half of the released batch, as this recipe was at first.
_base_ = './cmt-bias-finetune_voxel0100_r50_800x320_8xb4-cosine-6e_nus-3d.py'

train_dataloader = dict(batch_size=2)
auto_scale_lr = dict(base_batch_size=16)
