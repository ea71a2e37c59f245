import copy
import math

import pytest
import torch

from training import networks
from training.networks import stylegan2
from training.networks import stylegan2_layers as networks_layers
from training.networks.blocks import half_resolutions
from training.networks_setup import use_channels_last

SMALL = dict(channel_base=128, channel_max=16)


def generator(res=16, c_dim=0, **synthesis):
    torch.manual_seed(0)
    return networks.Generator(8, c_dim, 8, res, 3, mapping_kwargs=dict(num_layers=2),
                              synthesis_kwargs={**SMALL, **synthesis})


def discriminator(res=16, c_dim=0, **kwargs):
    torch.manual_seed(1)
    return networks.Discriminator(c_dim, res, 3, **{**SMALL, **kwargs})


@pytest.mark.parametrize('up', [1, 2])
@pytest.mark.parametrize('demodulate', [True, False])
def test_scaling_activations_equals_scaling_weights(up, demodulate):
    """The two orders of the modulated convolution are the same sum; float64 leaves only rounding."""
    x, s = torch.randn(3, 5, 6, 6, dtype=torch.double), torch.randn(3, 5, dtype=torch.double)
    w, noise = torch.randn(4, 5, 3, 3, dtype=torch.double), torch.randn(3, 1, 6 * up, 6 * up, dtype=torch.double)
    f = networks.Conv2dLayer(1, 1, 3).resample_filter
    a, b = [networks.modulated_conv2d(x, w, s, noise=noise, up=up, padding=1, resample_filter=f if up > 1 else None,
                                      demodulate=demodulate, flip_weight=up == 1, fused_modconv=fused)
            for fused in (True, False)]
    torch.testing.assert_close(a, b)


def test_demodulated_weights_have_unit_norm():
    """An input that is 1 at one pixel of one channel reads off that channel's weights: their squares, over all inputs,
    sum to 1."""
    w, s = torch.randn(4, 5, 3, 3, dtype=torch.double), torch.randn(1, 5, dtype=torch.double)
    total = 0
    for channel in range(5):
        x = torch.zeros(1, 5, 3, 3, dtype=torch.double)
        x[0, channel, 1, 1] = 1
        total = total + networks.modulated_conv2d(x, w, s, padding=1, fused_modconv=False).square().sum([2, 3])
    torch.testing.assert_close(total, torch.ones_like(total), rtol=1e-6, atol=1e-6)     # eps 1e-8 under the root


def test_minibatch_std_of_known_groups():
    """Groups are strided: with 4 samples in groups of 2, samples 0 and 2 share one, 1 and 3 the other."""
    x = torch.tensor([0., 5, 2, 5]).reshape(4, 1, 1, 1)
    y = networks.MinibatchStdLayer(group_size=2)(x)
    # Population std of (0, 2) and of (5, 5) + eps
    assert y[:, 1].flatten().tolist() == pytest.approx([1, 1e-4, 1, 1e-4])
    with pytest.raises(ValueError, match='5 samples cannot be split into groups of 2; use a batch per device that is a '
                                         'multiple of 2'):
        networks.MinibatchStdLayer(group_size=2)(torch.zeros(5, 1, 1, 1))


def test_truncation_moves_towards_the_average():
    mapping = generator().mapping.eval()
    mapping.w_avg.copy_(torch.randn(8))
    z = torch.randn(2, 8)
    full, none, half = [mapping(z, None, truncation_psi=psi) for psi in (1, 0, 0.5)]
    torch.testing.assert_close(none, mapping.w_avg.expand_as(none))
    torch.testing.assert_close(half, (full + none) / 2)
    cut = mapping(z, None, truncation_psi=0, truncation_cutoff=3)
    torch.testing.assert_close(cut[:, :3], none[:, :3])
    torch.testing.assert_close(cut[:, 3:], full[:, 3:])


def test_average_of_w_follows_in_training_only():
    mapping = generator().mapping
    z = torch.randn(64, 8)
    mean = mapping.eval()(z, None)[:, 0].mean(0)
    assert mapping.w_avg.abs().max() == 0
    mapping.train()(z, None)
    torch.testing.assert_close(mapping.w_avg, mean * (1 - mapping.w_avg_beta))
    mapping(z, None, skip_w_avg_update=True)
    torch.testing.assert_close(mapping.w_avg, mean * (1 - mapping.w_avg_beta))


