"""model_card.md says what the files of a run say, and of the rest that it is not there."""

import json
import re

import pytest
import torch
from card_runs import KWARGS, make_run, measured
from conftest import parse_options, shrink
from measuring import make_data

import train
from dnnlib import UnusableFile, UserError
from inference import trained_on
from metrics import metric_main
from training.dataset import ImageFolderDataset
from training.dataset.folder import chosen_kwargs
from training.launch import launch
from training.methods.lecam import LeCam
from training.networks import Generator
from training.run import card as model_card
from training.run import files as run_files
from training.snapshots import files as snapshots
from training.snapshots import info as snapshot_info


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return make_data(tmp_path_factory.mktemp('data') / 'photos.zip')


def rows(card):
    """The tables of two columns, as a dictionary."""
    return dict(re.findall(r'^\| ([^|]+) \| ([^|]+) \|$', card, re.M))


def test_the_card_says_what_was_set_and_what_came_out(tmp_path, data):
    card = model_card.make_card(make_run(tmp_path / '00000-photos', data))
    dataset = ImageFolderDataset(**{key: value for key, value in data.items() if key != 'class_name'})
    expected = {
        'name': 'photos', 'SHA-256 of the content as trained on': dataset.content_hash(), 'images': '12',
        'resolution': '16', 'mirrored images added': 'yes', 'labels used': 'no', 'classes': 'class0, class1, class2',
        'made by': 'not recorded', 'length': '24 kimg', 'batch': '17', 'learning rate': '0.0031', 'R1 weight': '0.77',
        'half-life of the weight average': '2.5 kimg', 'precision': 'float16 and float32',
        'augmentation': 'ADA, target 0.61; probability at the end 0.240; scale, hue', 'distillation': 'agkd',
        'teacher': 'teacher.safetensors', 'its settings and those of the methods': 'weight_agkd 0.44, texts auto',
        'started from': 'start.safetensors', 'seed': '99', 'processes': '2 on cuda', 'time': '24m 00s'}
    assert rows(card) == expected
    assert ('# 00000-photos' in card and '![samples](fakes000024.png)' in card
            and 'Licence of the weights: not stated.' in card)
    assert ('unconditional, 16x16 RGB, trained on 12 images with knowledge distillation from a vision-language teacher '
            '(agkd).' in card)


def test_the_card_names_further_methods_and_other_augmentations(tmp_path, data):
    terms = dict(lecam=dict(class_name='training.methods.lecam.LeCam', weight=1e-6),
                 apa=dict(class_name='training.methods.apa.APA', kimg=500, target=0.5),
                 vision_aided=dict(class_name='kd_plugin.x.VisionAided',
                                   teachers=['ViT-B/32', '/somewhere/own.safetensors']))
    augment = dict(class_name='training.augment.diffaugment.DiffAugment', policy='color,cutout')
    card = rows(model_card.make_card(make_run(tmp_path / '00000-photos', data, terms=terms, augment_kwargs=augment,
                                              ada_target=None)))
    assert card['augmentation'] == 'DiffAugment: policy color,cutout'
    assert card['further methods'] == ('LeCam: weight 1e-06; APA: kimg 500, target 0.5; '
                                       'VisionAided: teachers ViT-B/32, own.safetensors')


def test_a_method_says_for_itself_what_the_card_has(tmp_path, data, monkeypatch):
    """Classes of other packages, which anybody's snapshot may name, are not imported: they are listed as they are."""
    (tmp_path / 'foreign_methods.py').write_text('raise SystemExit')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(LeCam, 'card_rows', classmethod(lambda cls, kwargs, stats: [
        ('anchor weight', kwargs['weight']), ('at the end', stats['Progress/augment']['mean'])]))
    monkeypatch.setattr(LeCam, 'summary', classmethod(lambda cls, kwargs: 'anchors'))
    monkeypatch.setattr(LeCam, 'tag', 'anchored')
    terms = dict(lecam=dict(class_name='training.methods.lecam.LeCam', weight=3),
                 other=dict(class_name='foreign_methods.Other', n=4),
                 function=dict(class_name='training.launch.launch'), nothing=dict(class_name='training'))
    card = model_card.make_card(make_run(tmp_path / '00000-photos', data, terms=terms))
    assert (rows(card)['anchor weight'], rows(card)['at the end']) == ('3', '0.24')
    assert rows(card)['further methods'] == 'Other: n 4; launch: ; training:'
    assert 'trained on 12 images with anchors.' in card and '"anchored"]' in card and 'distillation' not in card


