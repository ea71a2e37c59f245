"""Every method with every other one: whole iterations of the training loop, and all of them resumed bit for bit."""

import itertools
import pathlib
import re
from types import SimpleNamespace

import pytest
import torch
from conftest import parse_options
from small_runs import make_config, make_run, trained

import train
from torch_utils import training_stats
from training.methods.method import flag

# method -> (options, names of the losses that it adds)
METHODS = {
    'ada': (['--aug=ada'], set()),
    'diffaug': (['--aug=diffaug'], set()),
    'lecam': (['--lecam=0.1'], {'LeCam/fake', 'LeCam/real'}),
    'apa': (['--apa'], set()),
    'ortho': (['--ortho=1e-4'], {'Ortho/G', 'Ortho/D'}),
    'insgen': (['--insgen'], {'InsGen/fake', 'InsGen/real', 'InsGen/generator'}),
    'chain': (['--chain', '--chain-start=0'], {'CHAIN/fake', 'CHAIN/real'}),
    'fakeclr': (['--fakeclr'], {'FakeCLR/fake', 'FakeCLR/generator'}),
    'vision-aided': (['--vision-aided=demo', '--vision-aided-warmup=0'],
                     {'VisionAided/fake', 'VisionAided/real', 'VisionAided/generator'}),
    'kd': (['--kd=agkd,cgkd', '--kd-teacher=demo'], {'KD/agkd_fake', 'KD/agkd_real', 'KD/cgkd_fake',
                                                     'KD/diversity_student'}),
}
PAIRS = [pair for pair in itertools.combinations(METHODS, 2)
         if pair not in (('ada', 'diffaug'), ('ada', 'fakeclr'), ('diffaug', 'fakeclr'))]


@pytest.mark.parametrize('pair', PAIRS, ids='+'.join)
def test_one_iteration_of_every_pair(pair, tiny_data, tmp_path):
    """Losses reported, everything finite, both networks and every trainable parameter of the terms moved."""
    options = [option for name in pair for option in METHODS[name][0]]
    config = make_config(tiny_data, '--batch=8', '--gamma=1', *options)
    job = make_run(config, tmp_path)
    if 'apa' in pair:
        job.training.loss.terms['apa'].p.fill_(0.5)
    trained = {id(p) for phase in job.training.phases for p in phase.params}
    modules = dict(G=job.training.G, D=job.training.D, terms=job.training.loss.terms)
    named = [pair for prefix, module in modules.items() for pair in module.named_parameters(prefix=prefix)]
    before = {name: p.clone() for name, p in named}
    collector = training_stats.Collector('Loss/.*', keep_previous=False)
    job.progress = SimpleNamespace(advance=lambda num: None)
    job._iteration()                                        # with both regularisations
    collector.update()
    losses = {name.removeprefix('Loss/') for name in collector.names() if collector.num(name) > 0}
    assert set.union(*[METHODS[name][1] for name in pair]) <= losses
    assert all(torch.isfinite(torch.tensor(collector.mean(f'Loss/{name}'))) for name in losses)
    assert all(p.isfinite().all() for _, p in named)
    still = {name for name, p in named if id(p) in trained and torch.equal(p, before[name])}
    assert still <= {name for name, _ in named if 'noise_strength' in name or name.endswith('.bias')}
    assert all(p.grad is None for name, p in named if id(p) not in trained)


def test_all_together_continue_exactly(tiny_data, tmp_path):
    """3 + 3 iterations equal 6, bit for bit: averages, p and its pending signs, queues, copies, heads; warm-ups end in
    the second half."""
    options = [option for name in ('diffaug', 'lecam', 'apa', 'chain', 'insgen', 'fakeclr', 'kd')
               for option in METHODS[name][0]]
    options += ['--batch=8', '--batch-gpu=4', '--cond=1', '--vision-aided=demo', '--vision-aided-warmup=0.03',
                '--lecam-start=0.03', '--apa-kimg=0.2']
    run = lambda name, kimg: trained(make_config(tiny_data, *options, total_kimg=kimg, kimg_per_tick=0.024),
                                     tmp_path / name)[0]
    whole = run('whole', 0.048)
    run('parts', 0.024)
    parts = run('parts', 0.048)
    names = ['lecam.average', 'apa.p', 'apa._extra_state.pending', 'chain.p', 'chain.r',
             'fakeclr.fake.queue', 'insgen.real.queue', 'insgen.fake.position', 'insgen.slow_D.b16.conv0.weight',
             'insgen.real.slow_head.0.weight', 'vision_aided.heads.0.0.first.weight', 'kd.head.weight']
    assert {f'loss.terms.{name}' for name in names} <= whole.keys() == parts.keys()
    assert [name for name in whole if not torch.equal(whole[name], parts[name])] == []
    assert (whole['loss.terms.insgen.fake.position'] == 6 * 8 - 32
            and whole['loss.terms.apa._extra_state.pending'][0] == 2 * 8)


def test_the_commands_of_the_documentation(tiny_data):
    """Those of the paper's table 1 first: FitNets, then five methods without and with distillation; every method has
    its section."""
    text = (pathlib.Path(__file__).parent.parent / 'docs' / 'methods.md').read_text()
    configs = []
    for line in re.findall(r'^    python train.py (.*?)(?: +#.*)?$', text, re.M):
        configs.append(train.build_config(parse_options(*line.replace('obama.zip', tiny_data).split(),
                                                        '--device=cpu'))[0])
    rows = [({*c.terms} - {'kd'}, c.augment_kwargs['class_name'].rsplit('.')[-1], 'kd' in c.terms)
            for c in configs[:11]]
    methods = [(set(), 'DiffAugment'), ({'lecam'}, 'DiffAugment'), ({'insgen'}, 'AugmentPipe'),
               ({'apa'}, 'AugmentPipe'), (set(), 'AugmentPipe')]
    assert rows.pop(0) == (set(), 'DiffAugment', True) and configs[0].terms['kd']['methods'] == ['fitnets']
    assert rows == [(*method, kd) for method in methods for kd in (False, True)]
    # docs/distillation.md has its options
    others = [method for method in train.METHODS if method.name != 'kd']
    assert {name for c in configs[11:] for name in c.terms} - {'kd'} == {method.name for method in others}
    for option in [param.opts[0] for param in train.main.params]:
        for method in [flag(method.name) for method in others]:
            assert not option.startswith(method) or f'`{option}' in text or f'`{option.removeprefix(method)}`' in text
