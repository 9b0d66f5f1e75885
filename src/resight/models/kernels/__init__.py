"""Layers of the nets fused into fewer passes over memory; only its modules import torch."""
