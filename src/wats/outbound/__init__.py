"""The outbound flow: a caller's request becomes one Graph call."""
