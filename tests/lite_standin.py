"""EfficientNet-Lite with random weights in the place of its package."""

import torch

from kd_plugin.teachers import efficientnet_lite
from kd_plugin.teachers.efficientnet_lite import EfficientNetLite


def random_network(seed=0, **scale):
    """With batch norms that have something to do, as a state dict and as a module."""
    torch.manual_seed(seed)
    model = EfficientNetLite(**scale)
    for name, value in model.state_dict().items():
        if 'bn' in name and value.is_floating_point():
            positive = name.endswith(('var', 'weight'))
            value.copy_(torch.rand_like(value) + 0.5 if positive else torch.randn_like(value) / 4)
    return model.eval()


def use_package(monkeypatch, package):
    variant = efficientnet_lite.VARIANTS['lite0']._replace(package=package)
    monkeypatch.setitem(efficientnet_lite.VARIANTS, 'lite0', variant)


def make_package(tmp_path, monkeypatch):
    """The package of lite0 with random weights. -> the module in it."""
    monkeypatch.syspath_prepend(tmp_path)
    use_package(monkeypatch, 'lite0_stand_in')
    folder = tmp_path / 'lite0_stand_in' / 'models'
    folder.mkdir(parents=True)
    (tmp_path / 'lite0_stand_in' / '__init__.py').write_text('raise ImportError("no code of the package may run")')
    model = random_network()
    torch.save(model.state_dict(), folder / 'efficientnet-lite0-57934424.pth')
    return model
