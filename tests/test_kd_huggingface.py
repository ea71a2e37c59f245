"""Hugging Face models as teachers, built small with random weights."""

import json

import pytest
import torch
from kd_toys import reported_losses, setup, size, step
from teacher_checks import F, normalised

from dnnlib import UserError
from kd_plugin.distillers.settings import PRESETS
from kd_plugin.loss import check_distillation
from kd_plugin.teacher import COMMON_NORM, Preprocess, load_teacher

# -- Hugging Face

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
TEXT = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, vocab_size=300,
            max_position_embeddings=40, bos_token_id=0, eos_token_id=1, pad_token_id=1)
VISION = dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=32,
              patch_size=16)
TOKENS = [[0, 2, 3, 4, 2, 5, 1], [0, 2, 3, 4, 2, 6, 1]]     # of the two texts below, with the tokenizer below
TEXTS = ['A photo of a cat', 'a photo of a dog']


@pytest.fixture
def transformers():
    return pytest.importorskip('transformers')


def save_model(folder, model, processor='preprocessor_config.json'):
    """A folder as `save_pretrained` makes it, with a small lower-casing tokenizer. -> name of the teacher."""
    import transformers
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    model.eval().save_pretrained(folder)
    words = ['<start>', '<end>', 'a', 'photo', 'of', 'cat', 'dog', '?']
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token='?'))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single='<start> $A <end>',
                                                             special_tokens=[('<start>', 0), ('<end>', 1)])
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token='<start>', eos_token='<end>',
                                         pad_token='<end>', unk_token='?', model_max_length=16).save_pretrained(folder)
    settings = dict(size=dict(shortest_edge=36), do_center_crop=True, crop_size=dict(height=32, width=32),
                    image_mean=MEAN, image_std=STD)
    (folder / processor).write_text(json.dumps(settings if processor.startswith('pre')
                                               else dict(image_processor=settings)))
    return f'hf:{folder}'


def check_images(teacher, want, dim, norm):
    """Features of images against `want(normalised images)`, direction and length, and that a gradient reaches the
    images."""
    assert (teacher.dim, teacher.preprocess, teacher.norm) == (dim, Preprocess(32, MEAN, STD), norm)
    img = (torch.rand(2, 3, 32, 32) * 2 - 1).requires_grad_()
    feats, expected = teacher.encode_image(img), want(normalised(img.detach(), MEAN, STD)).detach()
    torch.testing.assert_close(feats, expected if norm is None else F.normalize(expected, dim=1) * norm)
    feats.square().sum().backward() if norm is None else feats[:, 0].sum().backward()
    assert img.grad.abs().sum() > 0


@pytest.mark.filterwarnings('ignore')
def test_hf_clip(transformers, tmp_path):
    config = transformers.CLIPConfig(projection_dim=24, text_config=dict(TEXT, max_position_embeddings=16),
                                     vision_config=VISION)
    model = transformers.CLIPModel(config)
    teacher = load_teacher(save_model(tmp_path, model))
    check_images(teacher, lambda x: model.visual_projection(model.vision_model(pixel_values=x).pooler_output),
                 dim=24, norm=None)
    tokens = torch.tensor([row + [1] * 9 for row in TOKENS])
    mask = torch.tensor([[1] * 7 + [0] * 9] * 2)
    want = model.text_projection(model.text_model(input_ids=tokens, attention_mask=mask).pooler_output)
    torch.testing.assert_close(teacher.encode_text(TEXTS), want.detach())


@pytest.mark.filterwarnings('ignore')
def test_hf_siglip(transformers, tmp_path):
    """Texts are padded and not masked: the feature is taken at the last place, which is padding."""
    model = transformers.SiglipModel(transformers.SiglipConfig(text_config=dict(TEXT, projection_size=32,
                                                                                max_position_embeddings=16),
                                                               vision_config=VISION))
    torch.nn.init.normal_(model.text_model.embeddings.token_embedding.weight)
    teacher = load_teacher(save_model(tmp_path, model, processor='processor_config.json'))
    check_images(teacher, lambda x: model.vision_model(pixel_values=x).pooler_output, dim=32, norm=COMMON_NORM)
    want = model.text_model(input_ids=torch.tensor([row + [1] * 9 for row in TOKENS])).pooler_output.detach()
    torch.testing.assert_close(teacher.encode_text(TEXTS), F.normalize(want, dim=1) * COMMON_NORM)
    assert not torch.allclose(want[0], want[1])


