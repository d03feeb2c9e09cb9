"""The FLOPs of the kernels' matrix products alone, as PyTorch counts the reference's; arguments are shapes."""


def scan_flops(elements, down, builder: str) -> int:
    """Of the forward pass: the products with X and with W_down, and the construction of X where it is a product."""
    B, T, H, D, C = *elements[:3], *down[1:]
    return 2 * B * T * H * D * D * (D + C + (D if builder == "ldu" else 0))
