# Does a learned scale help a detector whose sensors fail in training? Otherwise as the study
# beside this one, with the same data:
#
#   python tools/create_synthetic_nuscenes.py --preset base --out data/synthetic_study
#   python tools/create_data.py nuscenes --root-path data/synthetic_study
#   python tools/create_synthetic_nuscenes.py --out data/synthetic_study_failures \
#       --train-scenes 1 --val-scenes 10 --seed 1
#   python tools/create_data.py nuscenes --root-path data/synthetic_study_failures
title = 'Learned scale of the attention bias, training under failures'
variants = dict(
    no_bias='CMT without bias',
    fixed='scale fixed at 2.5',
    learned='learned from 2.5',
    learned_from_low='learned from 1.5',
    learned_from_high='learned from 3.5',
    per_modality='learned from 2.5, one for LiDAR and one for cameras',
    per_layer='learned from 2.5, one for each decoder layer',
    annealed='learned from 2.0, in a range that widens',
    oracle='learned from 2.5, weights know which sensor is spoiled',
    wrong_sign="learned from 2.5, the oracle's weights with the wrong sign",
)
reference = 'fixed'
seeds = [0, 1, 2, 3, 4]
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
failure_options = {
    'test_dataloader.dataset.data_root': 'data/synthetic_study_failures/',
    'test_evaluator.data_root': 'data/synthetic_study_failures/',
    'test_evaluator.ann_file': 'data/synthetic_study_failures/nuscenes_infos_val.pkl',
}
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
        text='Is the sign of the trust what helps?',
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
