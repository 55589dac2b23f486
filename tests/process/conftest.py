from tests.commands import wats

__all__ = ["wats"]
