"""Where and how structures are measured: in this process or by workers, with a cache."""
