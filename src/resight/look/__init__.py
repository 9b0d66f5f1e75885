"""Inspecting a run or any net: evaluation, Grad-CAM maps, summaries."""
