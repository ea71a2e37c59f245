"""Knowledge distillation from a vision-language teacher into the discriminator (KD-DLGAN, CVPR 2023)."""
