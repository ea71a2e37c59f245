"""Options of distillation: the configuration that they make, what would do nothing, what is announced."""

from types import SimpleNamespace

import pytest
import torch
from conftest import parse_options

import train
from dnnlib import UserError
from kd_plugin.distillers.settings import PRESETS
from kd_plugin.loss import Distillation
from kd_plugin.prompts import resolve_texts
from kd_plugin.teacher import load_teacher


def kd_of(data, *args):
    options = ['--outdir=x', f'--data={data}', '--device=cpu', '--kd-teacher=demo', *args]
    return train.build_config(parse_options(*options))[0].terms['kd']


def test_options_reach_the_configuration(tiny_data):
    kd = kd_of(tiny_data, '--kd=agkd', '--batch=8', '--kd-share=0.2', '--kd-adapt=0.6', '--kd-decay=50',
               '--kd-decay-to=0.1', '--kd-head-lr=2', '--kd-target-norm=centred', '--kd-distance=cosine')
    names = ('share', 'adapt', 'decay', 'decay_to', 'head_lr', 'target_norm', 'distance')
    assert [kd['settings'][name] for name in names] == [0.2, 0.6, 50, 0.1, 2, 'centred', 'cosine']
    assert kd['batch_size'] == 8
    plain = kd_of(tiny_data, '--kd=agkd', '--kd-head-lr=1', '--kd-target-norm=raw')
    assert 'batch_size' not in plain and not set(names[:-1]) & set(plain['settings'])


@pytest.mark.parametrize('args, message', [
    (['--kd=agkd', '--kd-preset=released', '--kd-head-lr=2'],
     '--kd-head-lr=2.0: has no effect with --kd-head=released; use --kd-head=linear'),
    (['--kd=agkd', '--kd-decay-to=0.5'],
     '--kd-decay-to=0.5: has no effect without --kd-decay; add that, or leave it out'),
    (['--kd=cgkd', '--kd-target-norm=unit'],
     '--kd-target-norm=unit: has no effect with --kd=cgkd, which compares directions only; use '),
    (['--kd=agkd,pkt', '--kd-distance=cosine', '--kd-target-norm=unit'],
     '--kd-target-norm=unit: has no effect with --kd=agkd,pkt, which compares directions only; use '),
    (['--kd=agkd', '--kd-adapt=0.6', '--kimg=20'],
     '--kd-adapt=0.6: has no effect up to 20 kimg, where this run ends; use a larger --kimg'),
    (['--kd=agkd', '--kd-view=augmented', '--aug=noaug'],
     '--kd-view=augmented: has no effect where nothing is augmented; use --kd-view=clean, or another --aug'),
    (['--kd=agkd,pkt', '--kd-weight-pkt=0'],
     '--kd-weight-pkt=0: pkt then does nothing; leave pkt out of --kd, or give it a weight'),
    (['--kd=agkd,cgkd', '--kd-weight-cgkd=0', '--kd-pd=off'], '--kd-weight-cgkd=0: cgkd then does nothing; leave'),
    (['--kd=agkd', '--kd-warmup=25', '--kimg=25'],
     '--kd-warmup=25: the run ends after 25 kimg, before the weights are full; use a smaller one, such as 2.5'),
    (['--kd=agkd', '--kd-decay=1e-9', '--kimg=25'],
     '--kd-decay=1e-09: the weights would fall to nothing within a step; use a larger one, such as 12'),
    (['--kd=agkd', '--batch=16', '--kd-decay=0.016'], '--kd-decay=0.016: the weights would fall to nothing within a'),
    (['--kd=agkd', '--kd-warmup=30000'],
     '--kd-warmup=30000: the run ends after 25000 kimg, before the weights are full; use a smaller one, such as 2500'),
    (['--kd=cgkd', '--kd-weight-cgkd=0', '--kd-pd=adapter'], '--kd-weight-cgkd=0: cgkd then does nothing; leave cgkd'),
    (['--kd=cgkd', '--kd-weight-cgkd=0', '--kd-pd=generator', '--kd-share=1'],
     '--kd-share=1.0: has no effect where nothing is distilled into D; give a method a weight, or leave it out'),
    ([], '--kd-teacher=demo: has no effect without --kd; add --kd=agkd,cgkd, or leave this out')])
def test_options_that_would_do_nothing_are_refused(args, message, tiny_data):
    with pytest.raises(UserError) as err:
        kd_of(tiny_data, *args)
    assert str(err.value).startswith(message)


def test_texts_without_words(tiny_data):
    """Words may be of any script; features that are no numbers are refused whatever the teacher."""
    teacher = load_teacher('demo')
    assert teacher.encode_text(['кошка', '猫', 'naïve']).isfinite().all()
    kwargs = {key: value for key, value in kd_of(tiny_data, '--kd=cgkd').items() if key != 'class_name'}
    with pytest.raises(UserError, match=r"the text '\?!' has no words; give one in letters"):
        Distillation.build('cpu', SimpleNamespace(feature_dim=8), **dict(kwargs, texts=['a face', '?!']))
    teacher.encode_text = lambda texts: torch.tensor([[1.0, 2], [3, float('nan')]])
    with pytest.raises(UserError, match="--kd-teacher: its features of the text 'b' are infinite or NaN; use other"):
        Distillation(teacher, 8, ['cgkd'], ['a', 'b'], PRESETS['paper'])


@pytest.mark.parametrize('texts, warned', [(['zzz', 'qqq'], True), (resolve_texts('demo', 'x', None)[0], False)])
def test_texts_that_the_teacher_does_not_tell_apart(texts, warned, tiny_data):
    """Words that it does not know are one token."""
    config = train.build_config(parse_options('--outdir=x', f'--data={tiny_data}', '--kd=cgkd', '--kd-teacher=demo'))[0]
    kwargs = {key: value for key, value in config.terms['kd'].items() if key != 'class_name'}
    kd = Distillation.build('cpu', SimpleNamespace(feature_dim=8), **dict(kwargs, texts=texts))
    assert any('does not tell the texts apart' in note for note in kd.notes) == warned


@pytest.mark.parametrize('args, noted', [
    (['--kd=agkd', '--kd-teacher=demo', '--metrics=featfid50_full'], True),
    (['--kd=agkd', '--kd-teacher=demo', '--metrics=featfid50_full', '--metric-teacher=lite0'], False),
    (['--kd=agkd', '--kd-teacher=pocket', '--metrics=featfid50_full', '--metric-teacher=lite0@128'], True),
    (['--kd=agkd', '--kd-teacher=pocket', '--metrics=featfid50_full', '--metric-teacher=lite2'], False),
    (['--kd=agkd', '--kd-teacher=lite0', '--metrics=featfid50_full', '--metric-teacher=pocket'], True),
    (['--vision-aided=lite2', '--aug=ada', '--metrics=featfid50_full', '--metric-teacher=lite2@128'], True),
    (['--vision-aided=lite2', '--aug=ada', '--metrics=featfid50_full', '--metric-teacher=lite0'], False),
    (['--kd=agkd', '--kd-teacher=demo', '--metrics=fid50_full'], False), (['--metrics=featfid50_full'], False)])
def test_a_judge_that_is_also_the_teacher_is_announced(args, noted, tiny_data, capsys):
    config = train.build_config(parse_options('--outdir=x', f'--data={tiny_data}', '--device=cpu', *args))[0]
    train.print_summary(config, 'x', 'new')
    assert ('Note: the metrics use the features of ' in capsys.readouterr().out) == noted
