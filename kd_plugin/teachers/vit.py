"""The vision transformer of several teachers, from weights in timm's layout."""

import math
import re

import torch

F = torch.nn.functional
HEAD_WIDTH = 64                         # of every attention head of ViT-S, ViT-B and bert-base
# Names of the released ViT (those of timm) -> names of `VisionTransformer`; query, key and value are one matrix in
# both, in this order.
VIT_NAMES = [(r'patch_embed\.proj\.', 'patches.'), (r'blocks\.(\d+)\.', r'blocks.layers.\1.'),
             (r'\.attn\.qkv\.', '.self_attn.in_proj_'),
             (r'\.attn\.proj\.', '.self_attn.out_proj.'), (r'\.mlp\.fc([12])\.', r'.linear\1.'),
             (r'^norm\.', 'blocks.norm.')]


class VisionTransformer(torch.nn.Module):
    """ViT of [N, 3, size, size] -> class token [N, width], of PyTorch's layers.

    Args:
        size, patch:        pixels of the image and of a patch.
        width, hidden:      of the tokens and of the inner layers.
        depth:              layers.
    """

    def __init__(self, size, patch, width, hidden, depth):
        super().__init__()
        self.width = width
        self.patches = torch.nn.Conv2d(3, width, patch, stride=patch)
        self.cls_token = torch.nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = torch.nn.Parameter(torch.zeros(1, (size // patch) ** 2 + 1, width))
        layer = torch.nn.TransformerEncoderLayer(width, width // HEAD_WIDTH, hidden, dropout=0, activation=F.gelu,
                                                 layer_norm_eps=1e-6, batch_first=True, norm_first=True)
        self.blocks = torch.nn.TransformerEncoder(layer, depth, norm=torch.nn.LayerNorm(width, eps=1e-6),
                                                  enable_nested_tensor=False)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], dim=1) + self.pos_embed
        return self.blocks(x)[:, 0]

    def image_features(self, x):
        return self(x)


def from_weights(weights):
    """`VisionTransformer` with the weights of one in timm's layout -> it, the side of its images in pixels.

    Raises KeyError or RuntimeError where some are missing or do not fit.
    """
    _, count, width = weights['pos_embed'].shape
    patch = weights['patch_embed.proj.weight'].shape[-1]
    depth = 1 + max(int(m[1]) for m in (re.match(r'blocks\.(\d+)\.', name) for name in weights) if m)
    size = math.isqrt(count - 1) * patch
    model = VisionTransformer(size, patch, width, len(weights['blocks.0.mlp.fc1.bias']), depth)
    renamed = {}
    for name, value in weights.items():
        for ours, theirs in VIT_NAMES:
            name = re.sub(ours, theirs, name)
        renamed[name] = value
    model.load_state_dict(renamed)
    return model, size
