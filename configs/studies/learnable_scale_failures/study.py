# Does a learned scale help a detector whose sensors fail in training? Otherwise as the study
# beside this one, with its data, but under more failures.
_base_ = '../learnable_scale/study.py'

title = 'Learned scale of the attention bias, training under failures'
failures = [
    'camera_foreign',
    'camera_frozen_3',
    'camera_mirror_3',
    'camera_drop_all',
    'lidar_ghosts',
    'lidar_frozen',
    'lidar_fov_60',
    'night_3',
    'fog_3',
]
questions = [
    dict(
        text='Does a router help under failures at all (the ceiling)?',
        variant='oracle',
        against='no_bias',
        subset='failures',
    ),
    dict(
        text='And one that has to find out what has failed?',
        variant='fixed',
        against='no_bias',
        subset='failures',
    ),
    dict(
        text='Is the right sign of the trust better than the wrong one?',
        variant='oracle',
        against='wrong_sign',
        subset='failures',
    ),
    dict(text='Does a bias help without failures?', variant='fixed', against='no_bias'),
    dict(
        text='Does a learned scale beat a fixed one?',
        variant='learned',
        against='fixed',
        subset='failures',
        claimed=0.003,
    ),
    dict(
        text='And from a low start?',
        variant='learned_from_low',
        against='fixed',
        subset='failures',
    ),
    dict(
        text='And from a high start?',
        variant='learned_from_high',
        against='fixed',
        subset='failures',
    ),
    dict(
        text='Does a learned scale beat a fixed one without failures?',
        variant='learned',
        against='fixed',
    ),
    dict(text='At night?', variant='learned', against='fixed', subset='night'),
    dict(text='In rain?', variant='learned', against='fixed', subset='rain'),
    dict(
        text='Do sensors want scales of their own?',
        variant='per_modality',
        against='learned',
        subset='failures',
    ),
    dict(text='Do layers?', variant='per_layer', against='learned', subset='failures'),
    dict(text='Does annealing help?', variant='annealed', against='learned', subset='failures'),
    dict(
        text='Is the training faster?',
        variant='learned',
        against='fixed',
        metric='iterations to 95 %',
    ),
    dict(
        text='Is the loss smoother?',
        variant='learned',
        against='fixed',
        metric='loss roughness',
    ),
]