def test_the_card_says_what_the_weights_of_distillation_came_to(tmp_path, data):
    snapshot = make_run(tmp_path / 'run', data)
    tick = {'Progress/kimg': dict(mean=24.),
            'KD/gradient_share': dict(mean=0.51234), 'KD/weight_factor': dict(mean=0.025)}
    (tmp_path / 'run' / 'stats.jsonl').write_text(json.dumps(tick) + '\n')
    card = rows(model_card.make_card(snapshot))
    assert card["its gradient in D relative to the adversarial loss's, at the end"] == '0.512'
    assert card['factor on its weights, at the end'] == '0.025'


def test_what_is_not_there_is_not_invented(tmp_path, data):
    snapshot = make_run(tmp_path / 'run', dict(data, path='/gone.zip'))
    for name in ('stats.jsonl', 'fakes000024.png'):
        (tmp_path / 'run' / name).unlink()
    card = model_card.make_card(snapshot)
    assert {rows(card)[key] for key in ('name', 'images', 'SHA-256 of the content as trained on',
                                        'time')} == {'not recorded'}
    assert 'probability at the end not recorded' in card and '![' not in card and 'model-index' not in card
    assert ('| fid7_full |  | not measured | not measured |' in card
            and '| fid9_full |  | not measured | not measured |' in card)


def test_a_snapshot_that_says_nothing(tmp_path):
    """As legacy.py makes it of a pickle."""
    G = Generator(**{key: value for key, value in KWARGS.items() if key != 'class_name'})
    snapshots.save_networks(str(tmp_path / 'x.safetensors'), dict(G_ema=G), dict(G_ema=KWARGS), {})
    card = model_card.make_card(str(tmp_path / 'x.safetensors'), title='x')
    assert (set(rows(card).values()) == {'not recorded'} and 'Not measured.' in card
            and 'unconditional, 16x16 RGB.' in card)


def test_metrics_last_and_best_by_protocol(tmp_path, data):
    folder = tmp_path / 'run'
    snapshot = make_run(folder, data)
    # 36 kimg: later than the snapshot
    for value, kimg in [(30.0, 8), (20.5, 12), (None, 16), (25.25, 24), (1.0, 36)]:
        measured(folder, value, kimg)
    measured(folder, 21.0, 24, seed=5)
    measured(folder, 2.0, 24, snapshot='../network-snapshot-000024.safetensors')        # of another folder
    measured(folder, None, 24, metric='clipfid7_full')
    card = model_card.make_card(snapshot)
    assert ('| metric, lower is better if nothing is said | protocol | this snapshot, 24 kimg | best snapshot of the '
            'run |' in card)
    assert re.findall(r'^\| (\S*fid.*) \|$', card, re.M) == [
        'clipfid7_full | 1 | NaN | NaN',
        'fid7_full | 2 | 25.25 | 20.5 at 12 kimg, of 4 measured', 'fid7_full | 3 | 21 | 21 at 24 kimg, of 1 measured',
        'fid9_full |  | not measured | not measured']
    assert ('3. fid7_full: 7 generated images (seed 5, truncation psi 1, noise random, labels none) against 12 real '
            'ones of photos (as they are, SHA-256 c0ffeec0ffeec0ff...); features of sha256:12ab, resize inside the '
            'detector; covariances over n; torch 2.13.0 on cpu, 2026-01-02') in card
    assert 'no impartial judge' in card
    measured(folder, 24.0, 24)                                                          # again: the newest counts
    assert 'fid7_full | 2 | 24 | 20.5 at 12 kimg, of 4 measured' in model_card.make_card(snapshot)


WRONG = [('value', 'low'), ('value', True), ('value', float('nan')), ('value', 10 ** 400), ('snapshot', None),
         ('snapshot', 5), ('cur_nimg', '24'), ('cur_nimg', 10 ** 400), ('metric', ['fid7_full']),
         ('metric', 'fid9_full'), ('date', 20260102), ('torch', None), ('device', {}), ('detector', 'toy'),
         ('reference', []), ('generated', None), ('reference.dataset', 'a\nb'), ('reference.content_hash', 12),
         ('reference.mirrored', 0), ('generated.seed', 0.5), ('detector.identity', None)]


