"""benchmarks/study*.py: paired differences by hand, halving, the table, and that every arm is a configuration."""

import importlib
import json
import math
import os
import sys
from concurrent.futures import Future

import PIL.Image
import pytest
import torch
from conftest import run_cli

from dnnlib import UserError
from metrics import metric_main

sys.path.append(os.path.join(os.path.dirname(__file__), os.pardir, 'benchmarks'))
study, study_page, study_runs, study_sheets, study_table = [importlib.import_module(name) for name in (
    'study', 'study_page', 'study_runs', 'study_sheets', 'study_table')]
paired = importlib.import_module('study_statistics').paired


def test_paired_differences_by_hand():
    """Differences -1, -2, -6: mean -3, standard deviation sqrt(7), t of 2 degrees of freedom 4.3027."""
    got = paired({0: 4, 1: 3, 2: 1, 7: 99}, {0: 5, 1: 5, 2: 7, 8: 0})
    half = 4.30265 * math.sqrt(7 / 3)
    assert (got.mean, got.seeds, got.smaller) == (-3, 3, 3)
    assert (got.low, got.high) == (pytest.approx(-3 - half, rel=1e-4), pytest.approx(-3 + half, rel=1e-4))
    assert got.p_value == pytest.approx(2 * 0.5 ** 3)
    assert paired({0: 1}, {0: 2}) is None
    assert paired({0: 1, 1: 2}, {0: 1, 1: 2}).p_value == 1


def line(arm, seed, *kid, data='cifar500'):
    kimg = [12.8 * (i + 1) for i in range(len(kid))]
    options = list(study_table.ARMS.get(arm, []))
    return dict(data=data, arm=arm, seed=seed, options=options, arithmetic='bfloat16 on a CPU', kimg=kimg,
                kid=list(kid),
                fd=[None if k is None else 1000 * k for k in kid],
                precision=[0.5] * len(kid), recall=[0.25] * len(kid),
                nearness=[dict(kimg=25.6, value=0.625 + seed / 4)])


PART = study_table.Part('Better?', 'cifar500', ('DA', 'x', 'y', 'z', 'none'), 2, ((12.8, 2), (25.6, 1)))
LINES = [line('DA', 0, 0.6, 0.5), line('DA', 1, 0.4, 0.4), line('x', 0, 0.9, 0.3), line('x', 1, 0.5, 0.1),
         line('x', 2, 0.01, 0.01), line('y', 0, 0.75), line('z', 0, 0.5), line('z', 1, 0.75),
         line('x', 0, 0.01, 0.01, data='cats')]


def test_halving_keeps_the_baseline_and_the_best():
    """Against the baseline on the same seeds: x +0.2, y +0.15, z +0.125; the means are 0.7, 0.75 and 0.625."""
    assert study.survivors(LINES, PART, 12.8, 2) == ['DA', 'z', 'y']


def test_table_by_hand():
    """Rows are of the seeds of the part that got as far as any of the arm; the third seed of x is of another part."""
    *lines, missing = study_page.table(LINES, PART)
    assert missing == 'Not run yet: none.'                                  # the arm of that name
    rows = [[cell.strip() for cell in row.strip('|').split('|')] for row in lines if row]
    assert rows[0][:4] == ['arm', 'seeds', 'KID, FD at 12.8 kimg', 'KID, FD at 25.6 kimg']
    table = {row[0]: row[1:] for row in rows[2:]}
    assert table.keys() == {'DA', 'x', 'y', 'z'}
    assert table['DA'] == ['2', '500, 500', '450, 450', '0.50, 0.25', '450', '0.75', '']
    assert table['x'][:3] == ['2', '700, 700', '200, 200'] and table['x'][4] == '200'
    half = 12.7062 * 50                                                     # differences -200, -300
    assert table['x'][-1] == (f'-250 [{-250 - half:+.0f}, {-250 + half:+.0f}] at 25.6 kimg, '
                              'smaller in 2 of 2, sign test p = 0.50')
    assert table['y'][:3] == ['1', '750, 750', '–, –'] and table['y'][5] == '–'
    assert table['y'][-1] == '+150 at 12.8 kimg, one seed'
    assert table['z'][:3] == ['2', '625, 625', '–, –'] and table['z'][-1].startswith('+125 [')


def test_arms_that_were_not_trained_alike_are_named():
    lines = [dict(one, arithmetic='float32 on a CPU') if one['arm'] == 'x' else one for one in LINES]
    assert study_page.table(lines, PART)[-1] == ('Trained in bfloat16 on a CPU: DA, y, z; in float32 on a CPU: x.')


