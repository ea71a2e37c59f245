"""Distillation of soft labels (Hinton et al., 2015), the labels being the texts: a baseline of KD-DLGAN (table 6)."""

import torch

from .distiller import Distiller

F = torch.nn.functional
LOGIT_SCALE = 100           # of CLIP: its logits are 100 cos(image, text)


def soft_label_loss(student, teacher, text_feats, temperature):
    """t^2 KL(p_t || p_s) with p = softmax(100 cos(embedding, texts) / t). [N, M], [N, M], [K, M] -> [N] float32."""
    texts = F.normalize(text_feats.to(torch.float32), dim=1)
    log_p = lambda feats: F.log_softmax(F.normalize(feats.to(torch.float32), dim=1)
                                        @ texts.t() * (LOGIT_SCALE / temperature), dim=1)
    return F.kl_div(log_p(student), log_p(teacher), reduction='none', log_target=True).sum(1) * temperature ** 2


class LabelDistillation(Distiller):
    """Makes the student assign an image to the same texts as the teacher, on fakes and on reals."""

    name = 'labeldist'
    fields = ('texts', 'temperature')
    min_texts = 2

    def loss(self, rows):
        return soft_label_loss(rows.student, rows.own, self.text_feats, self.settings.temperature)
