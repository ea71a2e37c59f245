"""InsGen: D tells every image from all others (Yang et al., "Data-Efficient Instance Generation from Instance
Discrimination", NeurIPS 2021)."""

import copy

import click
import torch

from dnnlib import UserError
from dnnlib.commands import FiniteRange
from torch_utils import distributed

from ..loss_terms import Term
from ..networks.stylegan2_layers import FullyConnectedLayer
from .method import Method

F = torch.nn.functional
WEIGHT = FiniteRange(min=0)


class Contrast(torch.nn.Module):
    """One instance discrimination: a head on D's trunk, its momentum copy, and a queue of keys, unit vectors [size,
    dim].

    The queue begins with random directions.
    """

    def __init__(self, features, size, hidden=512, dim=128):
        super().__init__()
        self.head = torch.nn.Sequential(FullyConnectedLayer(features, hidden, activation='relu'),
                                        FullyConnectedLayer(hidden, dim))
        self.slow_head = copy.deepcopy(self.head).requires_grad_(False)
        self.register_buffer('queue', F.normalize(torch.randn([size, dim]), dim=1))
        self.register_buffer('position', torch.zeros([], dtype=torch.int64))        # of the oldest key

    def query(self, trunk):
        """[N, C, H, W] -> [N, dim] on the unit sphere."""
        return F.normalize(self.head(trunk.mean(dim=[2, 3])), dim=1)

    def key(self, trunk):
        """As `query`, of the momentum copy."""
        return F.normalize(self.slow_head(trunk.mean(dim=[2, 3])), dim=1)

    def loss(self, query, key, temperature):
        """InfoNCE [N]: -log of the share of exp(q k / t) in itself and all exp(q n / t), n in the queue."""
        logits = torch.cat([(query * key).sum(dim=1, keepdim=True), query @ self.queue.t()], dim=1) / temperature
        return logits.logsumexp(dim=1) - logits[:, 0]

    def enqueue(self, keys):
        """Puts the keys [M, dim], at most the last `size` of them, into the place of the oldest ones, except those that
        are not finite."""
        keys = keys[-len(self.queue):]
        at = (self.position + torch.arange(len(keys), device=keys.device)) % len(self.queue)
        self.queue[at] = torch.where(keys.isfinite().all(dim=1, keepdim=True), keys, self.queue[at])
        self.position.copy_((self.position + len(keys)) % len(self.queue))


class InsGen(Term):
    """Instance discrimination of reals and of fakes in the D step, and of fakes in the G step.

    - reals:     query D(A(x)), key slow_D(A'(x)), with two augmentations A and A';
    - fakes:     query D(A(G(z))), key slow_D(A'(G(z + noise))); the queue takes the keys of A(G(z));
    - generator: query D(A(G(z))), key slow_D(A'(G(z))), with gradient to G alone.

    The heads are trained by D's optimiser. Copies of D and of the heads follow with `momentum` once per iteration, and
    then the keys of the whole batch, of all processes, enter the queues.

    Args:
        queue:       number of keys in each of the two queues, at least the batch over all processes.
        weight_real, weight_fake, weight_generator: of the three.
        temperature: t of InfoNCE.
        momentum:    of the copies, per iteration.
        noise:       standard deviation of what is added to z.
    """

    title = 'InsGen'                # in the names of the losses
    kinds = ('real', 'fake')        # of images that are told from each other

    def __init__(self, queue, weight_real=1.0, weight_fake=1.0, weight_generator=0.1, temperature=0.2, momentum=0.999,
                 noise=0.15):
        super().__init__()
        self.size, self.temperature, self.momentum, self.noise = queue, temperature, momentum, noise
        self.weight_real, self.weight_fake, self.weight_generator = weight_real, weight_fake, weight_generator

    def bind(self, loss):
        self.gan = loss
        self.slow_D = copy.deepcopy(loss.D).requires_grad_(False)
        for kind in self.kinds:
            setattr(self, kind, Contrast(loss.D.feature_dim, self.size).to(loss.pl_mean.device))
        heads = [(contrast.head, contrast.slow_head) for contrast in (getattr(self, kind) for kind in self.kinds)]
        followed = [zip(fast.parameters(), slow.parameters(), strict=True)
                    for fast, slow in [(loss.D, self.slow_D), *heads]]
        self.fast, self.slow = [list(params) for params in zip(*[pair for pairs in followed for pair in pairs],
                                                               strict=True)]

    def networks_loaded(self):
        self.slow_D.load_state_dict(self.gan.D.state_dict())

    def start_step(self, cur_nimg):
        self.new_keys = {kind: [] for kind in self.kinds}

    def similar(self, z):
        """Latents [N, z_dim] whose images D should take for those of z."""
        return z + torch.randn_like(z) * self.noise

    @torch.no_grad()
    def prepare(self, step):
        similar, _ws = self.gan.run_G(self.similar(step.gen_z), step.gen_c)
        self._keep(step, 'fake', self._key(self.fake, self.gan.augment(similar), step.gen_c))
        if 'real' in self.kinds:
            self._keep(step, 'real', self._key(self.real, self.gan.augment(step.real_img), step.real_c))
            self.new_keys['real'].append(self._kept(step, 'real'))
        self.new_keys['fake'].append(self._key(self.fake, step.gen_aug, step.gen_c))

    def d_fake(self, step):
        return {f'{self.title}/fake': self._loss(self.fake, step, self._kept(step, 'fake')) * self.weight_fake}

    def d_real(self, step):
        if 'real' not in self.kinds:
            return {}
        return {f'{self.title}/real': self._loss(self.real, step, self._kept(step, 'real')) * self.weight_real}

    def g_main(self, step):
        if self.weight_generator == 0:
            return {}
        with torch.no_grad():
            key = self._key(self.fake, self.gan.augment(step.gen_img), step.gen_c)
        return {f'{self.title}/generator': self._loss(self.fake, step, key) * self.weight_generator}

    @torch.no_grad()
    def finish_step(self, batch_idx):
        torch._foreach_lerp_(self.slow, self.fast, 1 - self.momentum)
        for name, keys in self.new_keys.items():
            getattr(self, name).enqueue(distributed.all_gather_rows(torch.cat(keys)))

    def _keep(self, step, kind, key):
        step.kept[f'{self.title}/{kind}'] = key

    def _kept(self, step, kind):
        return step.kept[f'{self.title}/{kind}']

    def _key(self, contrast, img, c):
        _logits, features = self.slow_D(img, c, return_features=True)
        return contrast.key(features.trunk)

    def _loss(self, contrast, step, key):
        return contrast.loss(contrast.query(step.features.trunk), key, self.temperature)


