"""Finds latents whose image looks like a given picture: the projection of StyleGAN2 (Karras et al., CVPR 2020, appendix
D)."""

import math

import torch

from torch_utils.images import to_float
from torch_utils.seeds import seed_of

F = torch.nn.functional

SPACES = ('w', 'w+')
RAMP_UP, RAMP_DOWN = 0.05, 0.25                 # shares of the steps in which the learning rate rises and falls
W_NOISE_END = 0.75                              # share of the steps after which w is no longer disturbed
W_NOISE_START = 0.05                            # of the deviation of w
NOISE_WEIGHT = 1e5                              # of the regularisation of the noise maps
W_SAMPLES = 10000
HISTORY = 240                                   # intermediate latents kept for a video


def learning_rate(progress, peak=0.1):
    """Learning rate at `progress` in [0, 1]: a linear rise from 0, `peak`, half a cosine down to 0."""
    fall = min((1 - progress) / RAMP_DOWN, 1)
    return peak * min(progress / RAMP_UP, 1) * (0.5 - 0.5 * math.cos(math.pi * fall))


def w_noise_scale(progress):
    """Standard deviation of the noise on w at `progress` in [0, 1], as a multiple of the deviation of w."""
    return W_NOISE_START * max(1 - progress / W_NOISE_END, 0) ** 2


@torch.no_grad()
def w_statistics(G, c, seed, samples=W_SAMPLES):
    """Mean and deviation of w over random z: where the search starts, and how large the noise on w is.

    Args:
        c: [1, c_dim] label; None where the generator has none.
    Returns: (mean [w_dim], root mean square distance from it, a number).
    """
    z = _normal([samples, G.z_dim], seed, 'z').to(next(G.parameters()).device)
    w = G.mapping(z, None if c is None else c.expand(samples, -1))[:, 0]
    mean = w.mean(dim=0)
    return mean, (w - mean).square().sum(dim=1).mean().sqrt().item()


def noise_regularization(noise_maps):
    """How strongly the values of noise maps depend on their neighbours, at every scale: 0 for ideal noise.

    For each map and its halvings down to 8x8 (means of 2x2, doubled to keep the deviation): the squared mean product of
    each value and its left neighbour, plus the same with the upper one; edges wrap. Source: StyleGAN2, appendix D.

    Args:
        noise_maps: list of [N, 1, R, R].
    Returns:        [N], the sum over maps and scales.
    """
    total = 0
    for noise in noise_maps:
        while True:
            for dim in (2, 3):
                total = total + (noise * noise.roll(1, dims=dim)).mean(dim=[1, 2, 3]).square()
            if noise.shape[3] <= 8:
                break
            noise = F.avg_pool2d(noise, 2) * 2
    return total


