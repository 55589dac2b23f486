from tests.commands import counterfeit, service, wats

__all__ = ["counterfeit", "service", "wats"]