def test_a_measurement_that_is_no_number_is_left_out():
    """As of a G that has diverged."""
    lines = [line('DA', 0, 0.6, 0.5), line('x', 0, None, 0.3), line('x', 1, None, None)]
    row = study_page.row(lines, PART, 'x', 25.6)
    assert row[:3] == ['2', '–, –', '300, 300'] and row[4] == '300'


def test_a_part_is_run_when_half_of_its_arms_are():
    assert study_page.table([one for one in LINES if one['arm'] in ('DA', 'x')], PART) == study_page.NOT_RUN
    single = PART._replace(arms=('DA',), rounds=((51.2, 1),))
    assert study_page.table(LINES, single) == study_page.NOT_RUN             # shorter runs answer another question
    assert 'no seed in common' in study_page.table([line('DA', 0, 0.6), line('x', 1, 0.5)],
                                                   PART._replace(arms=('DA', 'x')))[-1]


def test_page_has_a_place_for_every_part():
    with open(os.path.join(os.path.dirname(__file__), os.pardir, 'docs', 'evidence.md'), encoding='utf-8') as f:
        text = f.read()
    assert all(f'<!-- part {name} -->' in text for name in study_table.PARTS)


def test_wrong_words_are_refused(tmp_path):
    (tmp_path / 'results.jsonl').write_text(json.dumps(line('DA', 0, 0.5)) + '\n')
    code, output = run_cli(study.main, 'page', f'--folder={tmp_path}', f'--page={tmp_path / "no.md"}')
    assert code == 1 and f'Error: --page={tmp_path / "no.md"}: No such file or directory; name a file that' in output
    code, output = run_cli(study.main, 'run', f'--folder={tmp_path}', '--part=a', '--seed=2')
    assert code == 1 and 'Error: part a, DA: ' in output                    # there is no data
    data = tmp_path / 'cifar10.zip'
    data.mkdir()
    for i in range(500):
        PIL.Image.new('RGB', (32, 32), (i % 256, 0, 0)).save(data / f'{i}.png')
    (tmp_path / 'cifar10-test.zip').symlink_to(data)
    code, output = run_cli(study.main, 'run', f'--folder={tmp_path}', '--part=a', '--seed=2')
    assert code == 1 and 'Error: --seed=2: part a has 2 seeds, from 0; a further one would not be in its' in output


def test_every_arm_is_a_configuration(tmp_path, monkeypatch):
    """With the demo teacher, which is at hand, in the place of the others, on pictures of three classes."""
    data = tmp_path / 'three'
    for i in range(9):
        (data / 'abc'[i % 3]).mkdir(parents=True, exist_ok=True)
        PIL.Image.new('RGB', (16, 16), (20 * i, 0, 0)).save(data / 'abc'[i % 3] / f'{i}.png')
    for name, row in study_table.DATA.items():
        options = [option for option in row.options if not option.startswith('--subset')]
        monkeypatch.setitem(study_table.DATA, name, row._replace(options=(*options, '--subset=6'), train=str(data),
                                                                 test=str(data),
                                                                  teacher='demo'))
    with pytest.raises(UserError, match='part e, paper x 0.1, random teacher: .*/random_teacher: there is no teacher'):
        study.check_part(str(tmp_path), 'e', 'cpu')
    (tmp_path / 'random_teacher').mkdir()
    (tmp_path / 'random_teacher' / 'teacher.safetensors').touch()
    for part in study_table.PARTS.values():
        for arm in part.arms:
            config = study_runs.configuration(str(tmp_path), part.data, arm, 3, part.rounds[0][0], 'cpu')
            assert (config.random_seed, config.training_set_kwargs['random_seed']) == (3, 0)
            wide = part.data == 'cifar500-wide'
            assert config.D_kwargs['channel_base'] == (2048 if wide else 512)
            assert config.G_opt_kwargs['lr'] == (0.0025 if wide else 0.005)
            steps_of_point = config.kimg_per_tick * config.network_snapshot_ticks * 1000 / config.batch_size
            assert steps_of_point == pytest.approx(1600 if wide else 800)
    names = [study_runs.run_name(part.data, arm, 0) for part in study_table.PARTS.values() for arm in part.arms]
    assert len(set(names)) == len({(part.data, arm) for part in study_table.PARTS.values() for arm in part.arms})


