"""bigmachine: a Python program that brings its own cluster."""
