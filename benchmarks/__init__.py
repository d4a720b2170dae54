"""bigmachine beside the raw sockets and beside its peers, measured in one run.

``run`` is the program; ``cases`` holds what is measured, ``contestants`` who is, ``floor`` the raw
sockets that everything is compared with. See ``README.md``.
"""
