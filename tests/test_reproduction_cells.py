"""The cells of the paper's tables: the values in print, the commands, what is refused."""

import json
import pathlib
import statistics
import zipfile

import numpy as np
import PIL.Image
import pytest
from conftest import parse_options, run_cli

import reproduce
import train
from dnnlib import UserError
from metrics import metric_main
from reproduction import cells, commands, making, pages
from reproduction.commands import Plan
from reproduction.data_sets import DATA
from reproduction.systems import SYSTEMS
from training.config.presets import PRESETS

CELLS = cells.all_cells()
TRAININGS = {cell.training: cell for cell in CELLS}
SIZES = {'low-shot': (16, False), 'biggan-cifar': (32, True), 'biggan-imagenet64': (64, True)}
KD_PARTS = ('+kd', 'fitnets', 'labeldist', 'pkt', 'spkd', 'agkd', 'cgkd')


def test_all_cells_of_the_paper():
    """9 of 11 systems in table 1, and so on: rows times columns as they are in print."""
    count = {number: len(cells.all_cells(number)) for number in range(1, 9)}
    assert count == {1: 55, 2: 54, 3: 42, 4: 16, 5: 6, 6: 12, 7: 8, 8: 6}
    assert len({cell.key for cell in CELLS}) == len(CELLS) == 199


@pytest.mark.parametrize('key, printed', [
    ('table1/obama/da+kd', '31.54 ± 0.27'), ('table1/animalface-dog/da', '58.85'),
    ('table2/cifar100-10/lecam+kd', '22.40 ± 0.06'), ('table3/imagenet64-2.5/ada+kd/is', '14.65 ± 0.47'),
    ('table3/imagenet64-2.5/ada+kd/fid', '28.79 ± 0.14'), ('table4/grumpy_cat/da+agkd', '23.24 ± 0.16'),
    ('table5/cifar100-10/da+kd', '0.264'), ('table6/cifar10-10/da+spkd', '19.11 ± 0.07'),
    ('table7/cifar10-10/da+kd-tcl', '14.98 ± 0.09'), ('table8/cifar100-10/vision-aided', '19.11 ± 0.10')])
def test_printed_values(key, printed):
    assert str(cells.find(key).printed) == printed


def test_the_same_training_has_the_same_value_in_all_tables():
    """Only the baselines of table 4 are printed without their spread."""
    values = {}
    for cell in CELLS:
        values.setdefault((cell.training, cell.measure), set()).add(cell.printed.mean)
    assert all(len(found) == 1 for found in values.values())


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    """Files by the names of the data sets, and with the sizes that their presets ask for."""
    folder, rng = tmp_path_factory.mktemp('data'), np.random.default_rng(0)
    for size, labels in SIZES.values():
        for i in range(12):
            path = folder / str(size) / (f'{i % 3}' if labels else '') / f'{i}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            PIL.Image.fromarray(rng.integers(0, 256, size=(size, size, 3)).astype(np.uint8)).save(path)
    return folder


@pytest.mark.parametrize('scale', [1, 0.001])
def test_every_training_is_a_command_of_train_py(scale, pictures):
    for training, cell in TRAININGS.items():
        data = DATA[cell.data]
        folder = pictures / str(SIZES[data.cfg][0])
        options = parse_options('--outdir=x', f'--data={folder}', '--metrics=none', '--device=cpu',
                                *cell.train_options(scale))
        config, _name = train.build_config(options)
        assert config.total_kimg == pytest.approx(max(data.kimg * scale, cells.LEAST_KIMG[data.cfg]))
        assert config.training_set_kwargs['use_labels'] == SIZES[data.cfg][1] and data.cfg in PRESETS
        assert ('kd' in config.terms) == any(part in training for part in KD_PARTS)
        assert cell.open_points() or cell.departure() or cell.system == 'da'


