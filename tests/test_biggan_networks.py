"""BigGAN's networks: names and sizes of the state, forward passes of the public programs, the calls of the project."""

import pytest
import torch
from biggan_golden import LAYOUT, SMALL, build, check, check_tensors, filled, onehot, part, read, reals

from dnnlib import EasyDict
from torch_utils import misc
from training import networks_setup
from training.config.presets import PRESETS
from training.loss import StyleGAN2Loss
from training.methods.chain import Chain
from training.methods.lecam import LeCam
from training.networks import biggan as networks_biggan
from training.networks.biggan_layers import Attention
from training.networks.biggan_row import configure
from training.networks.interface import DeviceFacts

FULL = ['cifar10', pytest.param('imagenet64', marks=pytest.mark.soak)]         # 52 million weights: eight seconds


@pytest.mark.parametrize('net', ['cifar10_small', 'imagenet64_small', 'cifar10', 'cifar100', 'imagenet64'])
def test_names_shapes_and_numbers_of_parameters(net):
    with misc.ShapesOnly():
        networks = dict(zip('GD', build(net), strict=True))
    for name, module in networks.items():
        layout = LAYOUT[net][name]
        assert [[key, list(value.shape)] for key, value in module.state_dict().items()] == layout['state_dict']
        assert sum(param.numel() for param in module.parameters()) == layout['parameters']
        for prefix, number in layout['per_module'].items():
            parts = [p.numel() for key, p in module.named_parameters() if key.startswith(f'{prefix}.')]
            assert number == sum(parts), prefix


@pytest.mark.parametrize('name, c_dim, G_size, D_size', [
    ('biggan-cifar', 10, 4_304_387, 4_207_361), ('biggan-cifar', 100, 4_580_867, 4_230_401),
    ('biggan-cifar', 0, 4_666_883, 4_204_801), ('biggan-imagenet64', 1000, 31_969_540, 20_571_842)])
def test_presets_have_the_published_sizes(name, c_dim, G_size, D_size):
    """Without labels (the third): each batch norm is an SN linear map of z without bias, and D has no table."""
    preset = PRESETS[name]
    data = dict(c_dim=c_dim, img_resolution=preset.resolution, img_channels=3)
    with misc.ShapesOnly():
        device = DeviceFacts(on_cpu=True, half=False, channels_last=False, resolution=preset.resolution)
        kwargs = configure(preset, EasyDict(cfg=name, bn_sync=False), device)
        G, D = [cls(**given, **data) for cls, given in zip((networks_biggan.Generator, networks_biggan.Discriminator),
                                                           kwargs, strict=True)]
    assert [sum(p.numel() for p in module.parameters()) for module in (G, D)] == [G_size, D_size]


@pytest.mark.parametrize('net', [*SMALL, *FULL])
def test_forward_passes(net):
    """In eval mode, then in training mode from the same state, with the buffers that the pass leaves behind."""
    G, D = filled(net)
    golden = read(net)
    img, c_real = reals(f'{net}.x', len(golden['y']), G.img_resolution), onehot(golden['y_real'], G)
    buffers = [*G.buffers(), *D.buffers()]
    before = [value.clone() for value in buffers]
    for mode in ('eval', 'train'):
        G.train(mode == 'train')
        D.train(mode == 'train')
        with torch.no_grad():
            check(G(golden['z'], onehot(golden['y'], G)), golden[f'G_{mode}'])
            logits, features = D(img, c_real, return_features=True)
        check(logits, golden[f'D_{mode}_logits'])
        check(features.epilogue, golden[f'D_{mode}_h'])
        check(logits - (features.cmap * features.epilogue).sum(1, keepdim=True), golden[f'D_{mode}_linear'])
        if mode == 'eval':
            assert all(torch.equal(*pair) for pair in zip(buffers, before, strict=True))
    for name, module in (('G', G), ('D', D)):
        check_tensors(dict(module.named_buffers()), part(net, f'{name}_buffers_after_train'))
    check(D.readout(features), golden['D_train_logits'])
    check(features.trunk.relu().sum([2, 3]), golden['D_train_h'])
    assert features.trunk.shape[1] == features.epilogue.shape[1] == D.feature_dim


def nets(c_dim=3, res=32, **kwargs):
    torch.manual_seed(0)
    sizes = dict(c_dim=c_dim, img_resolution=res, img_channels=3, channels=4 if res == 32 else 8)
    D_kwargs = {key: value for key, value in kwargs.items() if key not in ('shared_dim', 'hier', 'z_dim')}
    G = networks_biggan.Generator(**{'z_dim': 10, **kwargs}, **sizes)
    return G, networks_biggan.Discriminator(**D_kwargs, **sizes)


