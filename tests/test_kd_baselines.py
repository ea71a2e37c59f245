"""The baselines of distillation against loops over their formulas, their starting weights, and --kd with several
methods."""

import math

import pytest
import torch
import torch.nn.functional as F
from conftest import parse_options, shrink
from kd_toys import reported_losses, setup, step, toy_teacher

import train
from dnnlib import UserError
from kd_plugin.distillers import agkd
from kd_plugin.distillers.distiller import Distiller, Pass
from kd_plugin.distillers.settings import PRESETS, Preset
from kd_plugin.distillers.table import DISTILLERS
from kd_plugin.loss import check_distillation
from torch_utils import checkpoint
from training.run.files import STATE_FILE
from training.training_loop import Run


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def loss_of(name, student, teacher, texts=None, **settings):
    """Mean of a method's loss as the D step has it."""
    method = DISTILLERS[name](PRESETS['paper']._replace(**settings), texts)
    (value, weight), = method.d_losses(Pass('real', student, teacher, teacher)).values()
    assert weight == getattr(PRESETS['paper'], f'weight_{name}')
    return value.mean()


def cosine(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def probabilities(logits):
    total = sum(math.exp(x) for x in logits)
    return [math.exp(x) / total for x in logits]


def by_hand_fitnets(student, teacher, _texts):
    """Mean over all N M numbers of (f_s - f_t)^2."""
    squares = [(a - b) ** 2 for s, t in zip(student, teacher, strict=True) for a, b in zip(s, t, strict=True)]
    return sum(squares) / len(squares)


def by_hand_labeldist(student, teacher, texts, temperature=4):
    """t^2 sum_k p_t log(p_t / p_s), logits 100 cos / t, mean over the batch."""
    total = 0
    for s, t in zip(student, teacher, strict=True):
        p_s, p_t = [probabilities([100 * cosine(f, text) / temperature for text in texts]) for f in (s, t)]
        total += temperature ** 2 * sum(b * math.log(b / a) for a, b in zip(p_s, p_t, strict=True))
    return total / len(student)


def by_hand_pkt(student, teacher, _texts):
    """Mean over N^2 of P_t log((P_t + e) / (P_s + e)), rows of (cos + 1) / 2 with the sum 1."""
    total, n = 0, len(student)
    for i in range(n):
        p = [[(cosine(feats[i], feats[j]) + 1) / 2 for j in range(n)] for feats in (student, teacher)]
        p_s, p_t = [[x / sum(row) for x in row] for row in p]
        total += sum(b * math.log((b + 1e-7) / (a + 1e-7)) for a, b in zip(p_s, p_t, strict=True))
    return total / n ** 2


def by_hand_spkd(student, teacher, _texts):
    """|Q_t - Q_s|_F^2 / N^2, Q = f f' with rows of length 1."""
    total, n = 0, len(student)
    for i in range(n):
        dots = [[sum(a * b for a, b in zip(feats[i], feats[j], strict=True)) for j in range(n)]
                for feats in (student, teacher)]
        q_s, q_t = [[x / math.sqrt(sum(y * y for y in row)) for x in row] for row in dots]
        total += sum((b - a) ** 2 for a, b in zip(q_s, q_t, strict=True))
    return total / n ** 2


BY_HAND = dict(fitnets=by_hand_fitnets, labeldist=by_hand_labeldist, pkt=by_hand_pkt, spkd=by_hand_spkd)


@pytest.mark.parametrize('name', BY_HAND)
def test_a_baseline_equals_loops_over_its_formula(name):
    """In float32: 1e-4 relative leaves room for the rounding of the cosines, which labeldist multiplies by 25."""
    student, teacher, texts = rand(5, 7, seed=1), rand(5, 7, seed=2), rand(3, 7, seed=3)
    want = BY_HAND[name](student.tolist(), teacher.tolist(), texts.tolist())
    assert want > 1e-5 and loss_of(name, student, teacher, texts).item() == pytest.approx(want, rel=1e-4)


def test_temperature():
    student, teacher, texts = rand(5, 7, seed=1), rand(5, 7, seed=2), rand(3, 7, seed=3)
    want = by_hand_labeldist(student.tolist(), teacher.tolist(), texts.tolist(), temperature=20)
    assert loss_of('labeldist', student, teacher, texts, temperature=20).item() == pytest.approx(want, rel=1e-4)


@pytest.mark.parametrize('name', BY_HAND)
def test_a_student_like_the_teacher_has_no_loss_and_one_image_no_nan(name):
    teacher, texts = rand(5, 7), rand(3, 7, seed=3)
    assert loss_of(name, teacher, teacher, texts).item() == pytest.approx(0, abs=1e-6)
    student = torch.zeros(1, 7, requires_grad=True)
    loss_of(name, student, teacher[:1], texts).backward()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize('name', ['pkt', 'spkd'])
def test_relations_of_half_precision_features_are_computed_in_float32(name):
    """Dot products of 512 features of 50 are beyond the range of float16."""
    student, teacher = 50 * rand(4, 512, seed=1), 50 * rand(4, 512, seed=2)
    assert (student @ student.t()).max() > 65504
    half = loss_of(name, student.half(), teacher.half())
    assert (half.dtype == torch.float32
            and half.item() == pytest.approx(loss_of(name, student, teacher).item(), rel=0.05))


def like_clip(n, mutual_cosine, length, seed):
    """[n, 512] rows of this length and mean mutual cosine."""
    rows = F.normalize(rand(n, 512, seed=seed), dim=1)
    common = F.normalize(rand(1, 512, seed=seed + 100), dim=1)
    return length * F.normalize(math.sqrt(mutual_cosine) * common + math.sqrt(1 - mutual_cosine) * rows, dim=1)


def gradient_per_sample(loss, student):
    """Norm of the gradient with respect to one sample's embedding, before the mean over the batch."""
    student = student.clone().requires_grad_(True)
    loss(student).backward()
    return student.grad.norm(dim=1).mean().item() * len(student)


@pytest.mark.parametrize('name', BY_HAND)
def test_starting_weights_give_the_gradient_of_agkd(name):
    """docs/distillation.md: 16 images, teacher's rows of length 10 and cosine 0.7, 10 texts of cosine 0.75, a student
    that knows nothing."""
    student, teacher, texts = like_clip(16, 0, 10, seed=1), like_clip(16, 0.7, 10,
                                                                      seed=2), like_clip(10, 0.75, 1, seed=3)
    of_agkd = gradient_per_sample(lambda s: 0.44 * agkd.l1(teacher, s).mean(), student)
    assert of_agkd == pytest.approx(10, rel=0.01)
    gradient = gradient_per_sample(lambda s: loss_of(name, s, teacher, texts), student)
    print(name, gradient)
    assert gradient * getattr(PRESETS['paper'], f'weight_{name}') == pytest.approx(of_agkd, rel=0.3)


# -- the table

class Nearest(Distiller):
    """A method that nobody has heard of."""
    name = 'spkd'
    def loss(self, rows):
        return (rows.student - rows.own).abs().amax(1)


def test_a_method_is_a_row_of_the_table(monkeypatch):
    monkeypatch.setitem(DISTILLERS, 'spkd', Nearest)
    G, D, kd, loss = setup(toy_teacher(), ('spkd',))
    assert reported_losses(lambda: step(loss, 'Dmain', G, D, kd)) == {'KD/spkd_fake', 'KD/spkd_real'}
    assert kd.head.weight.grad.abs().sum() > 0


def test_several_at_once_add_up_and_keep_the_names_of_the_state():
    teacher = toy_teacher()
    grads = {}
    for names in [(), ('agkd',), ('spkd',), ('fitnets', 'labeldist', 'pkt'),
                  ('spkd', 'agkd', 'fitnets', 'labeldist', 'pkt')]:
        G, D, kd, loss = setup(teacher, names)
        step(loss, 'Dmain', G, D, kd)
        grads[names] = D.b4.fc.weight.grad.clone()
        assert set(kd.state_dict()) == {'head.weight', 'head.bias'}
    none, *parts, everything = grads.values()
    torch.testing.assert_close(everything - none, sum(part - none for part in parts), rtol=1e-3,
                               atol=1e-4 * everything.abs().max().item())


def test_a_method_without_texts_asks_for_none():
    class NoTexts(type(toy_teacher())):
        def encode_text(self, texts):
            raise AssertionError
    teacher = toy_teacher()
    teacher.__class__ = NoTexts
    setup(teacher, ('agkd', 'fitnets', 'pkt', 'spkd'))
    with pytest.raises(AssertionError):
        setup(teacher, ('labeldist',))


def test_every_setting_is_an_option_and_concerns_somebody():
    shared = {'head', 'view', 'teacher_input', 'warmup',
              'target_norm', 'share', 'adapt', 'decay', 'decay_to', 'head_lr'}
    claimed = {field for name, method in DISTILLERS.items() for field in (f'weight_{name}', *method.fields)}
    assert claimed | shared == set(Preset._fields) and not claimed & shared
    options = {param.name for param in train.main.params}
    assert {'kd_input' if field == 'teacher_input' else f'kd_{field}' for field in Preset._fields} <= options


# -- the command line

def kd_of(data, *args):
    return train.build_config(parse_options('--outdir=x', f'--data={data}', '--device=cpu', '--kd-teacher=demo',
                                            *args))[0].terms['kd']


def test_baselines_reach_the_configuration(tiny_data):
    kd = kd_of(tiny_data, '--kd=spkd,labeldist', '--kd-weight-spkd=7', '--kd-temperature=2', '--kd-texts=dog')
    assert kd['methods'] == ['spkd', 'labeldist'] and len(kd['texts']) == 43
    assert [kd['settings'][name] for name in ('weight_spkd', 'weight_labeldist', 'temperature')] == [7, 0.2, 2]
    assert not {'weight_pkt', 'weight_fitnets', 'weight_anchor', 'center'} & set(kd['settings'])
    assert 'temperature' not in kd_of(tiny_data, '--kd=pkt')['settings']


def test_the_configuration_of_older_runs_is_the_same(tiny_data):
    """`same_run` compares it: settings that came later must not turn up in a run of AGKD and CGKD as they were."""
    assert list(kd_of(tiny_data, '--kd=agkd,cgkd')['settings']) == [
        'weight_agkd', 'weight_cgkd', 'weight_pd', 'p', 'distance', 'reduction', 'samples', 'head', 'view',
        'teacher_input', 'pd', 'texts', 'warmup']
    kd = kd_of(tiny_data, '--kd=agkd,cgkd', '--kd-preset=paper', '--kd-center=1', '--kd-pd=adapter', '--kd-texts=dog')
    assert (kd['settings']['center'], kd['settings']['weight_anchor']) == (True, 1)
    assert Preset(**kd['settings']) == PRESETS['paper']._replace(center=True, pd='adapter', texts='dog')


@pytest.mark.parametrize('args, message', [
    (['--kd=spkd', '--kd-temperature=2'], '--kd-temperature=2.0: has no effect with --kd=spkd; add labeldist, or '
                                          'leave it out'),
    (['--kd=pkt', '--kd-texts=dog'], '--kd-texts=dog: has no effect with --kd=pkt; add cgkd or labeldist, or '
                                     'leave it out'),
    (['--kd=pkt', '--kd-distance=l2'], '--kd-distance=l2: has no effect with --kd=pkt; add agkd or cgkd'),
    (['--kd=agkd', '--kd-weight-pkt=2'], '--kd-weight-pkt=2.0: has no effect with --kd=agkd; add pkt'),
    (['--kd=agkd', '--kd-pd=adapter'], '--kd-pd=adapter: has no effect with --kd=agkd; add cgkd'),
    (['--kd=cgkd', '--kd-weight-anchor=2'], '--kd-weight-anchor=2.0: has no effect with --kd-pd=student; add '
                                            '--kd-pd=adapter, or leave it out'),
    (['--kd=cgkd', '--kd-preset=released', '--kd-weight-pd=2'],
     '--kd-weight-pd=2.0: has no effect with --kd-pd=off; add --kd-pd=student or --kd-pd=generator or --kd-pd=adapter, '
     'or leave it out'),
    (['--kd=cgkd', '--kd-center=1'], '--kd-center=1: with 2 texts nothing but signs is left of the correlations; '
                                     '--kd-texts needs three or more'),
    (['--kd=agkd,pkt', '--batch=4', '--batch-gpu=1'], '--kd=pkt: compares the images of a micro-batch, and here that '
                                                      'is a single one; use a larger --batch or --batch-gpu, or leave '
                                                      'pkt out'),
    (['--kd=cgkd', '--batch=4', '--batch-gpu=1'], '--kd-pd=student: compares the images of a micro-batch, and here '
                                                  'that is a single one; use a larger --batch or --batch-gpu, or use '
                                                  '--kd-pd=off'),
    (['--kd=agkd,hints'], '--kd=agkd,hints: hints is no method; use one or several of ' + ', '.join(DISTILLERS))])
def test_options_that_would_do_nothing_are_refused(args, message, tiny_data):
    with pytest.raises(UserError) as err:
        kd_of(tiny_data, *args)
    assert str(err.value).startswith(message)


@pytest.mark.parametrize('args', [['--kd=agkd,fitnets,labeldist'], ['--kd=cgkd', '--kd-pd=off'],
                                  ['--kd=cgkd', '--kd-weight-pd=0']])
def test_images_one_at_a_time_suit_what_compares_none(args, tiny_data):
    assert kd_of(tiny_data, '--batch=4', '--batch-gpu=1', *args)['methods'] == args[0].partition('=')[2].split(',')


def test_labels_need_texts(tiny_data):
    kd = kd_of(tiny_data, '--kd=agkd,labeldist')
    for texts in ([], ['a cat']):
        with pytest.raises(UserError, match=f'--kd-texts: labeldist needs at least 2 texts, there are {len(texts)}'):
            check_distillation(64, **dict(kd, texts=texts))
    check_distillation(64, **dict(kd, texts=[], methods=['pkt']))


# -- whole runs

def trained(data, run_dir, total_kimg):
    """Runs or continues; -> the training state."""
    args = ['--outdir=x', f'--data={data}', '--device=cpu', '--metrics=none', '--workers=0', '--batch=4', '--cfg=demo',
            '--aug=ada', '--kd=agkd,cgkd,fitnets,labeldist,pkt,spkd', '--kd-teacher=demo', '--kd-pd=adapter',
            '--kd-texts=dog', '--kd-center=1']
    config, _name = train.build_config(parse_options(*args))
    shrink(config).update(total_kimg=total_kimg, kimg_per_tick=0.004)
    run_dir.mkdir(exist_ok=True)
    job = Run(config, str(run_dir), torch.device('cpu'))
    job.resume()
    job.run()
    return checkpoint.load(str(run_dir / STATE_FILE), 'training-state')[0]


def test_all_methods_and_the_adapter_resume_exactly(tiny_data, tmp_path):
    whole = trained(tiny_data, tmp_path / 'whole', 0.016)
    first = trained(tiny_data, tmp_path / 'parts', 0.008)
    second = trained(tiny_data, tmp_path / 'parts', 0.016)
    assert (whole.keys() == second.keys()
            and [name for name in whole if not torch.equal(whole[name], second[name])] == [])
    adapter = [name for name in whole if 'methods.cgkd.diversity' in name]
    assert len(adapter) == 4 and all((first[name] != second[name]).any() for name in adapter)
