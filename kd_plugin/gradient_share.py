"""The strength of the distillation relative to the adversarial loss, measured at the last hidden layer of D."""

import torch

from torch_utils import distributed


class GradientShare(torch.nn.Module):
    """|g_KD| / |g_adv|, with g = the gradient of all D losses of a kind with respect to D's last hidden layer, [N, F].

    N counts the fakes and the reals of a step, of all micro-batches and processes; the norm is that of all N F numbers.
    g_KD is recorded during the backward pass; g_adv comes from the adversarial loss alone, through the last linear
    layer. There is no further pass through D, and nothing waits for the device.
    """

    def __init__(self):
        super().__init__()
        self.register_buffer('sums', torch.zeros([2]), persistent=False)    # of this step: |g_KD|^2, |g_adv|^2

    def start_step(self):
        self.sums.zero_()

    def watch(self, step, kind, readout):
        """In a pass of the D step -> D's last hidden layer [N, F] for the distillation, whose gradient is noted.

        Args:
            step:    `training.loss_terms.Step`.
            kind:    'fake' or 'real'.
            readout: D's function from there to the logits, of `DiscriminatorFeatures`.
        """
        hidden = step.features.epilogue.view_as(step.features.epilogue)
        if hidden.requires_grad:
            hidden.register_hook(lambda grad: self._note(0, grad))
            self._note(1, _adversarial_gradient(step, kind, readout))
        return hidden

    def norms(self):
        """After the step, once -> [2]: |g_KD|, |g_adv|, over all processes, which must all call it."""
        norms = distributed.all_reduce_sum(self.sums).sqrt()
        return norms / distributed.get_world_size()             # the loss of each is the mean over its own part

    def _note(self, at, grad):
        self.sums[at].add_(torch.linalg.vector_norm(grad.detach()).square())


def _adversarial_gradient(step, kind, readout):
    """[N, F]. In a graph of its own, since a compiled D does not show how its logits are made."""
    hidden = step.features.epilogue.detach().requires_grad_(True)
    cmap = None if step.features.cmap is None else step.features.cmap.detach()
    with torch.enable_grad():
        d_loss = step.gan_loss.d_fake if kind == 'fake' else step.gan_loss.d_real
        loss = d_loss(readout(step.features._replace(epilogue=hidden, cmap=cmap))).mean() * step.gain
    grad, = torch.autograd.grad(loss, hidden)
    return grad
