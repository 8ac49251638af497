"""One thread for the arithmetic of each test: its input is tiny, and `make test` runs as many at once as there are
cores."""

import os

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # before torch is imported; programs that tests start inherit it