def test_results_of_a_run(tmp_path):
    """As `metric_main` records them."""
    run = tmp_path / 'runs' / 'one'
    run.mkdir(parents=True)
    (run / 'study.json').write_text(json.dumps(dict(data='cats', arm='DA', seed=1, options=['--aug=diffaug'])))
    protocol = dict(detector=dict(name='lite0'), reference=dict(dataset='cats', images=40),
                    generated=dict(images=2000, truncation_psi=1, labels='none', seed=0))
    measured = dict(featkid2k_full=dict(value=0.5), featfid2k_full=dict(value=300.0),
                    featpr2k3_full=dict(value=0.2, precision=0.5, recall=0.1))
    for metric, figures in measured.items():
        for nimg in (12800, 25600):
            record = dict(metric=metric, better='lower', **figures, **protocol, seconds=1)
            snapshot = str(run / f'network-snapshot-{nimg // 1000:06d}.safetensors')
            metric_main.report_metric(record, str(run), snapshot, nimg)
    (run / 'training_options.json').write_text('{"device": "cpu", "fp32": true}')
    (run / 'nearness.jsonl').write_text('{"kimg": 12.8, "value": 0.75}\n{"kimg": 25.6, "value": 0.5}\n')
    got, = study.write_results(str(tmp_path))
    assert got['arithmetic'] == 'float32 on a CPU'
    assert got['kimg'] == [12.8, 25.6] and got['kid'] == [0.5, 0.5] and got['recall'] == [0.1, 0.1]
    assert got['fd'] == [300, 300] and got['nearness'] == [dict(kimg=12.8, value=0.75), dict(kimg=25.6, value=0.5)]
    assert got['protocol'] == dict.fromkeys(measured, protocol)
    assert json.loads((tmp_path / 'results.jsonl').read_text()) == got


def test_runs_of_another_machine_count(tmp_path, monkeypatch):
    """Their lines stay, and they are not trained again, unless their arm has other options now."""
    lines = [line('DA', 0, 0.5, 0.4), line('DA', 1, 0.5),                   # shorter
             dict(line('CHAIN', 0, 0.5, 0.3), options=['--chain'])]
    (tmp_path / 'results.jsonl').write_text(''.join(json.dumps(one) + '\n' for one in lines))
    part = study_table.PARTS['more']._replace(arms=('DA', 'CHAIN'), seeds=2, rounds=((25.6, 2),))
    asked = []
    monkeypatch.setattr(study, 'results_of', lambda jobs, _parallel: asked.extend(jobs) or [])
    study.run_part(str(tmp_path), part, 1, 'cpu', ())
    assert [job[2:4] for job in asked] == [('CHAIN', 0), ('DA', 1), ('CHAIN', 1)]
    (tmp_path / 'runs' / 'cifar500-da-seed0').mkdir(parents=True)            # begun here
    asked.clear()
    study.run_part(str(tmp_path), part, 1, 'cpu', ())
    assert [job[2:4] for job in asked] == [('DA', 0), ('CHAIN', 0), ('DA', 1), ('CHAIN', 1)]
    assert [study.name_of(one) for one in study.write_results(str(tmp_path))] == [
        'cifar500-chain-seed0', 'cifar500-da-seed0', 'cifar500-da-seed1']
    here = line('DA', 0, 0.7)
    monkeypatch.setattr(study_runs, 'read_run', lambda _run_dir: here)
    assert study.write_results(str(tmp_path))[1]['kid'] == [0.5, 0.4]        # until it has got as far
    here = line('DA', 0, 0.7, 0.6)
    assert study.write_results(str(tmp_path))[1]['kid'] == [0.7, 0.6]
    here = line('CHAIN', 0, 0.9)
    assert study.write_results(str(tmp_path))[0]['kid'] == [0.9]             # the longer one had other options


def test_a_sheet_stays_where_one_of_its_arms_is_not_at_hand(tmp_path):
    lines = [line(arm, 0, *[0.5] * 8) for arm in ('ADA', 'ADA + paper x 0.1')]
    runs = lambda arm, seed: str(tmp_path / 'runs' / arm)
    page = str(tmp_path / 'evidence.md')
    old = '![Samples: a row for each of ADA; ADA + paper x 0.1, at 102.4 kimg](x.png)'
    (tmp_path / 'images').mkdir()

    def grid(arm):
        os.makedirs(runs(arm, 0))
        PIL.Image.new('RGB', (320, 160), 'red').save(os.path.join(runs(arm, 0), 'fakes000102.png'))
    grid('ADA')
    assert study_page.sheet(lines, 'c-ada', runs, page, '') == []           # nothing to put beside it
    assert study_page.sheet(lines, 'c-ada', runs, page, old) == ['', old]
    grid('ADA + paper x 0.1')
    assert study_page.sheet(lines, 'c-ada', runs, page, old) == [
        '', old.replace('x.png', 'images/evidence-c-ada-samples.png')]
    assert (tmp_path / 'images' / 'evidence-c-ada-samples.png').is_file()


