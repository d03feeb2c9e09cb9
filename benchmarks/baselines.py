"""Baselines of speed for the same recurrences: a PyTorch step with torch.compile, and jax.lax.scan, compiled by XLA."""

import os
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor


def compiled_m2rnn_loop() -> Callable[..., Tensor]:
    """A loop over a step that is compiled by torch.compile, which takes a minute."""

    @torch.compile(fullgraph=True)
    def step(h, q, k, v, w, f):
        h = f * h + (1 - f) * torch.tanh(h @ w + k * v)
        return h, q @ h

    def loop(q, k, v, w, f, state):
        H = v.shape[2]
        q, k = (a.expand(-1, -1, H, -1) for a in (q, k))
        h, out = state, []
        columns = (q[..., None, :], k[..., None], v[..., None, :], f[..., None, None])
        for q_t, k_t, v_t, f_t in zip(*(a.unbind(dim=1) for a in columns), strict=True):
            h, y = step(h, q_t, k_t, v_t, w, f_t)
            out.append(y)
        return torch.cat(out, dim=2).transpose(1, 2)

    return loop


def jax_or_why_not() -> Any:
    """The jax module, limited to one thread; the reason as a string if it cannot be imported.

    MATRIXSTATE_JAX may name the site-packages directory of another environment with the same Python version.
    """
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1")
    sys.path += [path for path in (os.environ.get("MATRIXSTATE_JAX"),) if path]
    if find_spec("jax") is None:
        return "jax is not installed (MATRIXSTATE_JAX may name a site-packages folder that has it)"
    import jax

    return jax


def jax_m2rnn(jax: Any, inputs: list[Tensor], dy: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """jax.lax.scan of the same step, jitted: forward, and forward with every gradient."""
    jnp = jax.numpy
    arrays = [jnp.asarray(tensor.detach().numpy()) for tensor in inputs]
    weights = jnp.asarray(dy.numpy())

    def forward(q, k, v, w, f, state):
        def step(h, x):
            q_t, k_t, v_t, f_t = x
            inside = jnp.einsum("bhkv,hvw->bhkw", h, w) + k_t[..., None] * v_t[..., None, :]
            h = f_t[..., None, None] * h + (1 - f_t[..., None, None]) * jnp.tanh(inside)
            return h, jnp.einsum("bhk,bhkv->bhv", jnp.broadcast_to(q_t, h.shape[:3]), h)

        return jax.lax.scan(step, state, tuple(jnp.moveaxis(a, 1, 0) for a in (q, k, v, f)))[1]

    def loss(*arguments):
        return (jnp.moveaxis(forward(*arguments), 0, 1) * weights).sum()

    jitted, gradient = jax.jit(forward), jax.jit(jax.grad(loss, argnums=tuple(range(6))))
    return (
        lambda: jitted(*arrays).block_until_ready(),
        lambda: jax.block_until_ready(gradient(*arrays)),
    )


def jax_matrix(jax: Any, x: Tensor, dh: Tensor) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """jax.lax.scan of h = h @ x, jitted: forward, and forward with the gradient of x."""
    jnp = jax.numpy
    steps, weights = jnp.asarray(x.detach().numpy()), jnp.asarray(dh.numpy())
    start = jnp.broadcast_to(jnp.eye(x.shape[-1]), steps[:, 0].shape)

    def forward(x):
        def step(h, x_t):
            h = h @ x_t
            return h, h

        return jnp.moveaxis(jax.lax.scan(step, start, jnp.moveaxis(x, 1, 0))[1], 0, 1)

    def both(x):
        h, pull = jax.vjp(forward, x)
        return h, pull(weights)[0]

    jitted, gradient = jax.jit(forward), jax.jit(both)
    return (
        lambda: jitted(steps).block_until_ready(),
        lambda: jax.block_until_ready(gradient(steps)),
    )
