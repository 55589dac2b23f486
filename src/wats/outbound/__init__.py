"""The outbound flow: what a caller asks becomes one Graph call, once."""