def test_noise_modes():
    G = generator().eval()
    for name, p in G.named_parameters():
        if name.endswith('noise_strength'):
            p.data.fill_(0.5)
    ws = G.mapping(torch.randn(2, 8), None)
    const, none = G.synthesis(ws, noise_mode='const'), G.synthesis(ws, noise_mode='none')
    assert torch.equal(const, G.synthesis(ws, noise_mode='const'))
    assert not torch.allclose(const, none, atol=1e-2)
    assert not torch.allclose(G.synthesis(ws), G.synthesis(ws), atol=1e-2)
    with pytest.raises(ValueError, match="noise_mode is 'loud'"):
        G.synthesis(ws, noise_mode='loud')


@pytest.mark.parametrize('architecture', ['orig', 'skip', 'resnet'])
@pytest.mark.parametrize('c_dim', [0, 3])
def test_architectures_and_conditioning(architecture, c_dim):
    G, D = generator(c_dim=c_dim, architecture=architecture), discriminator(c_dim=c_dim, architecture=architecture)
    c = torch.eye(3)[[0, 1, 2, 0]] if c_dim else torch.zeros(4, 0)
    img = G(torch.randn(4, 8), c)
    logits, features = D(img, c, return_features=True)
    assert img.shape == (4, 3, 16, 16) and logits.shape == (4, 1)
    assert features.trunk.shape == (4, 16, 4, 4) and features.epilogue.shape == (4, 16) == (4, D.feature_dim)
    torch.testing.assert_close(D(img, c), logits)
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in [*G.parameters(), *D.parameters()])
    if c_dim:
        assert not torch.allclose(D(img, c.roll(1, 0)), logits)


def test_logit_is_the_linear_readout_of_the_epilogue_feature():
    D = discriminator()
    logits, features = D(torch.randn(4, 3, 16, 16), None, return_features=True)
    torch.testing.assert_close(features.epilogue @ D.b4.out.weight.t() / 16 ** 0.5 + D.b4.out.bias, logits)


def test_a_conditional_logit_written_out():
    """The label's embedding, normalised, through the mapping; its dot product with the image's readout /
    sqrt(width)."""
    D, c = discriminator(c_dim=3, mapping_kwargs=dict(num_layers=2)), torch.eye(3)[[0, 1, 2, 0]]
    with torch.no_grad():
        for p in D.parameters():
            p.add_(0.1 * torch.randn_like(p))                          # biases, too
        logits, features = D(torch.randn(4, 3, 16, 16), c, return_features=True)
        x = c @ D.mapping.embed.weight.t() / 3 ** 0.5 + D.mapping.embed.bias
        x = x / (x.square().mean(dim=1, keepdim=True) + 1e-8).sqrt()
        for layer in (D.mapping.fc0, D.mapping.fc1):
            x = x @ layer.weight.t() * 0.01 / 16 ** 0.5 + layer.bias * 0.01
            x = torch.where(x > 0, x, 0.2 * x) * 2 ** 0.5
        out = features.epilogue @ D.b4.out.weight.t() / 16 ** 0.5 + D.b4.out.bias
        torch.testing.assert_close(logits, (out * x).sum(dim=1, keepdim=True) / 16 ** 0.5)


@pytest.mark.parametrize('dtype, per_layer', [('bfloat16', 2 ** -8), ('float16', 2 ** -11)])
def test_half_precision_is_near_float32(dtype, per_layer):
    """A dozen layers each round a few times: 24 roundings of independent sign."""
    kwargs = dict(num_fp16_res=2, half_dtype=dtype, fp16_channels_last=True, conv_clamp=256)
    G = generator(**kwargs).eval()
    z = torch.randn(4, 8)
    half, full = G(z, None, noise_mode='const'), G(z, None, noise_mode='const', force_fp32=True)
    assert half.dtype == torch.float32 and not torch.equal(half, full)
    assert (half - full).square().mean().sqrt() < 24 ** 0.5 * 2 * per_layer * full.square().mean().sqrt()