@pytest.mark.parametrize('scale', [1, 0.001])
@pytest.mark.parametrize('judge', [None, 'lite0'])
def test_every_measure_is_a_metric(scale, judge):
    names = {cell.metric(scale, judge) for cell in CELLS} | {cell.metric(scale, judge, 'fid') for cell in CELLS}
    for name in names:
        metric_main.find_metric(name)
    if scale == 1 and not judge:
        assert names == {'fid5k_full', 'fid10k_full', 'fid50k_full', 'is50k', 'lpips_diversity10k'}
    if scale < 1 and judge:
        assert names == {'featfid50_full', 'is50', 'lpips_diversity50'}


def test_lengths_are_those_of_the_launch_scripts():
    """Iterations of 4 steps of D with 50 images, from epochs of the scripts."""
    images = dict(full=50_000, fifth=10_000, tenth=5000)
    epochs = {'cifar10': ('full', 1000), 'cifar100': ('full', 2000), 'cifar10-20': ('fifth', 5000),
              'cifar100-20': ('fifth', 5000), 'cifar10-10': ('tenth', 5000), 'cifar100-10': ('tenth', 5000)}
    assert {name: images[part] * count / 1000 for name, (part, count) in epochs.items()} == {
        name: DATA[name].kimg for name in epochs}


def test_another_teacher_takes_the_place_of_clip():
    options = cells.find('table7/cifar100-10/da+kd-tcl').system_options('pocket')
    assert options == ['--aug=diffaug', '--kd=agkd,cgkd', '--kd-preset=released', '--kd-texts=cifar100',
                       '--kd-teacher=pocket']
    assert '--vision-aided=pocket' in cells.find('table8/cifar10-10/vision-aided').system_options('pocket')
    assert cells.find('table1/obama/da').system_options('pocket') == ['--aug=diffaug']


def archive(path, images, name='picture'):
    """Its pictures are never read."""
    with zipfile.ZipFile(path, 'w') as file:
        for i in range(images):
            file.writestr(f'{name}{i}.png', b'')


def test_unknown_cells_and_missing_data(tmp_path):
    with pytest.raises(UserError, match='did you mean table1/obama/da'):
        cells.find('table1/obama/dakd')
    with pytest.raises(UserError, match='there is no such cell; python reproduce.py list shows all'):
        cells.find('%%%')
    cell = cells.find('table7/cifar10-10/da+kd-tcl')
    made = 'it is made by: python dataset_tool.py fetch cifar10 --fraction=10; python'
    with pytest.raises(UserError, match=f'cifar10-5000.zip is not there; {made}'):
        Plan(cell, str(tmp_path), 'out')
    (tmp_path / 'cifar10-5000.zip').write_bytes(b'text')
    with pytest.raises(UserError, match='cifar10-5000.zip: is not a zip that can be read'):
        Plan(cell, str(tmp_path), 'out')
    archive(tmp_path / 'cifar10-5000.zip', 4999)
    with pytest.raises(UserError, match=f'cifar10-5000.zip holds 4999 images, the paper has 5000; {made}'):
        Plan(cell, str(tmp_path), 'out')
    archive(tmp_path / 'cifar10-5000.zip', 5000)
    with pytest.raises(UserError, match='cifar10-test.zip is not there'):
        Plan(cell, str(tmp_path), 'out')
    archive(tmp_path / 'cifar10-test.zip', 10)
    with pytest.raises(UserError, match='the teacher TCL_4M.pth is not there; put it there, as its authors'):
        Plan(cell, str(tmp_path), 'out', scale=0.5)
    (tmp_path / 'TCL_4M.pth').write_bytes(b'')
    assert f'--kd-teacher={tmp_path / "TCL_4M.pth"}' in Plan(cell, str(tmp_path), 'out', scale=0.5).train_command(0)
    code, output = run_cli(reproduce.main, 'report', f'--outdir={tmp_path}')
    assert code == 1 and output.count('\n') == 1 and 'nothing is on record there' in output


