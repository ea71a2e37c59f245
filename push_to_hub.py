"""Publish a trained network on the Hugging Face Hub: python push_to_hub.py --run=runs/00000-cats --repo=user/cats"""

import glob
import json
import os
import tempfile

import click

from dnnlib import UserError, metric_records
from dnnlib.commands import SETTINGS, Command
from dnnlib.published import without_folders
from dnnlib.util import format_bytes, user_errors
from inference.trained_on import refuse_vectors
from torch_utils import checkpoint
from training.run import card as model_card
from training.snapshots import files as snapshots
from training.snapshots import hub
from viewing import space as viewer_space


def choose_snapshot(run, network):
    """The file to publish. Raises UserError if there is none, or it is no snapshot of this project."""
    if (run is None) == (network is None):
        raise UserError('give one of --run=DIR and --network=FILE')
    if run is not None and not os.path.isdir(run):
        raise UserError(f'--run={run}: there is no such folder; name the directory of a run')
    path = model_card.last_snapshot(run) if run is not None else network
    if not path.endswith('.safetensors'):
        raise UserError(f'--network={network}: only .safetensors files are published; convert it with legacy.py')
    if 'G_ema' not in snapshots.load_info(path)['networks']:
        raise UserError(f'{path}: there is no G_ema in it; name a network-snapshot-....safetensors of train.py')
    return path


def note_on_better(run, snapshot):
    """A line if another snapshot of the run has a better value of its first metric, by the same protocol; else None."""
    metrics = snapshots.load_info(snapshot)['training'].get('options', {}).get('metrics') or []
    records = [record for record in (metric_records.read_metric(run, metrics[0]) if metrics else [])
               if os.path.isfile(os.path.join(run, str(record.get('snapshot'))))]
    own = next((record for record in reversed(records) if record['snapshot'] == os.path.basename(snapshot)), None)
    best = metric_records.best(metric_records.comparable(own, records)[0]) if own else None
    if best is None or best['value'] == own['value']:
        return None
    values = [metric_records.number(record['value']) for record in (best, own)]
    return (f'Note: this is the last snapshot, and {best["snapshot"]} has the better {metrics[0]}: {values[0]} against '
            f'{values[1]}; to publish that one, use --network={os.path.join(run, best["snapshot"])}')


def collect(snapshot, repo, folder):
    """{name in the repository: bytes, or path}: card, snapshot, its samples, all metric records of the run. folder: for
    the published snapshot."""
    published = os.path.join(folder, hub.MODEL_FILE)
    tensors, info = checkpoint.load(snapshot, 'network')
    checkpoint.save(published, 'network', tensors, without_folders(info))               # older snapshots hold folders
    card = model_card.make_card(snapshot, title=repo.split('/')[1], load_as=f'hf:{repo}')
    samples = model_card.samples_of(snapshot)
    pictures = {} if samples is None else {os.path.basename(samples): samples}
    records = records_of(os.path.dirname(os.path.abspath(snapshot)))
    return {'README.md': card.encode(), hub.MODEL_FILE: published} | pictures | records


def records_of(run):
    """{metric-NAME.jsonl: bytes} of the snapshots of a run; networks outside the folder are named by a path."""
    found = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(run), 'metric-*.jsonl'))):
        here = lambda record: os.path.basename(str(record.get('snapshot'))) == record.get('snapshot')
        lines = [json.dumps(without_folders(record)) + '\n'
                 for record in metric_records.read_lines(path) if here(record)]
        found[os.path.basename(path)] = ''.join(lines).encode()
    return {name: content for name, content in found.items() if content}


def describe(found):
    """A line for each file."""
    size = lambda content: format_bytes(len(content) if isinstance(content, bytes) else os.path.getsize(content))
    return [f'  {name:<30} {size(content):>10}' for name, content in found.items()]


@click.command(cls=Command, context_settings=SETTINGS)
@click.option('--run', help='Directory of a run; its last snapshot is published; a better one is named', metavar='DIR')
@click.option('--network', help='A snapshot to publish instead', metavar='FILE')
@click.option('--repo', help='Repository on the Hub; made where it does not exist', required=True, metavar='USER/NAME')
@click.option('--private', help='Make a new repository private', is_flag=True)
@click.option('--space', help='Publish a Space of the same name, too: a page to play with the network', is_flag=True)
@click.option('-n', '--dry-run', help='List the files, print the card, and exit', is_flag=True)
def main(**opts):
    """Upload a snapshot with its model card, samples and metric records to the Hugging Face Hub.

    It is then loaded with --network=hf:USER/NAME. Its metadata hold all options of the training; of files and folders
    only the names. A Space (docs/viewer.md) holds no network: it loads the one that was published.
    """
    with user_errors():
        push(**opts)


def push(run, network, repo, private, space, dry_run):
    """What the command does; options as of the command."""
    if not hub.is_repo(repo):
        raise UserError(f'--repo={repo}: must be USER/NAME, of letters, digits, and - _ . between them')
    snapshot = choose_snapshot(run, network)
    if space:
        refuse_vectors(snapshots.load_info(snapshot), '--space', 'leave it out')
    if run is not None and (note := note_on_better(run, snapshot)):
        print(note)
    with tempfile.TemporaryDirectory() as folder:
        found = collect(snapshot, repo, folder)
        print('\n'.join([f'Files for hf:{repo}, from {snapshot}:', *describe(found)]))
        page = viewer_space.collect(repo) if space else {}
        if space:
            print(f'Files for the Space {repo}: {", ".join(name for name in page if "/" not in name)}, and '
                  f'{len(viewer_space.code())} of the code')
        if dry_run:
            print(f'\n{found["README.md"].decode()}\nDry run; nothing was uploaded.')
        else:
            print(f'Uploaded: {hub.upload(repo, found, private, f"Upload {os.path.basename(snapshot)}")}')
            if space:
                print(f'Uploaded: {hub.upload(repo, page, private, "Upload the viewer", space=True)}')


if __name__ == '__main__':
    main()
