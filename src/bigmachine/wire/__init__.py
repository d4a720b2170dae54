"""The wire protocol as a pure core: bytes in, events out; messages in, bytes out.

Nothing here knows a socket, a thread or a clock, so every rule of the protocol can be
tested in memory, a byte at a time. `bigmachine.rpc` moves the bytes.
"""