def test_commands_name_the_reference_the_judge_and_the_seed(tmp_path):
    archive(tmp_path / 'cifar10-5000.zip', 5000)
    archive(tmp_path / 'cifar10-test.zip', 10_000)
    plan = Plan(cells.find('table2/cifar10-10/da'), str(tmp_path), 'out', judge='lite0')
    assert {'--metric-data=' + str(tmp_path / 'cifar10-test.zip'), '--metric-teacher=lite0', '--seed=2',
            '--metrics=featfid10k_full'} <= set(plan.train_command(2))
    assert {'--ref=' + str(tmp_path / 'cifar10-test.zip'), '--teacher=lite0', '--seed=1', '--network=a',
            '--metrics=featfid10k_full'} <= set(plan.measure_command('a', 1, 'out'))
    code, output = run_cli(reproduce.main, 'run', 'table2/cifar10-10/da', f'--data={tmp_path}', '-n', '--seeds=2')
    assert code == 0 and output.count('train.py') == 2 and output.count('calc_metrics.py') == 1
    lpips = Plan(cells.find('table5/cifar10-10/da'), str(tmp_path), 'out', files={'--alexnet': program()})
    assert f'--alexnet={program()}' in lpips.try_command(0) and '--metrics=lpips_diversity10' in lpips.try_command(0)
    assert not any(option.startswith(('--ref', '--teacher')) for option in lpips.measure_command('a', 1, 'out'))


@pytest.mark.parametrize('cell, judge, trained, measured', [
    ('table2/cifar10-10/da', None, ['--detector'], ['--detector']), ('table2/cifar10-10/da', 'lite0', [], []),
    ('table5/cifar10-10/da', 'lite0', [], ['--alexnet', '--lpips-heads'])])
def test_commands_name_the_networks_that_they_use(cell, judge, trained, measured, tmp_path):
    """The others would be refused."""
    archive(tmp_path / 'cifar10-5000.zip', 5000)
    archive(tmp_path / 'cifar10-test.zip', 10_000)
    names = ['--detector', '--alexnet', '--lpips-heads']
    plan = Plan(cells.find(cell), str(tmp_path), 'out', judge=judge, files=dict.fromkeys(names, program()))
    named = lambda command: [name for name in names if f'{name}={program()}' in command]
    assert named(plan.train_command(0)) == trained and named(plan.measure_command('a', 1, 'out')) == measured
    assert plan.try_command(0) is None or named(plan.try_command(0)) == measured


def test_a_dry_run_lists_what_is_missing(tmp_path):
    """After the commands, whose folder depends on it."""
    run = lambda: run_cli(reproduce.main, 'run', 'table7/cifar10-10/da+kd-tcl', f'--data={tmp_path}', '-n', '--seeds=1')
    code, output = run()
    train_line, measure_line, *missing = output.splitlines()
    assert code == 0 and train_line.startswith('python train.py ') and '-DIGEST/seed0 ' in train_line
    assert f'--data={tmp_path / "cifar10-5000.zip"}' in train_line and measure_line.startswith('python calc_metrics.py')
    wanted = ('cifar10-5000.zip is not there', 'cifar10-test.zip is not there', 'the teacher TCL_4M.pth is not there')
    assert len(missing) == 3
    assert all(line.startswith(f'Missing: --data={tmp_path}: {problem}; ')
               for line, problem in zip(missing, wanted, strict=True))
    archive(tmp_path / 'cifar10-5000.zip', 5000)
    archive(tmp_path / 'cifar10-test.zip', 10)
    (tmp_path / 'TCL_4M.pth').write_bytes(b'')
    output = run()[1]
    assert output.count('Missing') == 1 and 'cifar10-test.zip holds 10 images, the paper has 10000; ' in output
    archive(tmp_path / 'cifar10-test.zip', 10_000)
    output = run()[1]
    assert 'Missing' not in output and 'DIGEST' not in output


def program():
    return reproduce.__file__


