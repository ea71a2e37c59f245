"""The page: what a visitor can choose, and which pictures answer. Names of files appear in labels alone, which are
text."""

import functools
import html
import os
import shutil
import tempfile

import gradio as gr

from dnnlib import UserError
from inference import latents as sampling

from .networks import PARTS, Look

TITLE = 'Generator'
STYLE = '''
:root, .dark { --block-info-text-color: var(--body-text-color) }
/* Above a picture, not over it */
[data-testid="block-label"] { position: static; width: fit-content; min-height: 2rem }
.icon-button-wrapper.top-panel { top: -2rem }
'''
EACH_ROW = 'one for each row'
LARGEST_SEED = 2 ** 32 - 1
MOST_SEEDS = 16                 # that a visitor may write into a field


def answered(function):
    """What a user can mend is shown in the page instead of pictures."""
    @functools.wraps(function)
    def answer(*args):
        try:
            return function(*args)
        except UserError as err:
            # It takes HTML, and the message quotes names of files and what the visitor wrote
            raise gr.Error(html.escape(str(err), quote=False), print_exception=False) from err
    return answer


class Page:
    """Gradio's page about networks.

    Args:
        networks: `networks.Network`s.
        real:     {name of a network: `networks.Real`} for those that have training images.
        folder:   for files that a visitor asks for.
    """

    style = STYLE

    def __init__(self, networks, real, folder):
        self.networks, self.real, self.folder = {network.name: network for network in networks}, real, folder
        self.made = None            # the latest folder in it
        # On small machines two networks at work at once are slower than one after the other
        self.one_at_a_time = dict(concurrency_id='networks', concurrency_limit=1, api_visibility='private')
        with gr.Blocks(title=TITLE, analytics_enabled=False, delete_cache=(3600, 3600)) as self.blocks:
            gr.Markdown(f'# {TITLE}')
            with gr.Row():
                with gr.Column(scale=1, min_width=260):
                    self.look = self._look()
                with gr.Column(scale=4), gr.Tabs():
                    self._grid_tab()
                    self._mixing_tab()
                    self._walk_tab()
                    self._neighbors_tab()

    def having(self, ability):
        """Names of the networks that have it."""
        return [name for name, network in self.networks.items() if ability in network.abilities]

    def _look(self):
        """Psi, class and noise, as far as any of the networks knows them."""
        names = [network.class_names or [] for network in self.networks.values()]
        most = max(network.G.c_dim for network in self.networks.values())
        classes = [(EACH_ROW, -1), *((_class_label(k, names), k) for k in range(most))]
        return [gr.Slider(-1, 2, 1, step=0.05, label='Truncation psi', info='1 = none, less = more typical',
                          visible=bool(self.having('truncation'))),
                gr.Dropdown(classes, value=-1, label='Class', visible=most > 0),
                gr.Checkbox(True, label='Noise of the layers', visible=bool(self.having('noise')))]

    def _choice(self, names):
        """Which network a tab works with."""
        return gr.Dropdown(names, value=names[0], label='Network', visible=len(self.networks) > 1)

    def _grid_tab(self):
        with gr.Tab('Seeds'):
            with gr.Row():
                seed, columns, rows = (gr.Number(0, precision=0, minimum=0, maximum=LARGEST_SEED, label='First seed'),
                                       gr.Slider(1, 8, 4, step=1, label='Columns'),
                                       gr.Slider(1, 8, 2, step=1, label='Rows'))
            more = gr.Button('Other seeds')
            with gr.Row():
                pictures = [_picture(name, f'Images of {name}') for name in self.networks]
            chosen = [seed, columns, rows, *self.look]
            gr.on([self.blocks.load, *(control.change for control in chosen)], self.grids, chosen, pictures,
                  trigger_mode='always_last', **self.one_at_a_time)
            more.click(next_seed, chosen[:3], seed, api_visibility='private')
            with gr.Row():
                network = self._choice(list(self.networks))
                button = gr.Button('Make files: images as PNG' + (', latents w' if self.having('w') else ''))
            files = gr.File(label='Files', file_count='multiple', visible=False)
            button.click(self.files, [network, *chosen], files, **self.one_at_a_time)

    def _mixing_tab(self):
        names = self.having('style_mixing')
        if not names:
            return
        with gr.Tab('Mix styles') as tab:
            network = self._choice(names)
            with gr.Row():
                seeds = [gr.Number(seed, precision=0, minimum=0, maximum=LARGEST_SEED, label=label)
                         for seed, label in enumerate(('Seed A', 'Seed B'))]
                part = gr.Radio(PARTS, value=PARTS[0], label='Layers that change places')
            button = gr.Button('Mix')
            picture = _picture('A, B, A with these layers of B, B with these layers of A',
                               'Two images and their mixtures')
            gr.on([tab.select, button.click, part.change], self.mixtures, [network, *seeds, part, *self.look], picture,
                  trigger_mode='always_last', **self.one_at_a_time)

    def _walk_tab(self):
        with gr.Tab('Walk') as tab:
            network = self._choice(list(self.networks))
            with gr.Row():
                seeds = gr.Textbox('0,1,2', label='Seeds on the way')
                steps = gr.Slider(5, 120, 30, step=1, label='Frames from seed to seed')
            place = gr.Slider(0, 1, 0, step=0.01, label='On the way from the first to the last')
            button = gr.Button('Make a video, there and back')
            with gr.Row():
                picture = _picture('There', 'Image on the way')
                video = gr.Video(label='Video', loop=True, autoplay=True, interactive=False, buttons=['download'])
            gr.on([tab.select, place.change, seeds.submit], self.on_the_way, [network, seeds, place, *self.look],
                  picture, trigger_mode='always_last', **self.one_at_a_time)
            button.click(self.video, [network, seeds, steps, *self.look], video, **self.one_at_a_time)

    def _neighbors_tab(self):
        if not self.real:
            return
        with gr.Tab('Nearest photos'):
            network = self._choice(list(self.real))
            with gr.Row():
                seeds = gr.Textbox('0-3', label='Seeds')
                nearest = gr.Slider(1, 8, 4, step=1, label='Photos beside each')
            button = gr.Button('Find')
            picture = _picture('At the left an image, then the training images nearest to it',
                               'Images beside the training images nearest to them')
            button.click(self.neighbors, [network, seeds, nearest, *self.look], picture, **self.one_at_a_time)

    # -- what happens; the last three arguments are psi, class and noise

    @answered
    def grids(self, seed, columns, rows, *look):
        seeds = seeds_from(seed, columns * rows)
        found = [network.grid(seeds, columns, _look(*look)) for network in self.networks.values()]
        return found if len(found) > 1 else found[0]

    @answered
    def files(self, name, seed, columns, rows, *look):
        seeds = seeds_from(seed, columns * rows)
        return gr.File(self.networks[name].save(self._new_folder(), seeds, columns, _look(*look)), visible=True)

    @answered
    def mixtures(self, name, seed_a, seed_b, part, *look):
        seeds = seeds_from(seed_a, 1) + seeds_from(seed_b, 1)
        return self.networks[name].mixtures(*seeds, part, _look(*look))

    @answered
    def on_the_way(self, name, seeds, place, *look):
        return self.networks[name].on_the_way(seeds_of(seeds), place, _look(*look))

    @answered
    def video(self, name, seeds, steps, *look):
        path = os.path.join(self._new_folder(), 'walk.mp4')
        self.networks[name].video(path, seeds_of(seeds), steps, _look(*look))
        return path

    @answered
    def neighbors(self, name, seeds, nearest, *look):
        return self.networks[name].neighbors(seeds_of(seeds), _look(*look), self.real[name], nearest)

    def _new_folder(self):
        """In place of the last one, whose files gradio has copied: it does so before the next request has its turn."""
        if self.made is not None:
            shutil.rmtree(self.made)
        self.made = tempfile.mkdtemp(dir=self.folder)
        return self.made


