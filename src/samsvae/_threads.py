"""How threads wait; imported before torch.

OpenMP lets threads that wait for each other spin for long. On a machine with other work to do (or
a virtual one) a thread then waits for one that does not run, so they are set to sleep after some
microseconds. Measured on two cores, a step of 36 ms with one thread, alone and next to three busy
neighbours, by how often threads look again: 1000 times 24 and 46 ms, 3000 times 22 and 62 ms, 100
times 31 and 40 ms; by default (300,000 times) 22 and 190 ms, on average 540. Nothing changes where
torch was imported before, or where the environment says otherwise.
"""

import os

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")
