"""The pages about runs as files: what they say of made-up runs, and what becomes of folders that lack something."""

import base64
import hashlib
import io
import json
import pathlib
import re

import numpy as np
import PIL.Image
import pytest
from conftest import run_cli
from made_runs import COLOURS, SIDE, make_run, measurement, picture, tick, write_lines
from page_reader import read_page

import report
from reporting import compare_page, numbers, pictures, run_folder, run_page
from training.run import find as find_run
from training.run import machine

HOSTILE = '</script><script>alert(1)</script> "quoted" \'single\' & <b>bold</b> 😀'


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
