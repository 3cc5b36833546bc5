# The study on nuScenes, from a checkpoint of the released CMT; one folder of variants for each
# question, so that a variant can be trained by tools/train.py alone.
_base_ = '../learnable_scale/study.py'

title = 'Learned scale of the attention bias on nuScenes'
seeds = [0, 1, 2]
