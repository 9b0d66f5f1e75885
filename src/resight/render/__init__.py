"""Plain values in, pictures and pages out."""
