"""The numbers of a profile, for a simulator. No I/O."""

from wats.config import Profile, Secrets
from wats.simulator.settings import SimulatedNumber


def simulated_numbers(profile: Profile, secrets: Secrets) -> tuple[SimulatedNumber, ...]:
    """Return the further numbers of *profile*."""
    return tuple(
        SimulatedNumber(
            phone_number_id=each.phone_number_id,
            waba_id=each.waba_id,
            display_phone_number=each.display_phone_number or "",
            access_token=secrets.access_tokens.get(each.name),
        )
        for each in profile.numbers
    )