def test_lines_that_are_no_records_are_left_out(tmp_path, data):
    snapshot = make_run(tmp_path / 'run', data)
    measured(tmp_path / 'run', 25.25, 24)
    want = model_card.make_card(snapshot)
    path = tmp_path / 'run' / 'metric-fid7_full.jsonl'
    good = json.loads(path.read_text())
    lines = ['5', 'null', '"text"', '[]', '{}', '', '{"metric": ', '[' * 100_000, '1' * 5000]
    for name, wrong in WRONG:
        record = json.loads(json.dumps(good))
        outer, _, inner = name.partition('.')
        (record[outer] if inner else record)[inner or outer] = wrong
        lines.append(json.dumps(record))
        record = json.loads(json.dumps(good))
        del (record[outer] if inner else record)[inner or outer]
        lines.append(json.dumps(record))
    for line in lines:
        path.write_text(json.dumps(good) + '\n' + line + '\n')
        assert model_card.make_card(snapshot) == want, line
    path.write_bytes(json.dumps(good).encode() + b'\n\xff\xfe\n')
    assert model_card.make_card(snapshot) == want
    (tmp_path / 'run' / 'metric-fid9_full.jsonl').write_text('5\n{}\n')
    assert run_files.unmeasured(str(tmp_path / 'run'), snapshot, ['fid7_full', 'fid9_full'],
                                24_000) == ['fid9_full']


def test_the_header_is_what_the_hub_reads(tmp_path, data):
    huggingface_hub = pytest.importorskip('huggingface_hub')
    snapshot = make_run(tmp_path / 'run', data, init_from='ffhq256')
    measured(tmp_path / 'run', 25.25, 24)
    card = huggingface_hub.ModelCard(model_card.make_card(snapshot, title='a: "b"'))
    result, = card.data.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ('fid7_full', 25.25, 'photos')
    assert (card.data.license, card.data.library_name, card.data.model_name) == ('other', 'kd-dlgan', 'a: "b"')
    assert (card.data.tags == ['gan', 'stylegan2-ada', 'kd-dlgan']
            and '`ffhq256`, which NVIDIA publishes for non-commercial use only' in card.text)


@pytest.mark.parametrize('c_dim', [0, 3])
def test_the_lines_of_use_run(c_dim, tmp_path, data, monkeypatch):
    card = model_card.make_card(make_run(tmp_path / 'run', data, c_dim=c_dim))
    monkeypatch.chdir(tmp_path / 'run')
    names = {}
    exec(re.search('```python\n(.*?)```', card, re.S)[1], names)
    assert names['img'].shape == (4, 3, 16, 16) and names['img'].isfinite().all()


def test_names_from_a_data_set_cannot_break_the_table(tmp_path, data):
    facts = dict(name='a|b\n# c', record=dict(source='x|y', left_out=3))
    snapshot = make_run(tmp_path / 'run', data)
    info = dict(cur_nimg=1, dataset=facts)
    snapshots.save_networks(snapshot, dict(G_ema=torch.nn.Module()), dict(G_ema=KWARGS), info)
    card = model_card.make_card(snapshot)
    assert '| name | a\\|b # c |' in card and '| made by | source x\\|y; left out 3 |' in card


def test_a_directory_without_snapshots(tmp_path):
    with pytest.raises(UserError, match='there is no network-snapshot-....safetensors in it; name the directory '
                                        'of a run'):
        model_card.write_model_card(str(tmp_path))


def test_a_finished_run_writes_its_card(tiny_data, tmp_path):
    config, _name = train.build_config(parse_options(f'--outdir={tmp_path}', f'--data={tiny_data}', '--cfg=demo',
                                                     '--device=cpu', '--workers=0', '--batch=8', '--kimg=0.016',
                                                     '--tick=0.008', '--snap=1', '--metrics=clipfid8_full', '--aug=ada',
                                                     '--metric-teacher=demo'))
    run_dir = tmp_path / '00000-tiny'
    launch(shrink(config), str(run_dir))
    card = (run_dir / 'model_card.md').read_text()
    record = [json.loads(line) for line in (run_dir / 'metric-clipfid8_full.jsonl').read_text().splitlines()]
    assert [r['cur_nimg'] for r in record] == [8, 16]
    best = min(record, key=lambda r: r['value'])
    assert (f'| clipfid8_full | 1 | {record[1]["value"]:.4g} | {best["value"]:.4g} at {best["cur_nimg"] / 1000:g} '
            'kimg, of 2 measured |' in card)
    assert (rows(card)['name'] == 'tiny' and rows(card)['started from'] == 'random weights'
            and '![samples](fakes000000.016.png)' in card)
    assert metric_main.is_valid_metric('clipfid8_full') and str(tmp_path) not in card


