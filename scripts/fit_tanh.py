"""Fits the tanh of csrc/common/tanh.h: `python scripts/fit_tanh.py` prints its coefficients and their error.

tanh(x) is approximated on [-LIMIT, LIMIT] by x P(x²) / Q(x²) with P and Q of degree 4 and Q(0) = 1, and beyond by its
value at LIMIT, where tanh rounds to 1 in float32. The largest relative error is made small by iteratively
reweighted least squares: each round solves |P - r Q| / (r Q_before) with r = tanh(x)/x, which is linear in the
coefficients, and gives more weight to the points where the error is large.
"""

import numpy as np

LIMIT, DEGREE, ROUNDS = 9.01, 4, 400


def fit() -> tuple[np.ndarray, np.ndarray, float]:
    """Coefficients of P and Q, lowest first, and the largest relative error in exact arithmetic."""
    x = np.unique(np.concatenate([LIMIT * np.linspace(0.001, 1, 2000) ** 2, LIMIT * np.linspace(0.001, 1, 2000)]))
    ratio = np.tanh(x) / x
    powers = np.vander((x / LIMIT) ** 2, DEGREE + 1, increasing=True)  # scaled, so that the columns stay comparable
    weight, before, best = np.ones_like(x), np.ones_like(x), (np.inf, np.empty(0), np.empty(0))
    for _ in range(ROUNDS):
        scale = (np.sqrt(weight) / (ratio * before))[:, None]
        system = np.hstack([powers, -ratio[:, None] * powers[:, 1:]]) * scale
        size = np.linalg.norm(system, axis=0)
        solution = np.linalg.lstsq(system / size, ratio * scale[:, 0], rcond=1e-15)[0] / size
        p, q = solution[: DEGREE + 1], np.concatenate([[1.0], solution[DEGREE + 1 :]])
        error = np.abs(powers @ p / (ratio * (powers @ q)) - 1)
        if error.max() < best[0]:
            best = (error.max(), p, q)
        before = np.abs(powers @ q)
        weight *= np.sqrt(error / error.max() + 1e-3)
        weight /= weight.mean()
    unscale = LIMIT ** (-2.0 * np.arange(DEGREE + 1))
    return best[1] * unscale, best[2] * unscale, best[0]


if __name__ == "__main__":
    top, bottom, error = fit()
    for name, values in (("P", top), ("Q", bottom)):
        print(f"constexpr float {name}[] = {{{', '.join(f'{v:.9e}f' for v in values)}}};")
    print(f"// largest relative error before rounding: {error:.2g}")
