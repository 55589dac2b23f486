"""The inbound flow: from the bytes of a webhook to updates that are stored and handled.

`signature`, `usual`, `envelope`, `normalize`, `updates` and `projection` are its pure half: no I/O.
"""
