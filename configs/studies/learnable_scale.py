# Does a learned scale help? Fine-tuning from one CMT checkpoint, backbones frozen, for
# tools/run_study.py. learnable_scale_nus.py is the same on nuScenes. The training data are the
# demo's; there are more validation scenes, so that a metric's noise is smaller:
#
#   python tools/create_synthetic_nuscenes.py --out data/synthetic_study --val-scenes 40
#   python tools/create_data.py nuscenes --root-path data/synthetic_study
title = 'Learned scale of the attention bias'
models = 'configs/studies/models/'
base_config = models + 'finetune-tiny_pillar0500_r18_256x96_1xb2-cosine-3e_nus-3d.py'
oracle_config = models + 'finetune-oracle-tiny_pillar0500_r18_256x96_1xb2-cosine-3e_nus-3d.py'
load_from = 'work_dirs/demo/cmt_tiny/train/epoch_22.pth'
seeds = [0, 1, 2]
reference = 'fixed_2.5'

# Adam moves a scalar by about its learning rate an iteration, whatever its gradient. The preset's
# rate would let it travel 0.75 in these 360 iterations; twice that, so that runs from 1.5 and 3.5
# could meet and go on. Longer trainings need less: the log states the travel budget.
scale_rate = dict(lr_mult=40.0, decay_mult=0.0)
overrides = {
    'train_cfg.val_begin': 1000,  # never: every run is tested afterwards
    'optim_wrapper.paramwise_cfg': dict(
        custom_keys={'attention_bias_generator.bias_scale': scale_rate}
    ),
    'custom_hooks.BiasScaleHook.interval': 10,
    'default_hooks.logger.interval': 10,
    'log_processor.window_size': 10,
}

bias = 'model.pts_bbox_head.attention_bias_config.'
variants = [
    dict(
        name='no_bias',
        title='CMT without bias, fine-tuned equally long with the same frozen parts and rates',
        overrides={
            'model.pts_bbox_head.type': 'CmtHead',
            'model.pts_bbox_head.transformer.type': 'CmtTransformer',
        },
        remove=[
            'model.pts_bbox_head.weight_generator',
            'model.pts_bbox_head.attention_bias_config',
            'custom_hooks.BiasScaleHook',
        ],
    ),
    dict(
        name='fixed_2.5',
        title='scale fixed at 2.5',
        overrides={bias + 'learnable_scale': False, bias + 'bias_scale': 2.5},
    ),
    dict(name='learned_2.5', title='learned from 2.5', overrides={bias + 'bias_scale': 2.5}),
    dict(name='learned_1.5', title='learned from 1.5', overrides={bias + 'bias_scale': 1.5}),
    dict(name='learned_3.5', title='learned from 3.5', overrides={bias + 'bias_scale': 3.5}),
    dict(
        name='per_modality',
        title='learned from 2.5, a scale for LiDAR and one for cameras',
        overrides={bias + 'scale_granularity': 'modality', bias + 'bias_scale': 2.5},
    ),
    dict(
        name='per_layer',
        title='learned from 2.5, a scale for each decoder layer',
        overrides={bias + 'scale_granularity': 'layer', bias + 'bias_scale': 2.5},
    ),
    # The ceiling and the floor of what weights can do: they know which sensor suffers.
    dict(
        name='oracle',
        title='learned from 2.5, weights +1 for healthy sensors and -1 for spoiled ones',
        config=oracle_config,
    ),
    dict(
        name='wrong_sign',
        title="learned from 2.5, the oracle's weights with the wrong sign",
        config=oracle_config,
        overrides={'model.pts_bbox_head.weight_generator.wrong_sign': True},
    ),
]
del bias, scale_rate, models, oracle_config