def test_whatever_changes_the_values_has_a_folder_of_its_own(tmp_path):
    archive(tmp_path / 'obama.zip', 100)
    other = tmp_path / 'other'
    other.mkdir()
    archive(other / 'obama.zip', 100, name='another')
    cell = cells.find('table1/obama/da+kd')
    plain = dict(cell=cell, data=str(tmp_path), outdir='out')
    changes = [{}, dict(scale=0.5), dict(teacher='pocket'), dict(judge='lite0'), dict(data=str(other)),
               dict(further=['--gamma=1']), dict(files={'--detector': program()})]
    plans = [Plan(**dict(plain, **change)) for change in changes]
    assert len({plan.folder(0) for plan in plans}) == len(changes)
    assert len({json.dumps(plan.facts()) for plan in plans}) == len(changes)
    alike = [Plan(**plain), Plan(**dict(plain, cell=cells.find('table4/obama/da+kd'), device='cpu'))]
    assert {plan.folder(1) for plan in alike} == {plans[0].folder(1)} != {plans[0].folder(0)}


def test_ctrl_c_lets_the_program_save_its_state(tmp_path, monkeypatch):
    """It has the signal, too; subprocess.run would kill it after a quarter of a second."""
    program = tmp_path / 'train.py'
    program.write_text('import os, signal, sys, time\n'
                       'def save(*_):\n    time.sleep(0.5)\n    open(sys.argv[1], "w").close()\n    sys.exit(0)\n'
                       'signal.signal(signal.SIGINT, save)\n'
                       'os.kill(os.getppid(), signal.SIGINT); os.kill(os.getpid(), signal.SIGINT)\n'
                       'time.sleep(60)\n')
    monkeypatch.setattr(commands, 'ROOT', str(tmp_path))
    with pytest.raises(UserError, match='interrupted; the same command goes on from there'):
        commands.call(['train.py', str(tmp_path / 'saved')])
    assert (tmp_path / 'saved').exists()
    program.write_text('raise SystemExit(3)')
    with pytest.raises(UserError, match='train.py ended with code 3'):
        commands.call(['train.py'])


