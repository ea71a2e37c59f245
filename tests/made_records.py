"""Records of measurements."""


def record(value=1.0, images=100, seed=0, batch_size=64, **more):
    return dict(metric='m', value=value, detector=dict(identity='d', name='x'),
                reference=dict(images=images), date='now',
                generated=dict(seed=seed, batch_size=batch_size), **more)
