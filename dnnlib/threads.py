"""How the threads of torch wait for each other. OpenMP reads it from the environment, once, when torch is loaded."""

import os

# How often a thread looks for work before it sleeps: 10000 times take 0.1 to 0.5 ms, longer than most pauses between
# two operators. libgomp's default is 300000: if another program uses one of the cores, threads that spin for so long
# take time from threads that have work (docs/benchmarks.md).
SPIN_COUNT = 10_000
BLOCK_TIME_MS = 1               # the same for libiomp, whose default is 200
USERS = ('OMP_WAIT_POLICY', 'GOMP_SPINCOUNT', 'KMP_BLOCKTIME')          # each decides how long threads wait


def wait_briefly(env=os.environ):
    """Sets how long threads wait, unless the user has. Call it before torch is loaded; child processes inherit it."""
    if not any(name in env for name in USERS):
        env.update(GOMP_SPINCOUNT=str(SPIN_COUNT), KMP_BLOCKTIME=str(BLOCK_TIME_MS))
