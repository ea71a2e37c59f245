"""benchmarks/study*.py: paired differences by hand, halving, the table, and that every arm is a configuration."""

import importlib
import json
import math
import os
import sys

import PIL.Image
import pytest

sys.path.append(os.path.join(os.path.dirname(__file__), os.pardir, 'benchmarks'))
study, study_page, study_sheets, study_table = [importlib.import_module(name) for name in (
    'study', 'study_page', 'study_sheets', 'study_table')]
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
    return dict(data=data, arm=arm, seed=seed, kimg=kimg, kid=list(kid), fd=[1000 * k for k in kid],
                precision=[0.5] * len(kid),
                recall=[0.25] * len(kid), copies=0.125)


PART = study_table.Part('Better?', 'cifar500', ('DA', 'x', 'y', 'z'), 2, ((12.8, 2), (25.6, 1)))
LINES = [line('DA', 0, 0.6, 0.5), line('DA', 1, 0.6, 0.4), line('x', 0, 0.9, 0.3), line('x', 1, 0.7, 0.1),
         line('y', 0, 0.85), line('z', 0, 0.5),
         line('z', 1, 0.75), line('x', 0, 0.01, 0.01, data='cats')]


def test_halving_keeps_the_baseline_and_the_best():
    assert study.survivors(LINES, PART, 12.8, 2) == ['DA', 'z', 'x']       # means 0.625, 0.8, y: 0.85


def test_table_by_hand():
    rows = [[cell.strip() for cell in row.strip('|').split('|')] for row in study_page.table(LINES, PART)]
    assert rows[0][:4] == ['arm', 'seeds', 'KID, FD at 12.8 kimg', 'KID, FD at 25.6 kimg']
    table = {row[0]: row[1:] for row in rows[2:]}
    assert table['DA'] == ['2', '600, 600', '450, 450', '0.50, 0.25', '450', '0.125', '']
    assert table['x'][:3] == ['2', '800, 800', '200, 200'] and table['x'][4] == '200'
    half = 12.7062 * 50                                                     # differences -200, -300
    assert table['x'][-1] == f'-250 [{-250 - half:+.0f}, {-250 + half:+.0f}], smaller in 2 of 2, sign test p = 0.50'
    assert table['y'][2] == '–, –' and table['y'][-1] == 'one seed'


def test_page_has_a_place_for_every_part():
    with open(os.path.join(os.path.dirname(__file__), os.pardir, 'docs', 'evidence.md'), encoding='utf-8') as f:
        text = f.read()
    assert all(f'<!-- part {name} -->' in text for name in study_table.PARTS)


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
    for part in study_table.PARTS.values():
        for arm in part.arms:
            config = study.configuration(str(tmp_path), part.data, arm, 3, 12.8, 'cpu')
            assert (config.random_seed, config.training_set_kwargs['random_seed']) == (3, 0)
            assert config.D_kwargs['channel_base'] == 512 and config.G_opt_kwargs['lr'] == 0.005
    names = [study.run_name(part.data, arm, 0) for part in study_table.PARTS.values() for arm in part.arms]
    assert len(set(names)) == len({(part.data, arm) for part in study_table.PARTS.values() for arm in part.arms})


def test_results_of_a_run(tmp_path):
    run = tmp_path / 'runs' / 'one'
    run.mkdir(parents=True)
    (run / 'study.json').write_text(json.dumps(dict(data='cats', arm='DA', seed=1, options=['--aug=diffaug'])))
    record = lambda nimg, **figures: json.dumps(dict(cur_nimg=nimg, detector='lite0', num_gen=2000, num_real=40,
                                                     **figures)) + '\n'
    measured = dict(featkid2k_full=dict(value=0.5), featfid2k_full=dict(value=300.0),
                    featpr2k3_full=dict(precision=0.5, recall=0.1))
    for metric, figures in measured.items():
        (run / f'metric-{metric}.jsonl').write_text(record(12800, **figures) + record(25600, **figures))
    got, = study.write_results(str(tmp_path))
    assert (got['kimg'] == [12.8, 25.6] and got['kid'] == [0.5, 0.5] and got['recall'] == [0.1, 0.1]
            and got['fd'] == [300, 300])
    assert got['protocol'] == dict(detector='lite0', num_gen=2000, num_real=40)
    assert json.loads((tmp_path / 'results.jsonl').read_text()) == got


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