def labels(n, c_dim):
    return torch.eye(c_dim)[torch.arange(n) % c_dim] if c_dim > 0 else torch.zeros(n, 0)


@pytest.mark.parametrize('c_dim, kwargs', [
    (3, {}), (0, {}), (3, dict(shared_dim=5)), (3, dict(shared_dim=5, hier=True, z_dim=12)),
    (0, dict(hier=True, z_dim=12, shared_dim=5))])
def test_mapping_and_synthesis_make_up_the_generator(c_dim, kwargs):
    G, D = nets(c_dim, **kwargs)
    z, c = torch.randn(4, G.z_dim), labels(4, c_dim)
    ws = G.eval().mapping(z, c)
    assert ws.shape == (4, G.num_ws, G.w_dim)
    torch.testing.assert_close(G.synthesis(ws, noise_mode='const', force_fp32=True), G(z, c))
    again = networks_biggan.Generator(*G.init_args, **G.init_kwargs)
    again.load_state_dict(G.state_dict())
    assert torch.equal(again.eval()(z, c), G(z, c))
    logits, features = D(G(z, c), c, return_features=True)
    assert logits.shape == (4, 1) and (features.cmap is None) == (c_dim == 0)
    torch.testing.assert_close(D.readout(features), logits)


def test_each_part_of_z_goes_to_its_place():
    """The row of a block changes nothing before it; without chunks z reaches the first layer alone."""
    G, _ = nets(3, shared_dim=5, hier=True, z_dim=12)
    ws = G.eval().mapping(torch.randn(2, 12), labels(2, 3))
    seen = []
    G.blocks[1][0].register_forward_hook(lambda _module, _inputs, out: seen.append(out))
    changed = ws.clone()
    changed[:, 3] += 1
    first, second = G.synthesis(ws), G.synthesis(changed)
    assert torch.equal(*seen) and not torch.equal(first, second)
    G, _ = nets(3)
    ws = G.eval().mapping(torch.randn(2, 10), labels(2, 3))
    changed = ws.clone()
    changed[:, 1:, 3:] += 1                                                 # z in the rows of the blocks
    assert torch.equal(G.synthesis(ws), G.synthesis(changed))


def test_attention_is_the_formula(seed=3):
    """Written out over single positions, in float64."""
    torch.manual_seed(seed)
    layer = Attention(16).eval().double()
    torch.nn.init.constant_(layer.gamma, 0.7)
    x = torch.randn(1, 16, 4, 4, dtype=torch.float64)
    parts = layer.theta, layer.phi, layer.g, layer.o
    theta, phi, g, o = [part.normalised(torch.float64)[:, :, 0, 0] for part in parts]
    pooled = lambda maps: maps.reshape(-1, 2, 2, 2, 2).amax([2, 4]).flatten(1)          # [C, 4]: largest of each 2x2
    at = x[0].flatten(1)
    keys, values = [pooled((matrix @ at).reshape(-1, 4, 4)) for matrix in (phi, g)]
    want = torch.stack([x_i + 0.7 * o @ (values @ torch.softmax(keys.t() @ (theta @ x_i), 0)) for x_i in at.t()], 1)
    torch.testing.assert_close(layer(x)[0].flatten(1), want)


@pytest.mark.parametrize('kwargs', [{}, dict(shared_dim=5, hier=True, z_dim=12, attention=16)])
def test_half_precision_and_channels_last_are_the_same_network(kwargs):
    """bfloat16 has 8 bits, float16 11: relative errors of 2^-8 and 2^-11 in each of some dozen layers."""
    plain = nets(**kwargs)
    z, c = torch.randn(4, plain[0].z_dim), labels(4, 3)
    img = plain[0].eval()(z, c)
    logits = plain[1].eval()(img, c)
    half = dict(num_fp16_res=2, half_dtype='bfloat16')
    for changes, tolerance in [(dict(fp16_channels_last=True), 1e-5), (half, 0.05),
                               (dict(half, fp16_channels_last=True), 0.05), (dict(num_fp16_res=2), 0.01)]:
        seen = []
        G, D = nets(**kwargs, **changes)
        for module, source in zip((G, D), plain, strict=True):
            module.load_state_dict(source.state_dict())
            networks_setup.use_channels_last(module)
            block = module.blocks[-1 if module is G else 0][0]
            block.register_forward_hook(lambda _module, _inputs, out, seen=seen: seen.append(out.dtype))
        got, got_logits = G.eval()(z, c), D.eval()(img, c)
        assert got.dtype == got_logits.dtype == torch.float32
        half_dtype = getattr(torch, changes.get('half_dtype', 'float16'))
        assert seen == [half_dtype if 'num_fp16_res' in changes else torch.float32] * 2
        assert (got - img).abs().max() < tolerance * img.abs().max()
        assert (got_logits - logits).abs().max() < tolerance * logits.abs().max()
        assert (G(z, c, force_fp32=True) - img).abs().max() < 1e-5
        G.train()(z, c).sum().backward()                                    # in half precision, too
        assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in G.parameters())