class Projection:
    """The search for one latent per target. All advance together, and none depends on the other targets.

    Args:
        G:            `Generator` in eval mode; its device is where the work is done.
        targets:      uint8 [N, C, H, W], as large as the images of G.
        features:     what is compared, a differentiable function: img [N, C, H, W] in [-1, 1] -> [N, F]. The distance
                      of two images is the squared length of the difference.
        c:            [1, c_dim] label of all targets; None where G has none.
        space:        'w' = one w for all layers; 'w+' = one for each.
        num_steps:    length of the search; the schedules depend on it.
        pixel_weight: minimises the distance plus this times the mean squared difference of pixels in [-1, 1].
    Attributes:
        step:         steps done.
        w:            [N, 1 or num_ws, w_dim], at first all `w_mean` [w_dim].
        noise:        {name of the buffer: [N, 1, R, R]}, mean 0 and variance 1.
        history:      list of w before every so many steps.
    """

    def __init__(self, G, targets, features, c=None, space='w', num_steps=1000, seed=0, pixel_weight=0.0):
        self.G, self.features, self.num_steps, self.seed, self.pixel_weight = G, features, num_steps, seed, pixel_weight
        self.device = next(G.parameters()).device
        self.targets = to_float(targets.to(self.device))
        with torch.no_grad():
            self.target_features = features(self.targets)
        n = len(targets)
        self.w_mean, self.w_std = w_statistics(G, c, seed)
        self.w = self.w_mean.repeat([n, G.num_ws if space == 'w+' else 1, 1]).requires_grad_()
        names = [name for name, _ in G.synthesis.named_buffers() if name.endswith('.noise_const')]
        self.noise = {name: self._first_noise(name, n) for name in names}
        self.optimizer = torch.optim.Adam([self.w, *self.noise.values()])
        self.history = []
        self.step = 0

    def _first_noise(self, name, n):
        size = self.G.synthesis.get_buffer(name).shape[-1]
        noise = _normal([1, 1, size, size], self.seed, name).repeat([n, 1, 1, 1]).to(self.device)
        _normalize(noise)
        return noise.requires_grad_()

    def advance(self):
        """One step. -> the distances before it, [N], of the latents as disturbed."""
        progress = self.step / self.num_steps
        if self.step % -(-self.num_steps // HISTORY) == 0:
            self.history.append(self.w.detach().clone())
        for group in self.optimizer.param_groups:
            group['lr'] = learning_rate(progress)
        disturbance = _normal([1, *self.w.shape[1:]], self.seed,
                              self.step).to(self.device) * (self.w_std * w_noise_scale(progress))
        distances, pixel_errors = self.compare(self.synthesize(self.w + disturbance, self.noise))
        loss = distances + self.pixel_weight * pixel_errors
        if self.noise:
            loss = loss + NOISE_WEIGHT * noise_regularization(list(self.noise.values()))
        self.optimizer.zero_grad(set_to_none=True)
        loss.sum().backward(inputs=[self.w, *self.noise.values()])          # not those of the networks
        self.optimizer.step()
        for noise in self.noise.values():
            _normalize(noise)
        self.step += 1
        return distances.detach()

    def synthesize(self, w, noise):
        """w [N, 1 or num_ws, w_dim] -> img [N, C, H, W], in float32. noise as the attribute; {} = the network's own."""
        ws = w.expand(-1, self.G.num_ws, -1)
        return torch.func.functional_call(self.G.synthesis, noise, (ws,), dict(noise_mode='const', force_fp32=True))

    def compare(self, img):
        """img [N, C, H, W] -> (distances from the targets [N], mean squared differences of pixels [N])."""
        return ((self.features(img) - self.target_features).square().sum(dim=1),
                (img - self.targets).square().mean(dim=[1, 2, 3]))

    @torch.no_grad()
    def results(self):
        """-> {what: (img [N, C, H, W], distances [N], pixel errors [N])} for the latents with the network's own noise
        maps ('projection'), with the optimised ones ('with_noise_maps'), and for the mean w with the network's own
        ('mean')."""
        latents = dict(projection=(self.w, {}), with_noise_maps=(self.w, self.noise),
                       mean=(self.w_mean.repeat(len(self.w), 1, 1), {}))
        images = {what: self.synthesize(w, noise) for what, (w, noise) in latents.items()}
        return {what: (img, *self.compare(img)) for what, img in images.items()}

    def ws(self):
        """[N, num_ws, w_dim], a copy."""
        return self.w.detach().expand(-1, self.G.num_ws, -1).clone()

    def state_dict(self):
        return dict(step=self.step, w=self.w, noise=self.noise, history=self.history,
                    optimizer=self.optimizer.state_dict())

    @torch.no_grad()
    def load_state_dict(self, state):
        self.step = state['step']
        self.w.copy_(state['w'])
        for name, noise in self.noise.items():
            noise.copy_(state['noise'][name])
        self.history = [w.to(self.device) for w in state['history']]
        self.optimizer.load_state_dict(state['optimizer'])


@torch.no_grad()
def _normalize(noise):
    """Gives each map of [N, 1, R, R] mean 0 and variance 1, in place."""
    noise -= noise.mean(dim=[1, 2, 3], keepdim=True)
    noise *= noise.square().mean(dim=[1, 2, 3], keepdim=True).rsqrt()


def _normal(shape, *key):
    """Normal random numbers that depend only on `key`, not on the device or on earlier draws."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed_of(*key)))