def test_the_share_that_is_nearer_to_training_images():
    """One that repeats them has 1, one of new images about a half, however many unseen ones there are."""
    random = torch.Generator().manual_seed(0)
    cloud = lambda number: torch.randn([number, 6], generator=random)
    trained_on, unseen = cloud(40), cloud(200)
    share, control, number = study_runs.share_nearer(trained_on[:30] + 0.01 * cloud(30), trained_on, unseen)
    assert (share, number) == (1, 40) and control == pytest.approx(0.5, abs=0.25)       # of 30 unseen images
    share, control, number = study_runs.share_nearer(cloud(2000), trained_on, unseen)
    assert number == 40 and share == pytest.approx(0.5, abs=0.15)
    assert control == pytest.approx(share, abs=0.1)                                     # of the other 160
    assert study_runs.share_nearer(unseen, trained_on, unseen[:10])[1:] == (None, 10)
    far = 1000 * torch.ones(6)                              # all features have a mean, as those of a network do
    assert study_runs.share_nearer(trained_on + far, trained_on + far, unseen + far)[0] == 1


def test_a_run_of_other_options_is_not_continued(tmp_path):
    """Its state would win over the table."""
    options = dict(batch_size=16, terms=dict(kd=dict(settings=dict(weight_agkd=0.044))))
    (tmp_path / 'training_options.json').write_text(json.dumps(options))
    study_runs.check_same(str(tmp_path), options)
    study_runs.check_same(str(tmp_path / 'new'), options)
    with pytest.raises(UserError, match='begun with .*weight.agkd=0.044, now 9; the table has changed'):
        study_runs.check_same(str(tmp_path), dict(options, terms=dict(kd=dict(settings=dict(weight_agkd=9)))))


def test_after_an_error_no_other_run_begins(monkeypatch):
    begun = []

    class Pool:
        def __init__(self, *_args, **_kwargs):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def submit(self, _function, name):
            job = Future()
            begun.append(name)
            if name == 'bad':
                job.set_exception(UserError('no such teacher'))
            else:
                job.set_result((name, 1.0))
            return job
    monkeypatch.setattr(study, 'ProcessPoolExecutor', Pool)
    assert sorted(study.results_of([('a',), ('b',), ('c',)], 2)) == [('a', 1.0), ('b', 1.0), ('c', 1.0)]
    begun.clear()
    with pytest.raises(UserError, match='no such teacher'):
        list(study.results_of([('bad',), ('a',), ('b',), ('c',)], 1))
    assert begun == ['bad']


def test_a_sheet_has_a_row_for_each_arm_and_a_column_for_each_seed(tmp_path):
    """Grids of 7x4 images of 2 pixels, of which the first 6x3 are shown."""
    paths = {}
    for name, color in (('a0', 'red'), ('a1', 'blue'), ('b0', 'lime')):
        grid = PIL.Image.new('RGB', (14, 8), 'black')
        grid.paste(color, (0, 0, 12, 6))
        paths[name] = tmp_path / name / 'fakes000025.png'
        paths[name].parent.mkdir()
        grid.save(paths[name])
    assert study_sheets.latest_grid(str(tmp_path / 'a0'), 25.6) == str(paths['a0'])
    assert study_sheets.latest_grid(str(tmp_path / 'a0'), 51.2) is None
    sheet = tmp_path / 'sheet.png'
    assert study_sheets.write({'a': [paths['a0'], paths['a1']], 'b': [paths['b0']], 'c': []}, 2, str(sheet))
    with PIL.Image.open(sheet) as found:
        width, height = 6 * 64 + 12, 3 * 64 + 12
        assert found.size == (2 * width - 12, 2 * height - 12)
        corners = [(0, 0), (width - 13, height - 13), (width, 0), (0, height), (width, height), (width - 6, 0)]
        assert [found.getpixel(at) for at in corners] == [
            (255, 0, 0), (255, 0, 0), (0, 0, 255), (0, 255, 0), (255, 255, 255), (255, 255, 255)]
    assert not study_sheets.write({'a': [paths['a0']], 'b': []}, 2, str(tmp_path / 'none.png'))
