"""How the threads of a tool wait for each other. Importing this, before torch, sets it.

OpenMP's threads spin while they wait, by default. Where another process has work for the cores, a
thread that is waited for does not run while those that wait for it do: a training of the toy model
beside one busy process was seen to take from 1.4 to 35 times as long. Passive waiting costs next to
nothing on quiet cores (``docs/cost.md``). A user's own ``OMP_WAIT_POLICY`` or ``GOMP_SPINCOUNT``
wins.
"""

import os

if 'GOMP_SPINCOUNT' not in os.environ:
    os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')
