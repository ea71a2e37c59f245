"""The pages about runs as files: what they say of made-up runs, and what becomes of folders that lack something."""

import base64
import hashlib
import html.parser
import io
import json
import pathlib
import re

import numpy as np
import PIL.Image
import pytest
from conftest import run_cli
from made_runs import COLOURS, SIDE, make_run, measurement, picture, tick, write_lines

import report
from reporting import (
    advice,
    compare_page,
    curves,
    events,
    facts,
    measured,
    numbers,
    page,
    pictures,
    run_folder,
    run_page,
)
from training.run import find as find_run
from training.run import machine

HOSTILE = '</script><script>alert(1)</script> "quoted" \'single\' & <b>bold</b> 😀'


class Reader(html.parser.HTMLParser):
    """Collects tags with their attributes, texts outside of scripts, and scripts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts, self.scripts, self.inside = [], [], [], None
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.inside = tag if tag in ('script', 'style', 'title') else None

    def handle_endtag(self, tag):
        self.inside = None

    def handle_data(self, data):
        (self.scripts if self.inside in ('script', 'style') else self.texts).append(data)

    @property
    def text(self):
        return ' '.join(' '.join(self.texts).split())

    @property
    def data(self):
        """What the script is given."""
        return json.loads(self.scripts[-2] if len(self.scripts) > 1 else self.scripts[0])


def read_page(path):
    return Reader(pathlib.Path(path).read_text(encoding='utf-8'))


def colour_of(address):
    """The colour of the middle of a picture in a data: address."""
    image = PIL.Image.open(io.BytesIO(base64.b64decode(address.removeprefix('data:image/jpeg;base64,'))))
    return np.array(image.getpixel((image.width // 2, image.height // 2)))


def test_the_names_of_files_are_those_of_the_training():
    assert (run_folder.OPTIONS_FILE, run_folder.MACHINE_FILE) == (find_run.OPTIONS_FILE, machine.MACHINE_FILE)


def test_a_page_says_what_is_in_the_run(tmp_path):
    found = read_page(run_page.write(str(make_run(tmp_path / '00000-photos'))))
    for words in [
        '00000-photos',
        '10 of 10 kimg · complete',
        'photos.zip',
        'trained for 30s',
        '2023-11-14 22:13 UTC',
        '16 × 16',
        '--gamma',
        'A GPU',
    ]:
        assert words in found.text, words
    assert (
        '25 [24, 26]' in found.text
        and '20 [19, 21]' in found.text
        and 'network-snapshot-000002.safetensors' in found.text
    )
    titles = [panel['title'] for panel in found.data['panels']]
    assert titles == ['fid5k_full', 'Is D overfitting?', 'Copies and repeats', 'Losses', 'Time', 'Memory']
    fid, _, _, losses, time, _ = found.data['panels']
    assert fid['x'] == [1, 2, 3] and fid['series'] == [
        dict(label='fid5k_full', name='fid5k_full', y=[30, 20, 25], low=[29, 19, 24], high=[31, 21, 26], best=1)
    ]
    assert losses['x'] == list(range(1, 11)) and losses['series'][0]['y'] == [1 + i / 10 for i in range(10)]
    scaled = {series['label']: series['y'][0] for series in time['series']}
    assert scaled == {'all': 3, 'Gmain': 1.25, 'Dreg': 0.15625}  # 1000 / 8 calls of 0.01 s; every 16th, of 0.02 s
    frames = found.data['sets'][0]['frames']
    assert [frame['kimg'] for frame in frames] == [0, 1, 2, 3, 4]
    shown = [attributes for tag, attributes in found.tags if tag == 'img' and attributes.get('id') == 'fakes-0']
    for frame, colour in zip(frames, COLOURS[:5], strict=True):
        wanted = PIL.ImageColor.getrgb(colour)
        assert np.abs(colour_of(frame['src'] or shown[0]['src']) - wanted).max() < 8, colour


def test_a_page_runs_nothing_but_its_script(tmp_path):
    """Its content policy has the hashes of what is in it; there are no handlers, styles or addresses in its tags."""
    found = read_page(run_page.write(str(make_run(tmp_path / 'run'))))
    policy = next(
        attributes['content']
        for tag, attributes in found.tags
        if attributes.get('http-equiv') == 'Content-Security-Policy'
    )
    digests = [
        base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        for text in (found.scripts[0], found.scripts[-1])
    ]
    assert policy == (
        f"default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src 'sha256-{digests[0]}'; "
        f"script-src 'sha256-{digests[1]}'"
    )
    assert not re.search(r'\beval\(|new Function', found.scripts[-1])
    for tag, attributes in found.tags:
        assert not any(name.startswith('on') or name == 'style' for name in attributes), (tag, attributes)
        addresses = [attributes[name] for name in ('src', 'href', 'action') if name in attributes]
        assert all(address.startswith('data:image/jpeg;base64,') for address in addresses)
        assert tag != 'img' or attributes['alt']


def test_hostile_names_are_text(tmp_path):
    folder = make_run(tmp_path / HOSTILE.replace('/', '∕'), terms={'x': dict(class_name='a.B', weight=HOSTILE)})
    write_lines(folder / 'stats.jsonl', [tick(0, **{f'Loss/{HOSTILE}': 1.0})])
    write_lines(folder / 'metric-fid5k_full.jsonl', [measurement(1000, 5.0, metric=HOSTILE)])
    for path in [
        run_page.write(str(folder)),
        compare_page.write([str(folder), str(make_run(tmp_path / 'b'))], str(tmp_path / 'c.html')),
    ]:
        found = read_page(path)
        assert [tag for tag, _ in found.tags].count('script') == 2 and 'b' not in [tag for tag, _ in found.tags]
        assert HOSTILE.replace('/', '∕') in found.text and HOSTILE in found.text
        assert HOSTILE in [panel['title'] for panel in found.data['panels']] or 'compare' in found.text


def test_names_that_are_no_text(tmp_path):
    folder = make_run(tmp_path / 'a')
    odd = tmp_path / b'\xff\xfe'.decode('utf-8', 'surrogateescape')
    folder.rename(odd)
    assert '<h1>??</h1>' in pathlib.Path(run_page.write(str(odd), str(tmp_path / 'x.html'))).read_text(encoding='utf-8')


def test_a_young_run(tmp_path):
    """Its options are written, and nothing else yet."""
    folder = make_run(tmp_path / 'run')
    for path in folder.iterdir():
        if path.name != 'training_options.json':
            path.unlink()
    found = read_page(run_page.write(str(folder)))
    assert (
        'The run is young' in found.text
        and 'There is no grid of samples yet' in found.text
        and found.data['panels'] == []
    )


@pytest.mark.parametrize(
    'name',
    [
        'training_options.json',
        'stats.jsonl',
        'reals.png',
        'fakes000002.png',
        'metric-fid5k_full.jsonl',
        'machine.jsonl',
        'log.txt',
    ],
)
@pytest.mark.parametrize('damage', ['gone', 'empty', 'half', 'bytes', 'list'])
def test_what_is_damaged_or_gone_is_missing_on_the_page(name, damage, tmp_path):
    folder = make_run(tmp_path / 'run')
    path = folder / name
    content = path.read_bytes()
    if damage == 'gone':
        path.unlink()
    else:
        path.write_bytes(
            dict(empty=b'', half=content[: len(content) // 2], bytes=b'\xff\x00\xfe' * 40, list=b'[1, "x", null]\n')[
                damage
            ]
        )
    found = read_page(run_page.write(str(folder)))
    assert 'What is trained on what' in found.text
    assert len(found.data['sets'][0]['frames']) == (4 if name == 'fakes000002.png' else 5)


def test_a_line_that_was_cut_off_costs_one_point(tmp_path):
    folder = make_run(tmp_path / 'run')
    with open(folder / 'stats.jsonl', 'r+b') as f:
        f.truncate((folder / 'stats.jsonl').stat().st_size - 20)
    assert len(run_folder.read(str(folder)).ticks) == 9


@pytest.mark.parametrize('value', [None, 3, 'text', [1], {'a': 1}, float('nan'), -1, 1e308, 10 ** 400])
def test_configurations_and_records_may_hold_anything(value, tmp_path):
    folder = make_run(tmp_path / 'run')
    keys = json.loads((folder / 'training_options.json').read_text())
    (folder / 'training_options.json').write_text(json.dumps(dict.fromkeys(keys, value)))
    write_lines(
        folder / 'stats.jsonl',
        [tick(0), {'Progress/kimg': value}, {'Progress/kimg': dict(mean=2, num=1), 'Loss/x': dict(mean=value)}],
    )
    for name in ('machine.jsonl', 'bad-steps.jsonl'):
        write_lines(folder / name, [dict(cur_nimg=value, device=value, phase=value)] * 3)
    write_lines(
        folder / 'metric-x.jsonl', [dict(measurement(1000, 1.0), **{key: value}) for key in measurement(1000, 1.0)]
    )
    other = make_run(tmp_path / 'other')
    assert read_page(run_page.write(str(folder))).data['kind'] == 'run'
    assert read_page(compare_page.write([str(folder), str(other)], str(tmp_path / 'c.html'))).data['kind'] == 'compare'


def test_what_is_no_run_is_refused(tmp_path):
    (tmp_path / 'empty').mkdir()
    for name, words in [('none', 'there is no such folder'), ('empty', 'is not the directory of a run')]:
        code, text = run_cli(report.main, str(tmp_path / name))
        assert (
            code == 1
            and words in text
            and text.startswith('Error: ')
            and len(set(text.splitlines())) <= 2
            and 'Traceback' not in text
        )
    run = str(make_run(tmp_path / 'run'))
    code, text = run_cli(report.main, 'compare', run, run)
    assert code == 1 and 'runs given: 1; name 2 to 8 different ones' in text
    code, text = run_cli(report.main, 'comprae', run, run)
    assert code == 1 and 'name one run; of several, python report.py compare RUN RUN makes one page' in text
    code, text = run_cli(report.main, f'{run}/stats.jsonl')
    assert code == 1 and f'is a file; name the directory of a run, such as {run}' in text
    code, text = run_cli(report.main, run, f'--out={tmp_path}/none/x.html')
    assert code == 1 and 'cannot be written' in text


def test_a_long_run_makes_a_page_of_less_than_15_mb(tmp_path):
    folder = make_run(tmp_path / 'run', ticks=0, frames=0, training_set_kwargs=dict(resolution=128))
    write_lines(folder / 'stats.jsonl', [tick(number) for number in range(3000)])
    rng = np.random.default_rng(0)
    noise = [PIL.Image.fromarray(rng.integers(0, 256, (640, 1024, 3), dtype=np.uint8)) for _ in range(2)]
    for number in range(150):
        path = folder / f'fakes{number:06d}.png'
        if number < 2:
            noise[number].save(path, compress_level=0)
        else:
            path.symlink_to(folder / f'fakes{number % 2:06d}.png')
    path = pathlib.Path(run_page.write(str(folder)))
    found = read_page(path)
    assert 5_000_000 < path.stat().st_size < 15_000_000
    losses = next(panel for panel in found.data['panels'] if panel['title'] == 'Losses')
    assert len(losses['x']) == 750 and losses['x'][-1] == 3000 and 'Each point is the mean of 4 ticks' in found.text
    assert losses['series'][0]['y'][:2] == [1.15, 1.55]              # means of 1.0 1.1 1.2 1.3 and of 1.4 1.5 1.6 1.7
    kimg = [frame['kimg'] for frame in found.data['sets'][0]['frames']]
    assert kimg[-1] == 149 and len(kimg) >= 10 and 'grids are left out here' in found.text


def test_only_the_first_images_of_large_grids_are_shown(tmp_path):
    folder = make_run(tmp_path / 'run', training_set_kwargs=dict(resolution=256))
    picture(folder / 'fakes000002.png', 'red', (10 * 256, 6 * 256))
    sheet = pictures.sheet(run_folder.read(str(folder)), 'fakes000002.png')
    assert PIL.Image.open(io.BytesIO(sheet)).size == (8 * 128, 5 * 128)
    small = pictures.sheet(run_folder.read(str(make_run(tmp_path / 'b'))), 'fakes000002.png')
    assert PIL.Image.open(io.BytesIO(small)).size == (4 * 64, 3 * 64) and SIDE < pictures.SMALLEST_CELL


def test_thinning_keeps_the_ends_and_leaves_out_the_same_as_a_run_grows():
    assert numbers.thinned(list(range(5)), 5) == [0, 1, 2, 3, 4] and numbers.thinned([], 3) == []
    assert numbers.thinned(list(range(10)), 4) == [0, 4, 8, 9]
    before, after = [set(numbers.thinned(list(range(count)), 10)[:-1]) for count in (70, 99)]
    assert {number for number in after if number < 70} <= before


def test_style_script_and_pictures_as_files(tmp_path):
    out = tmp_path / 'pages' / 'x.html'
    out.parent.mkdir()
    code, text = run_cli(
        report.main, str(make_run(tmp_path / 'run')), f'--out={out}', f'--assets={tmp_path}/with space'
    )
    assert code == 0, text
    found = read_page(out)
    addresses = {attributes[name] for _, attributes in found.tags for name in ('src', 'href') if name in attributes}
    assert addresses == {
        f'../with%20space/{name}' for name in ('report.css', 'report.js', 'fakes000004.jpg', 'reals.jpg')
    }
    names = {path.name for path in (tmp_path / 'with space').iterdir()}
    assert names == {
        'report.css',
        'report.js',
        'reals.jpg',
        'fakes_init.jpg',
        *[f'fakes00000{i}.jpg' for i in range(1, 5)],
    }
    assert [text for text in found.scripts if text.strip()] == [found.scripts[0]] and 'data:' not in out.read_text()


# -- what is said

def said(folder, finished=False):
    return {item['title']: item['level'] for item in advice.give(run_folder.read(str(folder)), finished)}


@pytest.mark.parametrize('changes, title', [
    ({'Health/overfitting': [0.1] * 7 + [0.7] * 3}, 'D overfits'),
    ({'Loss/signs/real': [0.6] * 7 + [0.95] * 3}, 'D is sure of every training image'),
    ({'Progress/augment': [0.1] * 7 + [0.85] * 3}, 'Augmentations may leak into the fakes'),
    ({'Health/copies': [0.0] * 7 + [0.3] * 3}, 'G copies training images'),
    ({'Health/repeats': [0.0] * 7 + [0.3] * 3}, 'Fakes repeat each other'),
    ({'KD/gradient_share': [1.0] * 7 + [12.0] * 3}, 'D learns the teacher and little else'),
    ({'KD/agreement_real': [0.8] * 7 + [0.6] * 3}, "D gives up the teacher's view"),
    ({'Progress/skipped_steps/Gmain': [0.0] * 7 + [0.1] * 3}, 'Steps are being left out'),
    ({'Timing/sec_per_kimg': [3.0] * 7 + [6.0] * 3}, 'The training has become slower')])
def test_advice(changes, title, tmp_path):
    """Each rule speaks where its statistic is bad now, and not where it was bad before."""
    folder = make_run(tmp_path / 'run', ada_target=0.6, values=[])
    (name, values), = changes.items()
    write_lines(folder / 'stats.jsonl', [tick(i, **{name: value}) for i, value in enumerate(values)])
    assert said(folder)[title] in ('act', 'watch') and 'Nothing stands out' not in said(folder)
    write_lines(folder / 'stats.jsonl', [tick(i, **{name: value}) for i, value in enumerate(sorted(values))])
    calm = values[:7] + [values[0]] * 3
    write_lines(folder / 'stats.jsonl', [tick(i, **{name: value}) for i, value in enumerate(calm)])
    assert said(folder) == {'Nothing stands out': 'good'}


@pytest.mark.parametrize('values, title', [
    ([30.0, 20.0], 'The last snapshot is the best so far'), ([20.0, 30.0], 'The best snapshot is not the last'),
    ([30.0, 20.0, 21.0, 22.0, 23.0], 'It has not got better lately')])
def test_advice_by_the_metric(values, title, tmp_path):
    assert title in said(make_run(tmp_path / 'run', values=values))


def test_advice_names_only_what_is_not_in_use(tmp_path):
    folder = make_run(
        tmp_path / 'run', augment_kwargs=dict(class_name='x.AugmentPipe'), training_set_kwargs=dict(xflip=True)
    )
    write_lines(folder / 'stats.jsonl', [tick(i, **{'Loss/signs/real': 0.95}) for i in range(3)])
    item, = [item for item in advice.give(run_folder.read(str(folder)), False) if item['level'] == 'watch']
    assert item['text'] == 'r_t is 0.95. It helps to have more data, `--kd`, a larger `--gamma`.'


def test_advice_names_the_snapshot_that_is_there(tmp_path):
    """The best one, of 2 kimg, has been deleted; of those that are left, that of 3 kimg is better than that of 5."""
    folder = make_run(tmp_path / 'run', values=[30.0, 20.0, 21.0, 22.0, 23.0])
    text = lambda: next(item['text'] for item in advice.give(run_folder.read(str(folder)), False)
                        if item['title'] == 'It has not got better lately')
    assert 'Use that snapshot.' in text()                           # nothing is known of the files: the run was moved
    for kimg in (3, 5):
        (folder / f'network-snapshot-{kimg:06d}.safetensors').write_bytes(b'')
    assert 'not in the folder any more; the best that is there is network-snapshot-000003.safetensors (21)' in text()
    found = read_page(run_page.write(str(folder)))
    assert 'network-snapshot-000002.safetensors (not in the folder)' in found.text
    (folder / 'network-snapshot-000002.safetensors').write_bytes(b'')
    assert 'Use that snapshot.' in text() and '(not in the folder)' not in read_page(run_page.write(str(folder))).text


def test_one_slow_tick_is_no_trend(tmp_path):
    """Neither in the advice nor in the speed of the table; its curve begins with a scale that shows the others."""
    folder = make_run(tmp_path / 'run', values=[])
    write_lines(folder / 'stats.jsonl', [tick(i, **{'Timing/sec_per_kimg': 300.0 if i == 9 else 3.0})
                                         for i in range(10)])
    run = run_folder.read(str(folder))
    assert said(folder) == {'Nothing stands out': 'good'} and dict(facts.machine(run))['seconds per kimg'] == '3'
    assert {panel['title']: panel['log'] for panel in curves.panels(run)[0]} == {
        'Is D overfitting?': False, 'Copies and repeats': False, 'Losses': False, 'Time': True, 'Memory': False}
    write_lines(folder / 'stats.jsonl', [tick(i, **{'Timing/sec_per_kimg': 6.0 if i > 6 else 3.0}) for i in range(10)])
    assert 'The training has become slower' not in said(folder, finished=True)


def test_commands_in_sentences():
    assert page.with_code('a `<b> --x` & c') == 'a <code>&lt;b&gt; --x</code> &amp; c'


def test_events_stand_where_they_happened(tmp_path):
    folder = make_run(tmp_path / 'run')
    write_lines(
        folder / 'bad-steps.jsonl', [dict(phase='Gmain', cur_nimg=nimg, rollbacks=0) for nimg in (2100, 2200, 3500)]
    )
    log = folder / 'log.txt'
    log.write_text(
        log.read_text() + 'Warning: 2 of 9 Gmain steps were left out: a gradient was infinite or NaN (x).\n'
        'Warning: the last 20 steps of Dmain up to 3.2 kimg were left out: a gradient was infinite or NaN. Back to 2 '
        'kimg, with 0.5 times the learning rate.\n'
        'Ended at 3 kimg by early_stop: fid5k_full has not got better in 5 evaluations.\n'
    )
    found = [(event['kimg'], event['kind'], event['text']) for event in events.collect(run_folder.read(str(folder)))]
    assert found == [
        (1, 'warning', 'Something is odd.'),
        (2, 'warning', 'A warning, which log.txt has in full.'),
        (2.1, 'skipped', '2 steps of Gmain left out: a gradient was infinite or NaN.'),
        (3, 'end', 'Ended: fid5k_full has not got better in 5 evaluations.'),
        (3.2, 'rollback', 'Back from 3.2 kimg to 2 kimg, learning rate times 0.5.'),
        (3.5, 'skipped', '1 step of Gmain left out: a gradient was infinite or NaN.'),
        (4, 'resume', 'Continued on A GPU.'),
    ]
    assert facts.progress(run_folder.read(str(folder)))['finished']


def test_the_time_that_is_left(tmp_path):
    """3 s per kimg of training and 2 s between ticks: 5 s for each of the 6 kimg that are left."""
    folder = make_run(tmp_path / 'run')
    write_lines(folder / 'stats.jsonl', [tick(i, **{'Timing/total_sec': 5.0 * i}) for i in range(4)])
    head = facts.progress(run_folder.read(str(folder)))
    assert (head['left'], head['finished'], head['share']) == ('30s', False, 0.4)


def test_groups_of_curves_name_each_statistic_once():
    names = [
        'Loss/signs/real',
        'Loss/scores/fake',
        'Loss/G/loss',
        'Loss/agkd_real',
        'Loss/KD/agkd_real',
        'Loss/D/reg',
        'Loss/r1_penalty',
        'Progress/apa_p',
        'Health/copies',
        'Health/overfitting',
        'KD/agreement_real',
        'KD/gradient_share',
        'KD/diversity_teacher',
        'CHAIN/p',
        'Timing/sec_per_kimg',
        'Timing/Dboth',
        'Resources/peak_gpu_mem_gb',
    ]
    for name in names:
        assert len([group for group in curves.GROUPS if curves.label_of(group, name)]) == 1, name


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
              texts_origin='x', seed=0,
              training_set_kwargs=data, settings=dict(weight_agkd=0.5, decay=None, texts='auto'))
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
