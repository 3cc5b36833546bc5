# Sensors fail in training: where nothing ever fails, a router has nothing to learn. Goes with a
# training from scratch (robust) and with one from a CMT checkpoint, backbones frozen
# (robust-finetune), as MoME trains its router with sensor drops (Park et al., CVPR 2025).
#
# The names are those of `tools/test_robustness.py --help`, each with how often it is drawn
# relative to the others; the strength of a degradation is in its name. The failure takes the place
# of the recipe's ModalMask3D: missing sensors are among them.
random_failure = dict(
    type='RandomFailure',
    probability=0.5,
    failures={
        'lidar_drop': 1.0,
        'lidar_beams_4': 0.5,
        'lidar_fov_60': 1.0,
        'lidar_objects_50': 1.0,
        'camera_drop_[1-5]': 1.0,
        'camera_drop_all': 1.0,
        'camera_occlusion': 0.5,
        'camera_frozen*': 1.0,
        'camera_foreign*': 1.0,
        'camera_mirror*': 1.0,
        'camera_shift': 1.0,
        'lidar_ghosts': 1.0,
        'lidar_frozen': 1.0,
        'night_*': 1.0,
        'rain_*': 1.0,
        'fog_*': 1.0,
        'calibration_*': 0.5,
        'time_offset_*': 0.5,
    },
)
failure_hooks = [dict(type='FailureEpochHook')]
