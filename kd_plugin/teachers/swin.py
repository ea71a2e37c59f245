"""Swin transformers (Liu et al., ICCV 2021) from weights in their authors' layout, for MoBY's Swin-T (Xie et al.,
"Self-Supervised Learning with Swin Transformers", 2021)."""

import math
import re

import torch

F = torch.nn.functional
APART = -100.0                          # added to the logits of tokens that a shift has brought together


class WindowAttention(torch.nn.Module):
    """Attention among the tokens of a window, with a bias for each difference of positions.

    Args:
        width:  of the tokens.
        heads:  number of them.
        window: side of the window.
    """

    def __init__(self, width, heads, window):
        super().__init__()
        self.heads = heads
        self.relative_position_bias_table = torch.nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        y, x = torch.meshgrid(torch.arange(window), torch.arange(window), indexing='ij')
        difference = lambda at: at.flatten()[:, None] - at.flatten() + window - 1
        self.register_buffer('index', difference(y) * (2 * window - 1) + difference(x), persistent=False)
        self.qkv = torch.nn.Linear(width, 3 * width)
        self.proj = torch.nn.Linear(width, width)

    def forward(self, x, mask):
        """x [N, windows, tokens, width] -> the same; mask [windows, 1, tokens, tokens] is added, or None."""
        q, k, v = self.qkv(x).unflatten(3, [3, self.heads, -1]).permute(3, 0, 1, 4, 2, 5)
        bias = self.relative_position_bias_table[self.index].permute(2, 0, 1)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=(bias if mask is None else bias + mask).to(q.dtype))
        return self.proj(x.transpose(2, 3).flatten(3))


class Block(torch.nn.Module):
    """Tokens [N, side * side, width] -> the same: attention in windows, then a perceptron, each added.

    shift: by which the map is rolled before it is cut into windows; what lay at other edges is kept apart.
    """

    def __init__(self, width, heads, hidden, side, window, shift):
        super().__init__()
        self.side, self.window, self.shift = side, window, shift
        self.norm1, self.norm2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.mlp = torch.nn.ModuleDict(dict(fc1=torch.nn.Linear(width, hidden), fc2=torch.nn.Linear(hidden, width)))
        edges = torch.zeros(side, dtype=torch.int64)
        edges[side - shift:] = 1                                    # come from the other edge
        regions = self._windows((edges[:, None] * 2 + edges)[None, :, :, None])[0, :, :, 0]
        apart = (regions[:, :, None] != regions[:, None]).to(torch.float32) * APART
        self.register_buffer('mask', apart[:, None] if shift > 0 else None, persistent=False)

    def forward(self, x):
        h = self.norm1(x).unflatten(1, [self.side, self.side]).roll([-self.shift] * 2, [1, 2])
        h = self._map(self.attn(self._windows(h), self.mask)).roll([self.shift] * 2, [1, 2])
        x = x + h.flatten(1, 2)
        return x + self.mlp['fc2'](F.gelu(self.mlp['fc1'](self.norm2(x))))

    def _windows(self, x):
        """[N, side, side, C] -> [N, windows, tokens, C]."""
        cut = [self.side // self.window, self.window]
        return x.unflatten(2, cut).unflatten(1, cut).transpose(2, 3).flatten(3, 4).flatten(1, 2)

    def _map(self, x):
        """The way back."""
        across = self.side // self.window
        x = x.unflatten(2, [self.window] * 2).unflatten(1, [across] * 2)
        return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


class PatchMerging(torch.nn.Module):
    """Tokens [N, side * side, width] -> [N, side * side / 4, 2 width], of the four of each 2x2 field."""

    def __init__(self, width, side):
        super().__init__()
        self.side = side
        self.norm = torch.nn.LayerNorm(4 * width)
        self.reduction = torch.nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x):
        x = x.unflatten(1, [self.side, self.side])
        parts = [x[:, dy::2, dx::2] for dx in (0, 1) for dy in (0, 1)]
        return self.reduction(self.norm(torch.cat(parts, dim=3).flatten(1, 2)))


class Swin(torch.nn.Module):
    """[N, 3, size, size] -> the last map [N, width, h, w], and its mean over positions; names as in the checkpoints.

    Args:
        patch, width: pixels of the side of a patch, width of its token.
        depths, heads: blocks, and heads of their attention, of each stage; between stages the side is halved.
        window:  side of the windows, and of the map of the last stage.
        hidden:  of the perceptrons of the first stage.
    """

    def __init__(self, patch, width, depths, heads, window, hidden):
        super().__init__()
        side = window << len(depths) - 1
        self.size = side * patch
        self.patch_embed = torch.nn.ModuleDict(dict(proj=torch.nn.Conv2d(3, width, patch, stride=patch),
                                                    norm=torch.nn.LayerNorm(width)))
        self.layers = torch.nn.ModuleList()
        for i, (depth, number) in enumerate(zip(depths, heads, strict=True)):
            sizes = width << i, number, hidden << i, side >> i, window
            shifts = [window // 2 if j % 2 == 1 and side >> i > window else 0 for j in range(depth)]
            stage = torch.nn.ModuleDict(dict(blocks=torch.nn.Sequential(*[Block(*sizes, shift) for shift in shifts])))
            if i < len(depths) - 1:
                stage['downsample'] = PatchMerging(width << i, side >> i)
            self.layers.append(stage)
        self.norm = torch.nn.LayerNorm(width << len(depths) - 1)

    def last_map(self, x):
        x = self.patch_embed['norm'](self.patch_embed['proj'](x).flatten(2).transpose(1, 2))
        for stage in self.layers:
            for part in stage.values():
                x = part(x)
        side = self.layers[-1]['blocks'][0].side
        return self.norm(x).transpose(1, 2).unflatten(2, [side, side])

    def image_features(self, x):
        return self.last_map(x).mean(dim=[2, 3])


def from_weights(weights):
    """{name: tensor} -> `Swin` of their sizes. Raises KeyError or RuntimeError where some are missing or do not fit."""
    at = [(int(m[1]), int(m[2])) for m in (re.match(r'layers\.(\d+)\.blocks\.(\d+)\.', name) for name in weights) if m]
    depths = [1 + max(block for stage, block in at if stage == i) for i in range(1 + max(stage for stage, _ in at))]
    table = lambda i: weights[f'layers.{i}.blocks.0.attn.relative_position_bias_table']
    width, _, patch, _ = weights['patch_embed.proj.weight'].shape
    window = (math.isqrt(len(table(0))) + 1) // 2
    model = Swin(patch, width, depths, [table(i).shape[1] for i in range(len(depths))], window,
                 len(weights['layers.0.blocks.0.mlp.fc1.weight']))
    own = model.state_dict().keys()
    model.load_state_dict({name: value for name, value in weights.items() if name in own})
    return model