def _picture(label, alt):
    return gr.Image(format='png', label=label, alt_text=alt, interactive=False, buttons=['download', 'fullscreen'])


def _look(psi, chosen, noise):
    return Look(psi, None if chosen in (None, -1) else chosen, noise)


def _class_label(k, names):
    """'2: fox', or with the names that each network has for it, where they differ."""
    known = dict.fromkeys(of_network[k] for of_network in names if k < len(of_network))
    return f'{k}: {" or ".join(known)}' if known else str(k)


def next_seed(first, columns, rows):
    """-> the first of the next columns * rows seeds; near the largest it begins again with small ones."""
    return ((first or 0) + columns * rows) % (LARGEST_SEED + 2 - columns * rows)


def seeds_from(first, count):
    """-> that many seeds from the first one on. Raises UserError."""
    if first is None or not 0 <= first <= LARGEST_SEED + 1 - count:
        raise UserError(f'seed {first}: must be a number from 0 to {LARGEST_SEED + 1 - count}')
    return list(range(int(first), int(first) + count))


def seeds_of(text):
    """'0,3,7-9' -> [0, 3, 7, 8, 9]. Raises UserError."""
    seeds = sampling.parse_seeds(text, 'Seeds')
    if len(seeds) > MOST_SEEDS:
        raise UserError(f'Seeds={text}: these are {len(seeds)}, {MOST_SEEDS} are the most')
    return seeds
