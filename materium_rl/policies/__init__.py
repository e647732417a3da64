"""The crystal policy: its model, its sampler, its folders."""