def test_a_training_that_was_stopped_is_not_measured(tmp_path):
    archive(tmp_path / 'obama.zip', 100)
    plan = Plan(cells.find('table1/obama/da'), str(tmp_path), str(tmp_path))
    run = pathlib.Path(plan.folder(0)) / '00000-obama'
    with pytest.raises(UserError, match='seed0: holds 0 runs where one is expected'):
        plan.snapshots(0)
    run.mkdir(parents=True)
    with pytest.raises(UserError, match='no snapshot that is there has been measured'):
        plan.snapshots(0)
    found = []
    for nimg, value in [(100_000, 50.0), (200_000, 60.0), (300_000, 55.0)]:
        (run / f'{nimg}').write_bytes(b'')
        found.append(dict(metric='fid5k_full', value=value, snapshot=f'{nimg}', cur_nimg=nimg))
        (run / 'metric-fid5k_full.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in found))
        if nimg < 300_000:
            with pytest.raises(UserError, match=f'has stopped after {nimg // 1000} of 300 kimg'):
                plan.snapshots(0)
    assert plan.evaluations(0) == str(run / 'evaluations')         # another run would have others
    assert plan.snapshots(0) == {'best': str(run / '100000'), 'last': str(run / '300000')}


def test_show_tells_what_is_left_open():
    code, output = run_cli(reproduce.main, 'show', 'table1/panda/lecam')
    assert code == 0 and 'Printed:   FID 10.16' in output and 'Its weight was never published' in output
    assert train.main.make_context('train.py', ['--outdir=x', '--data=panda.zip', '--lecam=1e-6'])


# -- pages

def record(seed, best, last, **changes):
    part = lambda values: dict(snapshot='a', kimg=100.0, values=values, protocol={'detector.identity': 'inception',
                                                                                  'metric': 'fid5k_full'})
    measured = dict(best=part(best), last=part(last))
    return dict(dict(training='obama/da', measure='fid', seed=seed, scale=1, metric='fid5k_full', teacher=None,
                     options=['--cfg=low-shot'], further=[], judge=None, files=[], digests=[], measured=measured),
                **changes)


def test_a_page_has_means_over_seeds_of_means_over_evaluations():
    best = [[40.0, 42.0, 41.0], [44.0, 44.0, 44.0], [45.0, 47.0, 46.0]]
    text = pages.page(1, [record(seed, values, [50.0] * 3) for seed, values in enumerate(best)])
    spread = statistics.stdev([41, 44, 46])
    assert f'46.87<br>b 43.67 ± {spread:.2f}, l 50.00 ± 0.00 (3) ' in text
    assert '3 evaluations each, which differ by ± 1.000 at most' in text and 'not to be compared' not in text
    assert pages.page(4, [record(0, [40.0], [50.0])]) is not None          # the same training, in another table
    assert pages.page(2, [record(0, [40.0], [50.0])]) is None


@pytest.mark.parametrize('changes, reason', [
    (dict(scale=0.001), 'narrow networks, 0.3 kimg instead of 300, 50 fakes instead of 5000'),
    (dict(teacher='pocket'), 'another teacher: pocket'),
    (dict(metric='featfid5k_full'), 'another detector: inception instead of Inception'),
    (dict(further=['--gamma=1']), 'further options: --gamma=1'),
    (dict(files=['--detector']), 'networks of the measure from files: --detector')])
def test_what_must_not_be_compared_is_marked(changes, reason):
    text = pages.page(1, [record(seed, [40.0] * 3, [50.0] * 3, **changes) for seed in range(3)])
    assert 'b 40.00 ± 0.00*, l 50.00 ± 0.00* (3)' in text and reason in text


def test_other_settings_are_another_line(tmp_path):
    lines = [record(0, [40.0], [50.0]), record(0, [30.0], [30.0], options=['--cfg=low-shot', '--gamma=1'])]
    (tmp_path / 'records.jsonl').write_text(''.join(json.dumps(line) + '\n' for line in lines))
    assert pages.write(str(tmp_path)) == [str(tmp_path / f'table{number}.md') for number in (1, 4)]
    text = (tmp_path / 'table1.md').read_text()
    assert 'b 40.00*, l 50.00* (1)<br>b 30.00*, l 30.00* (1)' in text
    assert '1 of 3 training seeds; 1 of 3 evaluations' in text
    assert all(SYSTEMS[cell.system].title in text for cell in cells.all_cells(1))


def test_another_number_of_real_images_is_marked():
    lines = [record(seed, [40.0] * 3, [50.0] * 3) for seed in range(3)]
    for line in lines:
        line['measured']['best']['protocol']['reference.images'] = 99
    assert '99 real images instead of 100' in pages.page(1, lines)
    for line in lines:
        line['measured']['best']['protocol']['reference.images'] = 100
    assert 'not to be compared' not in pages.page(1, lines)


def test_what_is_no_number_and_what_is_done_otherwise():
    """A diverged snapshot is null in the record; table 2 has ADA with the hinge loss."""
    lines = [record(seed, [40.0] * 3, [50.0, None, 50.0], training='cifar10-10/ada') for seed in range(3)]
    text = pages.page(2, lines)
    assert 'b 40.00 ± 0.00*, l NaN* (3)' in text and 'compared with the printed value: With the hinge loss' in text


def test_files_count_by_what_is_in_them(tmp_path):
    archive(tmp_path / 'obama.zip', 100)
    plans = []
    for place, content in (('a', b'1'), ('b', b'1'), ('a', b'2')):
        folder = tmp_path / place / 'teacher'
        folder.mkdir(parents=True, exist_ok=True)
        (folder / 'teacher.safetensors').write_bytes(content)
        plans.append(Plan(cells.find('table1/obama/da+kd'), str(tmp_path), 'out', teacher=str(folder)))
    assert plans[0].facts() == plans[1].facts() and plans[0].folder(0) == plans[1].folder(0) != plans[2].folder(0)
    assert f'--kd-teacher={tmp_path / "a" / "teacher"}' in plans[0].train_command(0)
    assert plans[0].facts()['teacher'] == 'teacher' and '--kd-teacher=teacher' in plans[0].facts()['options']


def test_evaluations_draw_other_fakes_than_any_training():
    run, = [param for param in reproduce.run_command.params if param.name == 'seeds']
    assert run.type.max <= making.FIRST_EVALUATION
