"""Layers of the nets fused into fewer passes over memory; torch is imported by the modules."""
