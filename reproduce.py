"""The tables of KD-DLGAN: python reproduce.py list; show CELL; run CELL --data=DIR; report"""

import shlex

import click

from dnnlib.commands import SETTINGS, Command, FiniteRange, device_option
from dnnlib.util import user_errors
from reproduction import cells, making, pages
from reproduction.commands import Plan
from reproduction.data_sets import DATA
from reproduction.paper import TABLES
from reproduction.systems import SYSTEMS

outdir_option = click.option('--outdir', help='Trainings, records and pages', default='reproduced', show_default=True,
                             metavar='DIR')


@click.group(context_settings=SETTINGS)
def main():
    """Make the values of tables 1 to 8 of KD-DLGAN (CVPR 2023), each by one command.

    \b
    reproduce.py list --table=2                             the cells and what is printed in them
    reproduce.py show table1/obama/da+kd                    data, training, protocol, what the paper leaves open
    reproduce.py run table1/obama/da+kd --data=datasets     trains, measures, writes it down; goes on if it was cut off
    reproduce.py report                                     a page for each table
    """


@main.command('list', context_settings=SETTINGS, short_help='List the cells and the printed values.')
@click.option('--table', help='Of one table alone', type=click.IntRange(1, len(TABLES)), metavar='INT')
def list_command(table):
    """List the cells of all tables with the values in print."""
    for number in [table] if table else TABLES:
        found = cells.all_cells(number)
        print(f'Table {number}: {TABLES[number].title}')
        width = max(len(cell.key) for cell in found)
        for cell in found:
            print(f'  {cell.key:{width}}  {cells.TITLES[cell.measure]:5} {cell.printed}')


@main.command('show', context_settings=SETTINGS, short_help='Show how a cell is made.')
@click.argument('cell', metavar='CELL')
def show_command(cell):
    """Show the data, the training and the protocol of a cell, and what the paper leaves open."""
    with user_errors():
        cell = cells.find(cell)
        data = DATA[cell.data]
        print(f'{cell.key}: {SYSTEMS[cell.system].title} on {data.title}\n'
              f'Printed:   {cells.TITLES[cell.measure]} {cell.printed}')
        for command in data.preparation:
            print(f'Data:      python {command}')
        print(f'Training:  python train.py --data={data.file} {shlex.join(cell.train_options())}\n'
              f'Measured:  {cell.metric()} against {data.reference or "the training images"}, '
              f'{pages.EVALUATIONS} times, of the snapshot with the best FID and of the last')
        for title, notes in (('Open', cell.open_points()), ('Otherwise', filter(None, [cell.departure()]))):
            for note in notes:
                print(f'{title + ":":10} {note}')


@main.command('run', cls=Command, context_settings=SETTINGS, short_help='Train and measure a cell.')
@click.argument('cell', metavar='CELL')
@click.option('--data', help='Folder with the files that `show` names', required=True, metavar='DIR')
@outdir_option
@click.option('--seeds', help='Trainings, with seeds from 0 on', default=pages.SEEDS,
              type=click.IntRange(1, making.FIRST_EVALUATION), show_default=True, metavar='INT')
@click.option('--evaluations', help='Of each snapshot, with fakes of their own', type=click.IntRange(min=1),
              default=pages.EVALUATIONS, show_default=True, metavar='INT')
@click.option('--scale', help='Below 1: so much of the length and of the fakes, with narrow networks, as a check of '
              'the path on a CPU', type=FiniteRange(0, 1, min_open=True), default=1.0, show_default=True,
              metavar='FLOAT')
@click.option('--teacher', help='In the place of CLIP, as --kd-teacher of train.py; the pages say so', metavar='NAME')
@click.option('--judge', help="Teacher whose features take the place of Inception's in the FID; the pages say so",
              metavar='NAME')
@click.option('--detector', help='Inception network, if it cannot be downloaded', metavar='FILE')
@click.option('--alexnet', help='AlexNet of LPIPS, if it cannot be downloaded', metavar='FILE')
@click.option('--lpips-heads', help='Linear heads of LPIPS, if they cannot be downloaded', metavar='FILE')
@device_option()
@click.option('--train-option', 'further', help='One more option of train.py, such as --gpus=4; may be given again; '
              'the pages name it', multiple=True, metavar='OPTION')
@click.option('-n', '--dry-run', help='Print the commands and what is missing, and exit', is_flag=True)
def run_command(cell, data, outdir, seeds, evaluations, scale, teacher, judge, detector, alexnet, lpips_heads, device,
                further, dry_run):
    """Train the seeds of a cell, measure each, and write it down. The same command goes on where it was cut off."""
    with user_errors():
        plan = Plan(cells.find(cell), data, outdir, scale, teacher, judge,
                    {'--detector': detector, '--alexnet': alexnet, '--lpips-heads': lpips_heads}, device, further,
                    dry_run)
        if dry_run:
            for seed in range(seeds):
                print(f'python {shlex.join(plan.train_command(seed))}')
            print(f'python {shlex.join(plan.measure_command("SNAPSHOT", making.FIRST_EVALUATION, "RUN"))}')
            for problem in plan.missing:
                print(f'Missing: {problem}')
            return
        making.make(plan, seeds, evaluations, lambda line: print(line, flush=True))
        print(f'On record in {outdir}; python reproduce.py report --outdir={shlex.quote(outdir)} makes the pages.')


@main.command('report', context_settings=SETTINGS, short_help='Make a page for each table.')
@outdir_option
def report_command(outdir):
    """Make a page for each table of which a cell is on record."""
    with user_errors():
        for path in pages.write(outdir):
            print(f'Saved {path}')


if __name__ == '__main__':
    main()
