from tests.commands import counterfeit

__all__ = ["counterfeit"]