@pytest.mark.parametrize('num, expected', [(0, set()), (1, {32}), (2, {32, 16}), (4, {32, 16, 8}), (99, {32, 16, 8})])
def test_half_resolutions(num, expected):
    assert half_resolutions(32, num) == expected
    D = discriminator(32, num_fp16_res=num)
    assert {res for res in D.block_resolutions if getattr(D, f'b{res}').use_fp16} == expected


@pytest.mark.parametrize('resolution', [0, 2, 24])
def test_resolution_must_be_a_power_of_two(resolution):
    with pytest.raises(ValueError, match=f'the resolution is {resolution}, it must be a power of two'):
        generator(resolution)


def test_channels_last_weights_give_the_same_image():
    G = generator().eval()
    H = copy.deepcopy(G)
    use_channels_last(H)
    z = torch.randn(2, 8)
    torch.testing.assert_close(G(z, None, noise_mode='const'), H(z, None, noise_mode='const'), rtol=1e-4, atol=1e-5)
    assert H.synthesis.b8.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert H.synthesis.b8.conv0.weight.transpose(0, 1).is_contiguous(memory_format=torch.channels_last)
    H(z, None).sum().backward()
    # What a fused optimiser step relies on
    assert H.synthesis.b8.conv0.weight.grad.stride() == H.synthesis.b8.conv0.weight.stride()
    G.load_state_dict(H.state_dict())
    assert G.synthesis.b8.conv0.weight.is_contiguous()


def test_equalised_learning_rate():
    """Weights start at unit variance whatever the size; their scale is applied at run time: outputs of unit inputs have
    unit variance."""
    torch.manual_seed(0)
    layer = networks.FullyConnectedLayer(1024, 1024, lr_multiplier=0.01)
    assert layer.weight.std().item() == pytest.approx(100, rel=0.01)
    assert layer(torch.randn(64, 1024)).std().item() == pytest.approx(1, rel=0.05)
    conv = networks.Conv2dLayer(64, 64, 3)
    assert conv.weight.std().item() == pytest.approx(1, rel=0.02)
    assert conv(torch.randn(4, 64, 16, 16))[:, :, 1:-1, 1:-1].std().item() == pytest.approx(1, rel=0.05)


def test_off_the_cpu_only_half_precision_is_in_channels_last():
    """On the meta device, which like a GPU is not the CPU: blocks of 16 and 8 are in half precision, the ends are
    not."""
    with torch.device('meta'):
        G = networks.Generator(8, 0, 8, 16, 3, synthesis_kwargs=dict(channel_base=256, num_fp16_res=2,
                                                                     fp16_channels_last=True))
        D = networks.Discriminator(0, 16, 3, channel_base=256, num_fp16_res=2,
                                   block_kwargs=dict(fp16_channels_last=True))
    for network, ends in ((G, ('synthesis.b4.',)), (D, ('b4.',))):
        use_channels_last(network)
        for name, weight in network.named_parameters():
            if weight.ndim == 4 and min(weight.shape) > 1:
                assert weight.is_contiguous() == name.startswith(ends), name
    x = torch.zeros(2, 8, 16, 16, device='meta')
    last = dict(memory_format=torch.channels_last)
    assert (D.b16.cast(x, force_fp32=False).is_contiguous(**last)
            and not D.b16.cast(x, force_fp32=True).is_contiguous(**last))
    assert D.b16.cast(torch.zeros(2, 8, 16, 16), force_fp32=True).is_contiguous(**last)