def share_of_images(config, option, without):
    """5 % of the images, mirrored ones counted: the queue in the sources of InsGen and FakeCLR.

    Args:
        option, without: for the `UserError` that is raised where nothing is augmented, and what that leads to.
    """
    if config.get('augment_kwargs') is None:
        raise UserError(f'{option}: without augmentation {without}; use --aug=ada or --aug=diffaug, without --p=0')
    return config.training_set_kwargs['max_size'] * (2 if config.training_set_kwargs['xflip'] else 1) // 20


def common_options(option):
    """The click options of instance discrimination that InsGen and FakeCLR share; option: '--insgen'."""
    return [
        click.option(f'{option}-weight-generator', help='Weight for fakes in the G step  [default: 0.1]', type=WEIGHT),
        click.option(f'{option}-temperature', help='Temperature  [default: 0.2]',
                     type=FiniteRange(min=0, min_open=True)),
        click.option(f'{option}-momentum', help='Momentum of the copies that give the keys  [default: 0.999]',
                     type=FiniteRange(0, 1)),
    ]


def _configure(opts, config, _dataset):
    """The queue's default: 5 % of the images as in the source, but at least four batches."""
    share = share_of_images(config, '--insgen', 'both views of an image are the same')
    weights = [opts.insgen_weight_real, opts.insgen_weight_fake, opts.insgen_weight_generator]
    if all(weight == 0 for weight in weights):
        raise UserError('--insgen: with all three weights 0 nothing of it is left; leave --insgen out')
    usual = max(4 * config.batch_size, share)
    if opts.insgen_queue is not None and opts.insgen_queue < config.batch_size:
        raise UserError(f'--insgen-queue={opts.insgen_queue}: is shorter than the batch of {config.batch_size}; use '
                        f'--insgen-queue={usual}')
    return dict(queue=usual)


METHOD = Method('insgen', 'training.methods.insgen.InsGen', [
    click.option('--insgen', help='Instance discrimination of reals and fakes (InsGen)', is_flag=True),
    click.option('--insgen-queue', help='Keys in its queues  [default: 5% of the images, at least 4 batches]',
                 type=click.IntRange(min=1), metavar='INT'),
    click.option('--insgen-weight-real', help='Weight for reals  [default: 1]', type=WEIGHT),
    click.option('--insgen-weight-fake', help='Weight for fakes  [default: 1]', type=WEIGHT),
    *common_options('--insgen'),
    click.option('--insgen-noise', help='Noise on the z of similar fakes  [default: 0.15]', type=FiniteRange(min=0)),
], configure=_configure)
