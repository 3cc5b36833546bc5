# The bias with a hand-set scale. The presets hold parts, which a config takes from `_base_`.
attention_bias_config = dict(type='AttentionBiasGenerator', bias_scale=2.5)
weight_generator = dict(type='AQRWeightGenerator')
bias_head = dict(
    type='AttentionBiasCmtHead',
    weight_generator=weight_generator,
    transformer=dict(type='AttentionBiasCmtTransformer'),
)
# A scale has its own small learning rate, and no decay towards 0; unused while it is fixed.
bias_paramwise_cfg = dict(
    custom_keys={'attention_bias_generator.bias_scale': dict(lr_mult=0.1, decay_mult=0.0)}
)
bias_hooks = [dict(type='BiasScaleHook', interval=100)]
