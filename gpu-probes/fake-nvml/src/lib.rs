//! A `libnvidia-ml.so` for machines without a GPU, driven by the file of `fake-state`: for tests and demos.
