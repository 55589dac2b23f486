from dataclasses import replace

import pytest

from wats.errors import ConfigError
from wats.privacy import Secret
from wats.testing import example_secrets

GOOD = Secret("not-a-weak-token")


@pytest.mark.parametrize(
    "weak", ["fifteen-letters", "ababababababababab", "two words and more", ""]
)
@pytest.mark.parametrize("field", ["bearer_tokens", "telemetry_tokens"])
def test_weak_tokens_are_refused_in_code_as_they_are_in_a_file(field: str, weak: str) -> None:
    with pytest.raises(ConfigError) as caught:
        example_secrets(**{field: (GOOD, Secret(weak))})

    (issue,) = caught.value.issues
    assert (issue.code, issue.path) == ("invalid_secret", f"secrets.{field}[1]")
    assert "'wats token'" in issue.reason
    assert not weak or weak not in str(caught.value)


def test_all_unusable_secrets_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        example_secrets(
            access_token=Secret("a\r\nb"),
            verify_token=Secret(" "),
            app_secrets=(Secret(""),),
            bearer_tokens=(Secret("short"),),
        )

    assert [issue.path for issue in caught.value.issues] == [
        "secrets.access_token",
        "secrets.verify_token",
        "secrets.app_secrets[0]",
        "secrets.bearer_tokens[0]",
    ]


def test_a_token_cannot_be_weakened_afterwards() -> None:
    secrets = example_secrets()

    with pytest.raises(ConfigError):
        replace(secrets, bearer_tokens=(Secret("short"),))
