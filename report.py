"""Pages about runs: python report.py RUN; python report.py compare RUN RUN; python report.py serve FOLDER"""

import click

from dnnlib import UserError
from dnnlib.commands import SETTINGS
from dnnlib.util import user_errors
from reporting import compare_page, run_page, serve


class RunOrCommand(click.Group):
    """`PROGRAM RUN` makes the page of a run; `PROGRAM NAME ...` is another command."""

    def parse_args(self, ctx, args):
        plain = args and args[0] not in self.commands and args != ['--help']
        return super().parse_args(ctx, ['page', *args] if plain else args)


assets_option = click.option('--assets', metavar='DIR', help='Folder for style, script and pictures as files, where a '
                             'content policy forbids them in the page')


@click.group(cls=RunOrCommand, subcommand_metavar='RUN | COMMAND ...', context_settings=SETTINGS)
def main():
    """Make pages about runs: curves, samples over time, metrics, what to do next.

    \b
    report.py runs/00000-cats                        report.html in its folder; train.py writes it at each snapshot, too
    report.py runs/00000-cats --out=cats.html        elsewhere
    report.py compare runs/00000-cats runs/00001-cats
    report.py serve runs                             all runs of a folder, as they are now

    A page is one file that needs no network. It shows training images, and names no folder, user or machine.
    """


@main.command('page', context_settings=SETTINGS, hidden=True)
@click.argument('runs', nargs=-1, metavar='RUN')
@click.option('--out', help='The page  [default: report.html in the folder of the run]', metavar='FILE')
@assets_option
def page_command(runs, out, assets):
    """Make the page of a run."""
    with user_errors():
        if len(runs) != 1:
            raise UserError(f'{", ".join(runs) or "no run"}: name one run; of several, '
                            'python report.py compare RUN RUN makes one page')
        run, = runs
        print(f'Saved {run_page.write(run, out, assets)}')


@main.command('compare', context_settings=SETTINGS, short_help='Make one page about several runs.')
@click.argument('runs', nargs=-1, required=True, metavar='RUN RUN ...')
@click.option('--out', help='The page', default=compare_page.PAGE_FILE, show_default=True, metavar='FILE')
@assets_option
def compare_command(runs, out, assets):
    """Make one page about 2 to 8 runs: curves over each other, values of equal protocol, options that differ."""
    with user_errors():
        print(f'Saved {compare_page.write(list(runs), out, assets)}')


@main.command('serve', context_settings=SETTINGS, short_help='Show all runs of a folder, as they are now.')
@click.argument('folder', metavar='FOLDER')
@click.option('--port', help=f'Port  [default: the first free one from {serve.PORT} on]', type=click.IntRange(1, 65535),
              metavar='INT')
def serve_command(folder, port):
    """Show all runs of a folder in a browser on this machine, as they are now; Ctrl-C ends it.

    From another machine: ssh -L 8765:localhost:8765 HOST, and the same address there.
    """
    with user_errors():
        server = serve.start(folder, port)
        try:
            print(f'Serving {folder} at {server.address} (this machine only). Ctrl-C ends it.', flush=True)
            server.serve_forever()
        except KeyboardInterrupt:
            print('\nEnded.')
        finally:
            server.server_close()


if __name__ == '__main__':
    main()