class Watched(dict):
    """A table of a record that notes which of its entries are asked for, by name: 'options.loss_kwargs.r1_gamma'."""

    def __init__(self, table, where, read):
        watched = lambda key, value: Watched(value, f'{where}.{key}', read) if isinstance(value, dict) else value
        super().__init__({key: watched(key, value) for key, value in table.items()})
        self.where, self.read = where, read

    def __getitem__(self, key):
        self.read.add(f'{self.where}.{key}')
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.read.add(f'{self.where}.{key}')
        return super().get(key, default)

    def __contains__(self, key):
        self.read.add(f'{self.where}.{key}')
        return super().__contains__(key)


def has_form(path, form):
    """Whether `path` ('a.b') leads to a form within that of a table."""
    key, _, rest = path.partition('.')
    if isinstance(form, snapshot_info.Each):
        return not rest or any(has_form(rest, inner) for inner in (form.form, *form.by_class.values()))
    inner = form.get(key)
    return inner is not None and (not rest or has_form(rest, inner))


def test_every_option_that_is_read_has_a_form(tmp_path, data, monkeypatch):
    """What the card and the readers of the training set ask a snapshot for, its types were looked at before."""
    read = set()
    as_they_are = lambda: [monkeypatch.setattr(model_card, name, lambda table: table)
                           for name in ('without_folders', 'as_now')]
    as_they_are()
    for i, changes in enumerate([{}, dict(ada_target=None, augment_ramp_kimg=300, augment_p=0.5),
                                 dict(ada_target=None, augment_p=0.2),
                                 dict(terms=dict(lecam=dict(class_name='training.methods.lecam.LeCam', weight=1))),
                                 dict(found_out=dict(fork_origin=dict(run='x', cur_nimg=8000, checksum='12ab')))]):
        path = make_run(tmp_path / f'{i:05d}-photos', data, **changes)
        info = snapshots.load_info(path)
        info['training']['options'] = Watched(info['training']['options'], 'options', read)
        monkeypatch.setattr(snapshots, 'load_info', lambda path, info=info: info)
        model_card.make_card(path)
        monkeypatch.undo()
        as_they_are()
        training_set, _ = trained_on.metric_set(path, info)
        chosen_kwargs(training_set)
        trained_on.measured_with(info)
    assert {'options.augment_ramp_kimg', 'options.terms.lecam.class_name'} <= read
    assert 'options.training_set_kwargs.val_fraction' in read
    assert [path for path in sorted(read) if not has_form(path, dict(options=snapshot_info.OPTIONS))] == []


HISTORY = [dict(event='rollback', cur_nimg=9, to=8, lr_factor=0.5, phase='D')]


@pytest.mark.parametrize('change, problem', [
    (dict(augment_ramp_kimg='x'), "augment_ramp_kimg is 'x', which it cannot be"),
    (dict(metric_kwargs=dict(batch_norm=3)), "batch_norm is '3', which it"),
    (dict(augment_p=[]), r"augment_p is '\[\]', which it"),
    (dict(augment_kwargs={}), 'augment_kwargs has no class_name'),
    (dict(terms=dict(lecam={})), 'lecam has no class_name'),
    (dict(terms=dict(x=dict(class_name='kd_plugin.loss.Distillation', methods=3))), "methods is '3', which it"),
    (dict(terms=dict(lecam=3)), "lecam is '3', which it"), (dict(terms=[]), r"terms is '\[\]', which it"),
    (dict(found_out=dict(fork_origin=dict(run='x'))), 'fork_origin has no cur_nimg'),
    (dict(history=[{}]), 'history has no event'),
    (dict(history=[dict(HISTORY[0], lr_factor='x')]), "lr_factor is 'x', which it"),
    (dict(history=[dict(event='rollback')]), 'history has no cur_nimg')])
def test_records_that_lack_what_a_card_needs(change, problem, tmp_path, data):
    path = make_run(tmp_path / '00000-photos', data)
    info = snapshots.load_info(path)
    info['training']['history'] = change.pop('history', HISTORY)
    info['training']['options'].update(change)
    with pytest.raises(UnusableFile, match=problem):
        snapshot_info.check(info)
    whole = dict(info, training=dict(info['training'], options={}, history=HISTORY))
    assert snapshot_info.check(whole)['training']['history'] == HISTORY
