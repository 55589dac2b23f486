import pytest

from wats.errors import GraphRefused
from wats.graph.errors import ADVICE, ERROR_NAMES, RULES, classify, find_rule
from wats.telemetry.contract.values import ErrorCategory

REFERENCE = """
0 AuthException authorization A
3 APIMethodError authorization A
10 PermissionDeniedError authorization A
190 ExpiredAccessTokenError authorization A
200 APIPermissionError authorization A
4 ToManyAPICallsError throttling R
80007 RateLimitIssuesError throttling R
130429 RateLimitHitError throttling R
131048 SpamRateLimitHitError throttling R
131056 TooManyMessagesError throttling R
368 TemporarilyBlockedError integrity G
131031 AccountLockedError integrity G
130497 AccountRestrictedFromCountryError integrity G
100 InvalidParameterError send-message G
130472 UserIsInExperimentGroupError send-message G
131000 UnknownError send-message G
131005 AccessDeniedError send-message G
131008 MissingRequiredParameterError send-message G
131009 InvalidParameterError send-message G
131016 ServiceUnavailableError send-message G
131021 RecipientCannotBeSenderError send-message G
131026 MessageUndeliverableError send-message G
131030 RecipientNotInAllowedListError send-message G
131042 BusinessPaymentIssueError send-message G
131044 BusinessPaymentIssueError send-message G
131045 IncorrectCertificateError send-message G
131047 ReEngagementMessageError send-message G
131050 UserStoppedMarketingMessagesError send-message G
131051 UnsupportedMessageTypeError send-message G
131052 MediaDownloadError send-message G
131053 MediaUploadError send-message G
131057 AccountInMaintenanceModeError send-message G
135000 GenericError send-message G
137000 RecipientIdentityKeyMismatchError send-message G
131059 InvalidTemplateCursorError template G
131064 TemplateClassificationRateLimitError template G
132000 TemplateParamCountMismatchError template G
132001 TemplateNotExistsError template G
132005 TemplateTextTooLongError template G
132007 TemplateContentPolicyViolationError template G
132008 TemplateParamValueInvalidError template G
132012 TemplateParamFormatMismatchError template G
132015 TemplatePausedError template G
132016 TemplateDisabledError template G
132018 InvalidTemplateParameterError template G
132068 FlowBlockedError flow G
132069 FlowThrottledError flow G
139000 FlowBlockedByIntegrityError flow G
139001 FlowUpdatingError flow G
139002 FlowPublishingError flow G
139003 FlowDeprecatingError flow G
139004 FlowDeletingError flow G
139100 BulkBlockingFailedError block-user G
139101 BlockListLimitReachedError block-user G
139102 BlockListConcurrentUpdateError block-user G
139103 BlockUserInternalError block-user G
134100 MarketingMessagesLiteUnsupportedMessageTypeError marketing-messages-lite G
134101 MarketingMessagesLiteUnsupportedTemplateCategoryError marketing-messages-lite G
134102 MarketingMessagesLiteInvalidFlowError marketing-messages-lite G
134103 MarketingMessagesLiteUnsupportedTemplateStructureError marketing-messages-lite G
138000 CallingNotEnabledError calling G
138001 ReceiverUncallableError calling G
138002 ConcurrentCallsLimitError calling G
138003 DuplicateCallError calling G
138004 CallConnectionError calling G
138005 CallRateLimitExceededError calling G
138006 CallPermissionNotFoundError calling G
138007 CallConnectionTimeoutError calling G
138009 CallPermissionRequestLimitHitError calling G
138012 BusinessInitiatedCallsLimitHitError calling G
138013 FetchCallPermissionLimitHitError calling G
613 FetchCallPermissionLimitHitError calling G
138018 CallingCannotBeEnabledError calling G
"""
"""Code, class, category and parent in the reference; A is authorization, R rate limit."""

MORE = {
    **dict.fromkeys((1, 2), "platform"),
    **dict.fromkeys((33, 131049, 131055), "send_message"),
    **dict.fromkeys((132013, 132014), "template"),
    **dict.fromkeys((133000, 133004, 133005, 133006, 133008), "registration"),
    **dict.fromkeys((133009, 133010, 133015, 133016), "registration"),
    131215: "groups",
    138021: "calling",
    2593109: "unknown",
    **dict.fromkeys(range(201, 300), "authorization"),
}
"""The codes that the reference lacks, and their categories."""

STATUS_OF_PARENT = {"A": 401, "R": 429, "G": 400}


def reference() -> list[tuple[int, str, str, str]]:
    rows = [line.split() for line in REFERENCE.strip().splitlines()]
    return [
        (int(code), name, category.replace("-", "_"), parent)
        for code, name, category, parent in rows
    ]


def test_every_code_of_the_reference_has_its_class_and_category() -> None:
    expected = {code: (name, category) for code, name, category, _ in reference()}

    found = {code: (rule.name, rule.category) for code in expected if (rule := find_rule(code))}

    assert len(expected) == 73
    assert found == expected


def test_every_code_that_the_reference_lacks_has_a_row() -> None:
    found = {code: rule.category for code in MORE if (rule := find_rule(code))}

    assert found == MORE


def test_a_response_with_a_code_of_the_reference_has_its_name_category_and_advice(
    subtests: pytest.Subtests,
) -> None:
    for code, name, category, parent in reference():
        with subtests.test(str(code)):
            refused = refusal(STATUS_OF_PARENT[parent], code)

            assert (refused.diagnostics.name, refused.diagnostics.category) == (name, category)
            assert refused.throttled == (parent == "R")
            assert refused.diagnostics.advice in ADVICE.values()
            rule = find_rule(code)
            assert rule is not None
            assert refused.diagnostics.retryable == rule.retryable


def test_a_class_that_does_not_fit_the_status_is_the_plain_one(subtests: pytest.Subtests) -> None:
    for code, _, _, parent in reference():
        if parent == "G":
            continue
        with subtests.test(str(code)):
            misused = refusal(500, code)

            assert misused.diagnostics.name == "GraphApiError"
            assert not misused.throttled


def test_a_template_creation_subcode_names_itself() -> None:
    for subcode in (2388000, 2388024, 2388999):
        rule = find_rule(100, subcode)

        assert rule is not None
        assert (rule.name, rule.category) == ("TemplateCreationError", ErrorCategory.TEMPLATE)


def test_the_ledger_has_every_name_and_every_row_a_category_and_advice() -> None:
    for rule in RULES:
        assert rule.name in ERROR_NAMES
        assert rule.category in set(ErrorCategory)
        assert rule.advice


def refusal(status: int, code: int) -> GraphRefused:
    kind = "OAuthException" if status == 401 else "GraphMethodException"
    body = f'{{"error":{{"message":"m","type":"{kind}","code":{code}}}}}'
    return classify(status, {}, body.encode())
