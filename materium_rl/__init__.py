"""Reinforcement-learning fine-tuning of autoregressive crystal generators."""

__version__ = "0.1.0"
