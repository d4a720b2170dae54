"""Images: a program's environment, layer by layer, built here and assembled on hosts."""
