"""What a generator is fed: latents of a normal distribution, and labels."""

import torch


class Prior:
    """Draws inputs of a generator, for the training and its observers.

    Args:
        z_dim:  numbers of a latent.
        labels: [n, c_dim] on `device`, of which each is as likely as the others: those of the training images, or one
                of each class.
        device: of what is drawn.
    """

    def __init__(self, z_dim, labels, device):
        self.z_dim, self.labels, self.device = z_dim, labels, device

    def sample(self, n, generator=None):
        """-> z [n, z_dim], c [n, c_dim]. generator: a CPU generator; None = torch's own, that of the device for z."""
        if generator is None:
            z = torch.randn([n, self.z_dim], device=self.device)
        else:
            z = torch.randn([n, self.z_dim], generator=generator).to(self.device)
        items = torch.randint(len(self.labels), [n], generator=generator)
        return z, self.labels[items.to(self.device, non_blocking=True)]
