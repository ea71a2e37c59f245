"""Makes a cell: trains its seeds, measures the best and the last snapshot of each several times, writes it down."""

import json
import os

from dnnlib import files, metric_records

from .commands import call

RECORDS = 'records.jsonl'
# Seeds of the evaluations; below are those of trainings, whose own measurements, with the same seed, choose the best
FIRST_EVALUATION = 1000


def read(outdir):
    """All that is on record in a folder."""
    return metric_records.read_lines(os.path.join(outdir, RECORDS))


def done(plan, seed, evaluations):
    """Whether a seed is on record as it is planned."""
    wanted = _facts(plan, seed)
    return any(all(record.get(name) == value for name, value in wanted.items())
               and all(len(part['values']) >= evaluations for part in record['measured'].values())
               for record in read(plan.outdir))


def make(plan, seeds, evaluations, tell=print):
    """Trains and measures what is not on record; a training that was cut off goes on. Raises UserError."""
    for seed in range(seeds):
        if done(plan, seed, evaluations):
            tell(f'{plan.cell.key}, seed {seed}: on record')
            continue
        if plan.try_command(seed):
            tell(f'{plan.cell.key}: is everything there that {plan.cell.measure} needs?')
            call(plan.try_command(seed))
        tell(f'{plan.cell.key}, seed {seed}: training')
        call(plan.train_command(seed))
        networks = plan.snapshots(seed)
        values = {network: _measure(plan, seed, network, evaluations) for network in dict.fromkeys(networks.values())}
        measured = {which: values[network] for which, network in networks.items()}
        files.make_dir(plan.outdir)
        _write(plan.outdir, dict(_facts(plan, seed), measured=measured))


def _facts(plan, seed):
    return dict(plan.facts(), measure=plan.cell.measure, metric=plan.cell.metric(plan.scale, plan.judge), seed=seed)


def _measure(plan, seed, network, evaluations):
    """-> dict(snapshot, kimg, values, protocol): one value for each evaluation, which draws its own fakes."""
    found = [_evaluation(plan, seed, network, number) for number in range(evaluations)]
    protocol = {key: value for key, value in metric_records.protocol_of(found[0]).items() if 'seed' not in key}
    return dict(snapshot=os.path.basename(network), kimg=(found[0].get('cur_nimg') or 0) / 1000,
                values=[record['value'] for record in found], protocol=protocol)


def _evaluation(plan, seed, network, number):
    """The record of it, which may be in the folder of the run from a call that was cut off."""
    name, drawn = plan.cell.metric(plan.scale, plan.judge), FIRST_EVALUATION + number
    read = lambda: [record for record in metric_records.read_metric(plan.evaluations(seed), name)
                    if os.path.basename(record['snapshot']) == os.path.basename(network)
                    and record['generated']['seed'] == drawn]
    if not read():
        call(plan.measure_command(network, drawn, plan.evaluations(seed)))
    return read()[-1]


def _write(outdir, record):
    """Adds a line; one of the same facts with fewer evaluations goes."""
    facts = {name: value for name, value in record.items() if name != 'measured'}
    others = [line for line in read(outdir) if any(line.get(name) != value for name, value in facts.items())]
    files.write_text(os.path.join(outdir, RECORDS), ''.join(json.dumps(line) + '\n' for line in [*others, record]))
