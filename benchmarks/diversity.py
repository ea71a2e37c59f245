"""What the readings of pairwise diversity (--kd-pd) do to the diversity of fakes: python benchmarks/diversity.py

A common run without any trains first; from its networks every arm then trains on, with the same seeds. Printed per arm,
over the seeds: mean pairwise cosine of the teacher's correlations of fakes, raw and centred, mean pairwise distance of
fakes as the root mean square over pixels in [-1, 1], and the Fréchet distance to the data in the teacher's features, so
that noise does not pass for diversity.
"""

import argparse
import contextlib
import os
import sys
import tempfile

import numpy as np
import torch

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import dnnlib  # noqa: E402
import train  # noqa: E402
from kd_plugin.distillers.cgkd import image_text_correlation  # noqa: E402
from kd_plugin.distillers.diversity import mean_pairwise_cosine  # noqa: E402
from kd_plugin.teacher import load_teacher  # noqa: E402
from metrics import metric_main  # noqa: E402
from torch_utils.images import to_float  # noqa: E402
from training.run.files import STATE_FILE  # noqa: E402
from training.training_loop import Run  # noqa: E402

ARMS = ['off', 'student:0.01', 'student:1', 'generator:1', 'adapter:1', 'off:center', 'generator:1:center']


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', default='demo')
    parser.add_argument('--teacher', default='demo', help='distils, and judges')
    parser.add_argument('--common-kimg', type=float, default=6, help='length of the common run')
    parser.add_argument('--kimg', type=float, default=2, help='length of each arm after it')
    parser.add_argument('--seeds', type=int, default=2)
    parser.add_argument('--images', type=int, default=500, help='fakes that are measured, of the same latents '
                                                                'everywhere')
    parser.add_argument('--arms', nargs='*', default=ARMS, metavar='PD[:WEIGHT][:center]')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    parser.add_argument('options', nargs='*', help='further options of train.py, after --',
                        default=['--cfg=demo'])
    return parser.parse_args()


def trained(args, folder, kimg, *options):
    """-> (`Run` after its run, name of the metric)."""
    command = ['--outdir=none', f'--data={args.data}', f'--kd-teacher={args.teacher}', f'--device={args.device}',
               '--kd=agkd,cgkd', '--workers=0', f'--metrics=featfid{args.images}_full', f'--kimg={kimg:g}',
               *args.options, *options]
    config, _name = train.build_config(dnnlib.EasyDict(train.main.make_context('train.py', command).params))
    metric, config.metrics = config.metrics, []
    os.makedirs(folder)
    with contextlib.redirect_stdout(sys.stderr):            # the table alone is the output
        job = Run(config, folder, torch.device(args.device))
        job.run()
    return job, metric[0]


def arm_options(arm):
    """'student:0.1:center' -> options of train.py."""
    pd, *rest = arm.split(':')
    center = ['--kd-center=1'] if 'center' in rest else []
    return [f'--kd-pd={pd}', *[f'--kd-weight-pd={part}' for part in rest if part != 'center'], *center]


@torch.no_grad()
def diversity(img, teacher, text_feats):
    """img [N, C, H, W] in [-1, 1] -> cosine of raw rows, of centred rows, distance."""
    feats = torch.cat([teacher.encode_image(part) for part in img.split(64)])
    cosines = [mean_pairwise_cosine(image_text_correlation(feats, text_feats, center)).item()
               for center in (False, True)]
    return [*cosines, torch.pdist(img.flatten(1)).mean().item() / img[0].numel() ** 0.5]


def measured(job, metric, teacher, text_feats, count):
    z = torch.randn(count, job.training.G_ema.z_dim,
                    generator=torch.Generator().manual_seed(123)).to(job.training.device)
    c = torch.zeros(count, 0, device=job.training.device)
    with torch.no_grad():
        img = torch.cat([job.training.G_ema(*part, noise_mode='const').float()
                         for part in zip(z.split(64), c.split(64), strict=True)])
    result = metric_main.calc_metric(metric, G=job.training.G_ema, dataset_kwargs=job.config.training_set_kwargs,
                                     device=job.training.device,
                                     teacher_kwargs=job.config.metric_kwargs['teacher_kwargs'], progress=False)
    return [*diversity(img, teacher, text_feats), result['value']]


def row(name, values):
    """One line of the table: mean over the seeds, and half their range."""
    values = np.array(values)
    cells = [f'{mean:.3f} ± {half:.3f}' for mean, half in zip(values.mean(0), (values.max(0) - values.min(0)) / 2,
                                                              strict=True)]
    print(f'| {name} | {" | ".join(cells)} |', flush=True)


def main():
    args = parse()
    teacher = load_teacher(args.teacher, args.device)
    with tempfile.TemporaryDirectory() as folder:
        common = os.path.join(folder, 'common')
        job, metric = trained(args, common, args.common_kimg, '--kd-pd=off')
        text_feats = teacher.encode_text(job.config.terms['kd']['texts'])
        print('| `--kd-pd` | cosine, raw | cosine, centred | distance | Fréchet distance |\n|---|---|---|---|---|')
        reals = job.training.reals.dataset
        img = np.stack([reals[i][0] for i in range(min(len(reals), args.images))])
        img = to_float(torch.from_numpy(img).to(args.device))
        row('data', [[*diversity(img, teacher, text_feats), 0]])
        row('common run', [measured(job, metric, teacher, text_feats, args.images)])
        for arm in args.arms:
            runs = []
            for seed in range(args.seeds):
                job, _ = trained(args, os.path.join(folder, f'{arm}-{seed}'), args.kimg, *arm_options(arm),
                                 f'--seed={seed}', f'--init-from={common}/{STATE_FILE}')
                runs.append(measured(job, metric, teacher, text_feats, args.images))
            row(arm, runs)


if __name__ == '__main__':
    main()
