"""The tables of KD-DLGAN (Cui et al., CVPR 2023), each cell as a training, a measurement and the value in print."""
