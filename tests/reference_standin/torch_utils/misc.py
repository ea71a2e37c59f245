def copy_params_and_buffers(src, dst):
    """By name; every name must be there."""
    tensors = dict(src.named_parameters())
    tensors.update(src.named_buffers())
    targets = list(dst.named_parameters()) + list(dst.named_buffers())
    for name, tensor in targets:
        tensor.data.copy_(tensors[name].data)