@pytest.mark.parametrize('up', [1, 2])
def test_channels_last_weights_behind_a_parametrisation(up):
    """What spectral_norm keeps is laid out; its power iteration, which `layer.weight` takes, is left alone."""
    torch.manual_seed(0)
    layer = torch.nn.utils.parametrizations.spectral_norm(networks.Conv2dLayer(4, 6, 3, up=up))
    before = {name: value.clone() for name, value in layer.state_dict().items()}
    use_channels_last(torch.nn.Sequential(layer, torch.nn.Linear(2, 2)))
    kept = layer.parametrizations.weight.original
    seen = kept.transpose(0, 1) if up > 1 else kept
    assert seen.is_contiguous(memory_format=torch.channels_last) and not kept.is_contiguous()
    assert all(torch.equal(value, before[name]) for name, value in layer.state_dict().items())
    x, weight = torch.randn(2, 4, 8, 8), layer.eval().weight
    u, v = [getattr(layer.parametrizations.weight[0], name) for name in ('_u', '_v')]
    torch.testing.assert_close(weight, before['parametrizations.weight.original'] / (u @ kept.flatten(1) @ v))
    plain = networks.Conv2dLayer(4, 6, 3, up=up)
    plain.weight.data.copy_(weight)
    torch.testing.assert_close(layer(x), plain(x), rtol=1e-4, atol=1e-5)


def test_channels_last_weights_that_are_not_trained():
    D = discriminator(block_kwargs=dict(freeze_layers=2))
    use_channels_last(D)
    assert not isinstance(D.b16.conv0.weight, torch.nn.Parameter)
    weight = D.b16.conv0.weight
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


@pytest.mark.parametrize('fused', [True, False])
@pytest.mark.parametrize('style, weight', [(1e5, 1), (1, 1e5), (1e-5, 1)])
def test_large_styles_and_weights_in_float16(fused, style, weight):
    """Beyond its limit of 65504, and small ones: demodulation undoes any scale, so the result is that of float32."""
    torch.manual_seed(0)
    x, w, s = torch.randn(2, 8, 6, 6), torch.randn(4, 8, 3, 3) * weight, (torch.rand(2, 8) + 0.5) * style
    scaled = [w * s[i][:, None, None] for i in range(2)]
    units = [u / u.square().sum([1, 2, 3], keepdim=True).sqrt() for u in scaled]
    want = torch.cat([torch.nn.functional.conv2d(x[i:i + 1], units[i], padding=1) for i in range(2)])
    got = networks.modulated_conv2d(x.half(), w, s, padding=1, fused_modconv=fused)
    assert got.dtype == torch.float16
    torch.testing.assert_close(got.float(), want, rtol=0, atol=0.01)        # values around 1; a rounding is 2 ** -11


def test_small_gradients_of_weights_survive_float16(monkeypatch):
    """The factor of the equalised learning rate comes in float32: in float16 it would make zeros of them."""
    layer, seen = networks_layers.Conv2dLayer(64, 4, kernel_size=3), []
    monkeypatch.setattr(networks_layers.conv2d_resample, 'conv2d_resample', lambda x, w, **kwargs: seen.append(w)
                        or x[:, :4])
    layer(torch.zeros(1, 64, 4, 4, dtype=torch.float16))
    grad, = torch.autograd.grad(seen[0], layer.weight, torch.full_like(seen[0], 2 ** -23))
    assert seen[0].dtype == torch.float16 and torch.equal(grad, torch.full_like(grad, 2 ** -23 * layer.weight_gain))


def test_freezing_makes_buffers_of_the_first_layers():
    D = discriminator(block_kwargs=dict(freeze_layers=2))
    trained = {name for name, _ in D.named_parameters()}
    assert not any(name.startswith(('b16.fromrgb', 'b16.conv0')) for name in trained)
    assert 'b16.conv1.weight' in trained and math.prod(D.state_dict()['b16.conv0.weight'].shape) > 0
    assert set(D.state_dict()) == set(discriminator().state_dict())


@pytest.mark.parametrize('architecture', ['orig', 'skip', 'resnet'])
def test_how_many_layers_can_be_kept(architecture):
    """All of the blocks: without them only the last part is trained."""
    for resolution in (8, 32):
        most = stylegan2.freezable_layers(architecture, resolution)
        make = lambda number, resolution=resolution: discriminator(
            resolution, architecture=architecture, block_kwargs=dict(freeze_layers=number))
        trained = lambda D: [name for name, _ in D.named_parameters() if not name.startswith('b4.')]
        assert trained(make(most)) == [] and trained(make(most - 1)) != []
