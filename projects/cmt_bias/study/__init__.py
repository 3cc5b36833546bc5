"""Studies: several variants of a training with several seeds, run, resumed and compared."""
