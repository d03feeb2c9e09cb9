"""Which patterns of shared decays the kernels of the linear recurrence read in place."""


def is_grouped(own: tuple[int, ...], sizes: tuple[int, ...]) -> bool:
    """Whether no axis along which a decay of sizes `own` is shared comes before one along which it is not."""
    shared = False
    for n, size in zip(own, sizes, strict=True):
        if shared and n != 1:
            return False
        shared = shared or n != size
    return True
