# The study on nuScenes, from a checkpoint of the released CMT.
_base_ = '../learnable_scale/study.py'

title = 'Learned scale of the attention bias on nuScenes'
seeds = [0, 1, 2]
failure_options = dict(_delete_=True)  # its tests are on nuScenes, too
