"""Runs side by side, and pages that are written while a run trains."""

import json
import pathlib
import re

import PIL.Image
import pytest
from conftest import run_cli
from made_runs import make_run, measurement, picture, write_lines
from page_reader import read_page

import report
from reporting import compare_page, measured, page, pictures, run_folder, run_page

# -- comparison


def test_values_stand_in_a_row_only_by_the_same_protocol(tmp_path):
    a, b = make_run(tmp_path / 'a', values=[30.0, 20.0]), make_run(tmp_path / 'b', values=[10.0])
    c = make_run(tmp_path / 'c', values=[])
    write_lines(c / 'metric-fid5k_full.jsonl', [measurement(1000, 1.0, reference=dict(dataset='photos', images=90))])
    runs = [run_folder.read(str(folder)) for folder in (a, b, c)]
    first, second = compare_page.metric_rows(runs)
    assert [cell and cell['last'] for cell in first['cells']] == ['20 [19, 21]', '10 [9, 11]', None] and first[
        'winner'
    ] == 1
    assert [cell and cell['last'] for cell in second['cells']] == [None, None, '1 [0, 2]'] and second['winner'] is None
    assert second['odd'] == 'reference.images 100 and 90'
    panel, = compare_page.metric_panels(runs, ['a', 'b', 'c'])
    assert panel['x'] == [1, 2] and [series['y'] for series in panel['series']] == [[30, 20], [10, None]]


def test_a_comparison_shows_what_differs(tmp_path):
    a = make_run(tmp_path / 'x' / 'run', ticks=3)
    b = make_run(tmp_path / 'y' / 'run', ticks=5, frames=3, loss_kwargs=dict(r1_gamma=2.5), random_seed=7)
    out = tmp_path / 'c.html'
    code, text = run_cli(report.main, 'compare', str(a), str(b), f'--out={out}')
    assert code == 0 and text == f'Saved {out}\n'
    found = read_page(out)
    assert (
        '--gamma 0.5 2.5' in found.text
        and '--seed 0 7' in found.text
        and 'run (2)' in found.text
        and '--data' not in found.text
    )
    loss = next(panel for panel in found.data['panels'] if panel['title'] == 'Loss of G')
    assert loss['x'] == [1, 2, 3, 4, 5] and [
        (series['label'], series['y'], series['colour']) for series in loss['series']
    ] == [('run', [1, 1.1, 1.2, None, None], 0), ('run (2)', [1, 1.1, 1.2, 1.3, 1.4], 1)]
    assert [[frame['kimg'] for frame in part['frames']] for part in found.data['sets']] == [[0, 1, 2, 3, 4], [0, 1, 2]]


def test_options_of_a_method_that_only_one_run_has(tmp_path):
    """What the method repeats of the data and the seed is not listed again."""
    data = dict(class_name='a.Data', path='x.zip')
    kd = dict(class_name='kd_plugin.loss.Distillation', methods=['agkd'], texts=list('abcdef'),
              texts_origin='x', seed=0, training_set_kwargs=data,
              settings=dict(weight_agkd=0.5, decay=None, texts='auto'))
    runs = [run_folder.read(str(make_run(tmp_path / name, terms=terms)))
            for name, terms in [('a', dict(kd=kd)), ('b', {})]]
    assert compare_page.option_rows(runs) == [
        ('method kd', ['Distillation', '–']), ('--kd', ['agkd', '–']), ('--kd-texts', ['a, ... (6 in all)', '–']),
        ('--kd-weight-agkd', ['0.5', '–'])]


def test_higher_is_better_where_the_record_says_so(tmp_path):
    records = [
        measurement(1000, 0.5, better='higher'),
        measurement(2000, 0.4, better='higher'),
        measurement(2000, 0.3, better='higher'),
    ]
    group, = measured.by_protocol(records).values()
    assert group.best['value'] == 0.5 and [record['value'] for record in group.records] == [0.5, 0.3]


def test_no_folder_is_named(tmp_path):
    folder = make_run(
        tmp_path / 'run', init_from='/home/anna/net.pkl', options_given=dict(data='/home/anna/photos.zip')
    )
    write_lines(folder / 'machine.jsonl', [dict(cur_nimg=0, device='/home/anna/gpu')] * 2)
    content = pathlib.Path(run_page.write(str(folder))).read_text()
    assert 'anna' not in content and 'net.pkl' in content and str(tmp_path) not in content


# -- beside the training

def test_what_goes_wrong_does_not_end_the_training(tmp_path, capsys, monkeypatch):
    run_page.write_beside_training(str(tmp_path / 'none'))
    monkeypatch.setattr(run_page, 'make', lambda *_args: 1 / 0)
    run_page.write_beside_training(str(make_run(tmp_path / 'run')))
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(':')[0] for line in lines] == ['Warning', 'Warning'] and 'ZeroDivisionError' in lines[1]
    assert not (tmp_path / 'run' / 'report.html').exists()


def test_json_in_a_page_begins_no_tag():
    text = page.as_json({'a': '</script><!-- & '})
    assert not re.search('[<>&]', text) and json.loads(text) == {'a': '</script><!-- & '}


def test_a_grid_is_read_once(tmp_path, monkeypatch):
    run = run_folder.read(str(make_run(tmp_path / 'run')))
    pictures._made.clear()
    first = pictures.frames(run)
    monkeypatch.setattr(PIL.Image, 'open', lambda *_args: pytest.fail('read again'))
    assert pictures.frames(run) == first


def test_grids_are_taken_from_the_last_page(tmp_path, monkeypatch):
    """By another process; those that have changed are read again."""
    folder = make_run(tmp_path / 'run')
    run = run_folder.read(str(folder))
    run_page.write(str(folder))
    first = pictures.frames(run)
    pictures._made.clear()
    picture(folder / 'fakes000002.png', 'white')
    opened, original = [], PIL.Image.open
    monkeypatch.setattr(PIL.Image, 'open', lambda path: (opened.append(pathlib.Path(path).name), original(path))[1])
    second = pictures.frames(run)
    assert opened == ['fakes000002.png', 'fakes000004.png']  # the last one is not in the data of the page
    assert [entry for entry in second if entry[0] != 2000] == [entry for entry in first if entry[0] != 2000] and second[
        2
    ] != first[2]


@pytest.mark.parametrize(
    'content',
    [
        '',
        '<script type="application/json" id="data">{"sets": [{"frames": [3]}]}</script>',
        '<script type="application/json" id="data">{"sets": {}}</script>',
        '\udcff',
    ],
)
def test_a_page_that_is_none_is_written_anew(content, tmp_path):
    folder = make_run(tmp_path / 'run')
    (folder / 'report.html').write_text(content, encoding='utf-8', errors='surrogateescape')
    pictures._made.clear()
    assert len(read_page(run_page.write(str(folder))).data['sets'][0]['frames']) == 5


def test_a_picture_that_is_too_large_is_left_out(tmp_path, monkeypatch):
    folder = make_run(tmp_path / 'run')
    run = run_folder.read(str(folder))
    with PIL.Image.open(folder / 'reals.png') as image:
        size = image.size
    monkeypatch.setattr(pictures, 'MOST_PIXELS', size[0] * size[1])
    picture(folder / 'fakes000002.png', 'red', (size[0], size[1] + 1))
    assert pictures.sheet(run, 'fakes000002.png') is None and pictures.sheet(run, 'reals.png') is not None