@pytest.fixture
def blip_config(transformers):
    return transformers.BlipConfig(image_text_hidden_size=24,
                                   text_config=dict(TEXT, encoder_hidden_size=32, sep_token_id=1), vision_config=VISION)


@pytest.mark.filterwarnings('ignore')
def test_hf_blip(transformers, blip_config, tmp_path):
    """Against the similarity of the model's own contrastive head."""
    torch.manual_seed(0)
    model = transformers.BlipForImageTextRetrieval(blip_config)
    teacher = load_teacher(save_model(tmp_path, model))
    check_images(teacher, lambda x: model.vision_proj(model.vision_model(pixel_values=x).last_hidden_state[:, 0]),
                 dim=24, norm=COMMON_NORM)
    img = torch.rand(2, 3, 32, 32) * 2 - 1
    want = model(pixel_values=normalised(img, MEAN, STD), input_ids=torch.tensor(TOKENS), use_itm_head=False).itm_score
    texts = teacher.encode_text(['A photo (of) a cat!', TEXTS[1]])              # the marks are left out
    got = F.normalize(teacher.encode_image(img), dim=1) @ F.normalize(texts, dim=1).t()
    torch.testing.assert_close(got, want.detach())


@pytest.mark.filterwarnings('ignore')
def test_a_blip_without_projections_is_refused(transformers, blip_config, tmp_path):
    """Loaded all the same, it would teach with random weights."""
    name = save_model(tmp_path, transformers.BlipForConditionalGeneration(blip_config))
    with pytest.raises(UserError, match='the file has no weights for .*use a model that was trained to compare '
                                        '.*blip-itm-base-coco'):
        load_teacher(name)


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', ['Dinov2', 'Dinov2WithRegisters'])
def test_hf_dinov2(transformers, tmp_path, kind):
    model = getattr(transformers, f'{kind}Model')(getattr(transformers, f'{kind}Config')(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=8))
    teacher = load_teacher(save_model(tmp_path, model))
    check_images(teacher, lambda x: model(pixel_values=x).last_hidden_state[:, 0], dim=32, norm=COMMON_NORM)
    with pytest.raises(UserError, match='knows images only'):
        teacher.encode_text(TEXTS)


@pytest.mark.filterwarnings('ignore')
def test_an_image_teacher_distils_by_agkd_and_is_refused_for_cgkd(transformers, tmp_path):
    config = transformers.Dinov2Config(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=64,
                                       patch_size=8)
    name = save_model(tmp_path, transformers.Dinov2Model(config))
    settings = PRESETS['paper']
    check_distillation(16, ['agkd'], name, [], settings._asdict())
    G, D, kd, loss = setup(load_teacher(name), ('agkd',))
    assert reported_losses(lambda: step(loss, 'Dmain', G, D, kd)) == {'KD/agkd_fake', 'KD/agkd_real'}
    assert kd.head.weight.shape == (32, 16) and size(kd.head) > 0
    with pytest.raises(UserError, match=r'--kd-teacher: hf:.*knows images only, not texts; leave cgkd out of --kd, or '
                                        r'give a teacher'):
        check_distillation(16, ['agkd', 'cgkd'], name, ['a cat', 'a dog'], settings._asdict())


@pytest.mark.filterwarnings('ignore')
def test_hf_model_that_is_not_there(transformers, tmp_path):
    with pytest.raises(UserError, match=r'--kd-teacher=hf:.*nothing: the model cannot be loaded .*hf:FOLDER'):
        load_teacher(f'hf:{tmp_path / "nothing"}')
