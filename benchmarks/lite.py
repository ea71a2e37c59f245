"""Images per second of EfficientNet-Lite on one core, as published and as loaded: python benchmarks/lite.py [--help]"""

import argparse
import os
import sys
import time

import torch

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from kd_plugin.teachers.efficientnet_lite import VARIANTS, EfficientNetLite, weights_path  # noqa: E402


def networks(variant_name):
    """-> {name: the network in this form}; `image_features` makes the images channels_last for all of them."""
    def make():
        variant = VARIANTS[variant_name]
        model = EfficientNetLite(variant.width, variant.depth)
        model.load_state_dict(torch.load(weights_path(variant_name), weights_only=True))
        return model.eval().requires_grad_(False)
    folded = make().fold_norms().to(memory_format=torch.channels_last)
    return {'as published': make(), 'norms folded, channels_last': folded, 'the same in bfloat16': folded}


@torch.no_grad()
def rates(models, size, batch, rounds):
    """{name: (images per second of processor time, the best of all rounds; relative error)}; the forms take turns."""
    x = torch.randn([batch, 3, size, size], generator=torch.Generator().manual_seed(0))
    want, best = next(iter(models.values())).image_features(x), {}
    for _ in range(rounds):
        for name, model in models.items():
            with torch.autocast('cpu', torch.bfloat16, enabled='bfloat16' in name):
                start = time.process_time()
                features = model.image_features(x).to(torch.float32)
            rate = batch / (time.process_time() - start)
            best[name] = max(rate, best.get(name, (0,))[0]), float((features - want).norm() / want.norm())
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--variant', default='lite0', choices=VARIANTS)
    parser.add_argument('--sizes', default='128,224')
    parser.add_argument('--batch', type=int, default=32)
    parser.add_argument('--rounds', type=int, default=4)
    args = parser.parse_args()
    torch.set_num_threads(1)
    models = networks(args.variant)
    for size in map(int, args.sizes.split(',')):
        found = rates(models, size, args.batch, args.rounds)
        base = next(iter(found.values()))[0]
        for name, (rate, error) in found.items():
            print(f'{size:4d}  {name:30s} {rate:7.1f} img/s  x{rate / base:.2f}  relative error {error:.1e}')


if __name__ == '__main__':
    main()
