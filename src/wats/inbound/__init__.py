"""The inbound flow: from the bytes of a webhook to updates that are stored and handled.

`signature`, `fast_path`, `envelope`, `normalize`, `updates` and `projection` are its pure half,
without I/O.
"""
