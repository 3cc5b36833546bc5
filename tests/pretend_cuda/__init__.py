"""A CUDA device that is not there, to find on a CPU what a model would do on one."""
