_base_ = [
    '../_base_/models/cmt_fusion.py',
    '../_base_/datasets/nus-3d-fusion.py',
    '../_base_/schedules/cyclic-20e.py',
    '../_base_/default_runtime.py',
]

# Ground-truth pasting for 15 epochs, none for the last 5.
custom_hooks = [dict(type='PastingSwitchOffHook', epoch=15)]

# ResNet-50 trained on nuImages, as the released recipe starts from.
load_from = 'ckpts/nuim_r50.pth'
