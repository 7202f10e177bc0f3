"""How threads wait; imported before torch.

OpenMP lets threads that wait for each other spin for long. On a machine with other work to do (or
a virtual one) that makes a training step ten times slower, so they are set to sleep after some
microseconds. Measured on two cores, a step of the demo: 21 ms, and 250 to 670 ms next to a busy
neighbour, by default; 23 ms and 52 ms this way. Nothing changes where torch was imported before,
or where the environment says otherwise.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "3000")
