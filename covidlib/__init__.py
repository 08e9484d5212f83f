"""COVID-19 in chest CT, segmented: the package behind the notebooks. Import modules by name; nothing heavy loads here."""

import os

__version__ = "0.1.0"

# Intel's kernels: TensorFlow leaves them off where a processor has no AVX-512; a training step then takes three times as long.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