@pytest.mark.parametrize('kwargs', [{}, dict(shared_dim=5, hier=True, z_dim=12, attention=16)])
def test_the_loss_of_stylegan2_trains_them(kwargs):
    """Phases of all kinds, a second derivative among them; each reaches all parameters of its network alone."""
    G, D = [module.requires_grad_(False) for module in nets(**kwargs)]
    for block in [*G.blocks, *D.blocks]:
        for attention in block[1:]:
            torch.nn.init.ones_(attention.gamma)
    terms = dict(chain=Chain(), lecam=LeCam(0.3))
    loss = StyleGAN2Loss('cpu', G.mapping, G.synthesis, D, pl_weight=0, style_mixing_prob=0, terms=terms)
    loss.start_step(0)
    c = labels(4, 3)
    batch = dict(real_img=torch.rand(4, 3, 32, 32), real_c=c, gen_z=torch.randn(4, G.z_dim), gen_c=c, gain=1)
    for phase, module, other in (('Gmain', G, D), ('Dmain', D, G), ('Dreg', D, G)):
        module.requires_grad_(True)
        loss.accumulate_gradients(phase, **batch)
        module.requires_grad_(False)
        lacking = [name for name, p in module.named_parameters() if p.grad is None or not p.grad.isfinite().all()]
        assert lacking == (['linear.bias'] if phase == 'Dreg' else [])      # no matter to the logit's derivative
        assert all(p.grad is None for p in other.parameters())
        for p in module.parameters():
            p.grad = None


def test_normalised_convolutions_of_d():
    """What CHAIN asks for: its function gets the result of each convolution of the blocks without the bias."""
    _G, D = nets()
    img, c, seen = torch.randn(2, 3, 32, 32), labels(2, 3), []
    want = D.eval()(img, c)
    layers = D.block_convolutions()
    assert len(layers) == 3 * 4 - 2 - 2 and D.blocks[0][0].conv1 not in layers          # two blocks have no 1x1
    for layer in layers:
        layer.normalize = lambda x: seen.append(x) or x
    torch.testing.assert_close(D(img, c), want)
    assert len(seen) == len(layers)
    layers[-1].normalize = lambda x: x * 0
    _logits, features = D(img, c, return_features=True)
    before = []
    D.blocks[-1][0].register_forward_pre_hook(lambda _module, inputs: before.append(inputs[0]))
    D(img, c)
    torch.testing.assert_close(features.trunk, before[0] + layers[-1].bias[:, None, None])


def test_first_values():
    """N(0, 0.02), or orthogonal rows; biases as torch's layers have them; gamma 0, gains 1, sigma 1."""
    G, D = nets()
    weights = torch.cat([p.flatten() for p in [*G.parameters(), *D.parameters()] if p.ndim >= 2])
    assert abs(weights.std() - 0.02) < 5e-4 and abs(weights.mean()) < 5e-4
    limit = (16 * 9) ** -0.5                                                # 1 / sqrt(fan in)
    bias = torch.cat([block[0].conv2.bias for block in [*G.blocks, *D.blocks]])
    assert 0.9 * limit < bias.abs().max() <= limit
    _, D = nets(init='orthogonal', attention=16)
    matrix = D.blocks[2][0].conv1.weight.flatten(1)
    torch.testing.assert_close(matrix @ matrix.t(), torch.eye(16), atol=1e-5, rtol=0)
    assert [len(block) for block in D.blocks] == [2, 1, 1, 1]               # where the side becomes that
    assert [len(block) for block in nets(attention=8)[1].blocks] == [1, 2, 1, 1]
    assert D.blocks[0][1].gamma == 0 and D.linear.sv0 == 1 and torch.equal(G.output_layer[0].gain, torch.ones(16))


@pytest.mark.parametrize('build, message', [
    (lambda: nets(res=128), 'resolution is 128; BigGAN is there for 32 and 64'),
    (lambda: nets(hier=True, z_dim=12), 'shared_dim'),
    (lambda: nets(shared_dim=5, hier=True, z_dim=11), 'multiple of 4'), (lambda: nets(init='zeros'), "init is 'zeros'"),
    (lambda: nets()[0].mapping(torch.randn(1, 10), labels(1, 3), truncation_psi=0.5), 'truncation_psi'),
    (lambda: nets()[0].synthesis(torch.randn(1, 4, 2)), 'it takes')])
def test_what_does_not_go_together_is_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
