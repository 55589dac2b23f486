"""The meaning of Graph's refusals: a table of error codes, and rules for responses. No I/O.

The codes are data. A row has the name of the code, its category and the remedy; whether the same
request can succeed later follows from the remedy. A response is judged by its HTTP status first,
since a proxy before Graph sends a status and no code; then by its code.

A refusal of a send must be certain, because the caller may then send again:

    4xx except 408 and 499                      certain: rejected before it was carried out
    any other, listed code that gives a reason  certain
    any other                                   unknown: a proxy, or a failure inside Meta

Meta's texts for people are dropped, because they quote phone numbers.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

import msgspec

from wats.errors import GraphCause, GraphDiagnostics, GraphRefused
from wats.graph.parameters import find_parameter
from wats.telemetry.contract.values import ErrorCategory


class Action(StrEnum):
    """The remedy for an error. Our reading of Meta's documentation, not Meta's words."""

    RETRY = "retry"
    RETRY_ONCE = "retry_once"
    RETRY_PAIR = "retry_pair"
    PAUSE_NUMBER = "pause_number"
    FIX_REQUEST = "fix_request"
    USE_TEMPLATE = "use_template"
    DROP_RECIPIENT = "drop_recipient"
    WAIT_A_DAY = "wait_a_day"
    FIX_ACCESS = "fix_access"
    FIX_ACCOUNT = "fix_account"
    FIX_BILLING = "fix_billing"
    FIX_TEMPLATE = "fix_template"
    FIX_MEDIA = "fix_media"
    INSPECT = "inspect"


ADVICE: Final[Mapping[Action, str]] = {
    Action.RETRY: "Retry the same request with backoff and a limit on attempts.",
    Action.RETRY_ONCE: "Retry the same request once, then investigate.",
    Action.RETRY_PAIR: "Retry with backoff for this recipient; other recipients are not affected.",
    Action.PAUSE_NUMBER: "Stop sending from this number and have an operator check its state.",
    Action.FIX_REQUEST: "Correct the request; a retry without a change cannot succeed.",
    Action.USE_TEMPLATE: "Send a template; the customer service window is closed.",
    Action.DROP_RECIPIENT: "Stop sending to this recipient and record why.",
    Action.WAIT_A_DAY: "Wait at least 24 hours before the next attempt for the same person.",
    Action.FIX_ACCESS: "Have an operator check the access token, its permissions and app secret.",
    Action.FIX_ACCOUNT: "Have an operator change the account or number in WhatsApp Manager.",
    Action.FIX_BILLING: "Have an operator settle the account's payment method.",
    Action.FIX_TEMPLATE: "Use another template until this template is fixed.",
    Action.FIX_MEDIA: "Check the media file and upload it again.",
    Action.INSPECT: "Do not retry automatically; look up the code.",
}

_RETRYABLE: Final = frozenset({Action.RETRY, Action.RETRY_ONCE, Action.RETRY_PAIR})


@dataclass(frozen=True, slots=True)
class ErrorRule:
    """One row of the table.

    Attributes:
        code: Meta's `code`.
        name: Its name in the error ledger.
        category: Its category, for telemetry and for callers.
        action: The remedy.
        subcode: Meta's `error_subcode`, if the row applies to that one only.
    """

    code: int
    name: str
    category: ErrorCategory
    action: Action
    subcode: int | None = None

    @property
    def retryable(self) -> bool:
        """Whether the same request can succeed later without a change."""
        return self.action in _RETRYABLE

    @property
    def gives_reason(self) -> bool:
        """Whether the code alone proves that the request was not carried out."""
        return self.code not in _WITHOUT_REASON

    @property
    def advice(self) -> str:
        """One sentence that explains the remedy."""
        return ADVICE[self.action]


# Failures inside Meta, and requests carried out in part: a message may have been sent.
_WITHOUT_REASON: Final = frozenset(
    {1, 2, 131000, 131016, 131201, 133004, 135000, 138004, 138007, 139100, 139103}
)

_AUTH, _THROTTLING = ErrorCategory.AUTHORIZATION, ErrorCategory.THROTTLING
_INTEGRITY, _SEND = ErrorCategory.INTEGRITY, ErrorCategory.SEND_MESSAGE
_TEMPLATE, _FLOW = ErrorCategory.TEMPLATE, ErrorCategory.FLOW
_BLOCK, _CALLING = ErrorCategory.BLOCK_USER, ErrorCategory.CALLING
_LITE, _GROUPS = ErrorCategory.MARKETING_MESSAGES_LITE, ErrorCategory.GROUPS
_REGISTRATION, _PLATFORM = ErrorCategory.REGISTRATION, ErrorCategory.PLATFORM
_OTHER = ErrorCategory.UNKNOWN

RULES: Final[tuple[ErrorRule, ...]] = (
    ErrorRule(0, "AuthException", _AUTH, Action.FIX_ACCESS),
    ErrorRule(3, "APIMethodError", _AUTH, Action.FIX_ACCESS),
    ErrorRule(10, "PermissionDeniedError", _AUTH, Action.FIX_ACCESS),
    ErrorRule(190, "ExpiredAccessTokenError", _AUTH, Action.FIX_ACCESS),
    ErrorRule(200, "APIPermissionError", _AUTH, Action.FIX_ACCESS),
    ErrorRule(4, "ToManyAPICallsError", _THROTTLING, Action.RETRY),
    ErrorRule(80007, "RateLimitIssuesError", _THROTTLING, Action.RETRY),
    ErrorRule(130429, "RateLimitHitError", _THROTTLING, Action.RETRY),
    ErrorRule(131048, "SpamRateLimitHitError", _THROTTLING, Action.PAUSE_NUMBER),
    ErrorRule(131056, "TooManyMessagesError", _THROTTLING, Action.RETRY_PAIR),
    ErrorRule(368, "TemporarilyBlockedError", _INTEGRITY, Action.PAUSE_NUMBER),
    ErrorRule(130497, "AccountRestrictedFromCountryError", _INTEGRITY, Action.FIX_ACCOUNT),
    ErrorRule(131031, "AccountLockedError", _INTEGRITY, Action.PAUSE_NUMBER),
    ErrorRule(131037, "DisplayNameNotApprovedError", _INTEGRITY, Action.FIX_ACCOUNT),
    ErrorRule(133000, "DeregistrationIncompleteError", _REGISTRATION, Action.FIX_ACCOUNT),
    ErrorRule(133004, "RegistrationUnavailableError", _REGISTRATION, Action.RETRY),
    ErrorRule(133005, "TwoStepPinMismatchError", _REGISTRATION, Action.FIX_ACCOUNT),
    ErrorRule(133006, "PhoneNumberNotVerifiedError", _REGISTRATION, Action.FIX_ACCOUNT),
    ErrorRule(133008, "TooManyPinGuessesError", _REGISTRATION, Action.FIX_ACCOUNT),
    ErrorRule(133009, "PinGuessedTooFastError", _REGISTRATION, Action.FIX_ACCOUNT),
    ErrorRule(133010, "PhoneNumberNotRegisteredError", _REGISTRATION, Action.FIX_ACCOUNT),
    ErrorRule(133015, "PhoneNumberRecentlyDeletedError", _REGISTRATION, Action.FIX_ACCOUNT),
    ErrorRule(133016, "RegistrationRateLimitError", _REGISTRATION, Action.RETRY),
    ErrorRule(1, "ApiUnknownError", _PLATFORM, Action.RETRY),
    ErrorRule(2, "ApiServiceError", _PLATFORM, Action.RETRY),
    ErrorRule(33, "ObjectMissingError", _SEND, Action.FIX_REQUEST),
    ErrorRule(100, "InvalidParameterError", _SEND, Action.FIX_REQUEST),
    ErrorRule(130472, "UserIsInExperimentGroupError", _SEND, Action.DROP_RECIPIENT),
    ErrorRule(131000, "UnknownError", _SEND, Action.RETRY),
    ErrorRule(131005, "AccessDeniedError", _SEND, Action.FIX_ACCESS),
    ErrorRule(131008, "MissingRequiredParameterError", _SEND, Action.FIX_REQUEST),
    ErrorRule(131009, "InvalidParameterError", _SEND, Action.FIX_REQUEST),
    ErrorRule(131016, "ServiceUnavailableError", _SEND, Action.RETRY),
    ErrorRule(131021, "RecipientCannotBeSenderError", _SEND, Action.DROP_RECIPIENT),
    ErrorRule(131026, "MessageUndeliverableError", _SEND, Action.DROP_RECIPIENT),
    ErrorRule(131030, "RecipientNotInAllowedListError", _SEND, Action.DROP_RECIPIENT),
    ErrorRule(131042, "BusinessPaymentIssueError", _SEND, Action.FIX_BILLING),
    ErrorRule(131044, "BusinessPaymentIssueError", _SEND, Action.FIX_BILLING),
    ErrorRule(131045, "IncorrectCertificateError", _SEND, Action.FIX_ACCESS),
    ErrorRule(131047, "ReEngagementMessageError", _SEND, Action.USE_TEMPLATE),
    ErrorRule(131049, "EcosystemEngagementLimitError", _SEND, Action.WAIT_A_DAY),
    ErrorRule(131050, "UserStoppedMarketingMessagesError", _SEND, Action.DROP_RECIPIENT),
    ErrorRule(131051, "UnsupportedMessageTypeError", _SEND, Action.FIX_REQUEST),
    ErrorRule(131052, "MediaDownloadError", _SEND, Action.FIX_MEDIA),
    ErrorRule(131053, "MediaUploadError", _SEND, Action.FIX_MEDIA),
    ErrorRule(131055, "MethodNotAllowedError", _SEND, Action.FIX_REQUEST),
    ErrorRule(131057, "AccountInMaintenanceModeError", _SEND, Action.RETRY),
    ErrorRule(131062, "UserIdRecipientUnsupportedError", _SEND, Action.FIX_REQUEST),
    ErrorRule(131063, "MarketingTemplatesDisabledError", _SEND, Action.FIX_ACCOUNT),
    ErrorRule(135000, "GenericError", _SEND, Action.RETRY_ONCE),
    ErrorRule(137000, "RecipientIdentityKeyMismatchError", _SEND, Action.FIX_REQUEST),
    ErrorRule(100, "ObjectMissingError", _SEND, Action.FIX_REQUEST, subcode=33),
    ErrorRule(131020, "GroupTooSmallError", _GROUPS, Action.FIX_REQUEST),
    ErrorRule(131041, "GroupMissingError", _GROUPS, Action.FIX_REQUEST),
    ErrorRule(131201, "GroupRequestPartlyDoneError", _GROUPS, Action.INSPECT),
    ErrorRule(131202, "GroupDuplicateParticipantError", _GROUPS, Action.FIX_REQUEST),
    ErrorRule(131204, "GroupParticipantLimitError", _GROUPS, Action.FIX_REQUEST),
    ErrorRule(131207, "GroupSuspendedError", _GROUPS, Action.FIX_ACCOUNT),
    ErrorRule(131208, "GroupOperationRateLimitError", _GROUPS, Action.RETRY),
    ErrorRule(131209, "GroupPictureNotSquareError", _GROUPS, Action.FIX_MEDIA),
    ErrorRule(131210, "GroupPictureTooSmallError", _GROUPS, Action.FIX_MEDIA),
    ErrorRule(131211, "GroupLimitReachedError", _GROUPS, Action.FIX_REQUEST),
    ErrorRule(131212, "ParticipantNotInGroupError", _GROUPS, Action.FIX_REQUEST),
    ErrorRule(131213, "JoinRequestMissingError", _GROUPS, Action.FIX_REQUEST),
    ErrorRule(131214, "GroupCreationDisabledError", _GROUPS, Action.FIX_ACCOUNT),
    ErrorRule(131215, "GroupsNotAvailableError", _GROUPS, Action.FIX_ACCOUNT),
    ErrorRule(131059, "InvalidTemplateCursorError", _TEMPLATE, Action.FIX_REQUEST),
    ErrorRule(131064, "TemplateClassificationRateLimitError", _TEMPLATE, Action.PAUSE_NUMBER),
    ErrorRule(132000, "TemplateParamCountMismatchError", _TEMPLATE, Action.FIX_REQUEST),
    ErrorRule(132001, "TemplateNotExistsError", _TEMPLATE, Action.FIX_REQUEST),
    ErrorRule(132005, "TemplateTextTooLongError", _TEMPLATE, Action.FIX_REQUEST),
    ErrorRule(132007, "TemplateContentPolicyViolationError", _TEMPLATE, Action.FIX_REQUEST),
    ErrorRule(132008, "TemplateParamValueInvalidError", _TEMPLATE, Action.FIX_REQUEST),
    ErrorRule(132012, "TemplateParamFormatMismatchError", _TEMPLATE, Action.FIX_REQUEST),
    ErrorRule(132013, "TemplateStateError", _TEMPLATE, Action.FIX_TEMPLATE),
    ErrorRule(132014, "TemplateStateError", _TEMPLATE, Action.FIX_TEMPLATE),
    ErrorRule(132015, "TemplatePausedError", _TEMPLATE, Action.FIX_TEMPLATE),
    ErrorRule(132016, "TemplateDisabledError", _TEMPLATE, Action.FIX_TEMPLATE),
    ErrorRule(132018, "InvalidTemplateParameterError", _TEMPLATE, Action.FIX_REQUEST),
    ErrorRule(132068, "FlowBlockedError", _FLOW, Action.FIX_ACCOUNT),
    ErrorRule(132069, "FlowThrottledError", _FLOW, Action.FIX_ACCOUNT),
    ErrorRule(139000, "FlowBlockedByIntegrityError", _FLOW, Action.FIX_ACCOUNT),
    ErrorRule(139001, "FlowUpdatingError", _FLOW, Action.FIX_REQUEST),
    ErrorRule(139002, "FlowPublishingError", _FLOW, Action.FIX_REQUEST),
    ErrorRule(139003, "FlowDeprecatingError", _FLOW, Action.FIX_REQUEST),
    ErrorRule(139004, "FlowDeletingError", _FLOW, Action.FIX_REQUEST),
    ErrorRule(139100, "BulkBlockingFailedError", _BLOCK, Action.INSPECT),
    ErrorRule(139101, "BlockListLimitReachedError", _BLOCK, Action.FIX_REQUEST),
    ErrorRule(139102, "BlockListConcurrentUpdateError", _BLOCK, Action.RETRY),
    ErrorRule(139103, "BlockUserInternalError", _BLOCK, Action.RETRY),
    ErrorRule(
        134100, "MarketingMessagesLiteUnsupportedMessageTypeError", _LITE, Action.FIX_REQUEST
    ),
    ErrorRule(
        134101, "MarketingMessagesLiteUnsupportedTemplateCategoryError", _LITE, Action.FIX_REQUEST
    ),
    ErrorRule(134102, "MarketingMessagesLiteInvalidFlowError", _LITE, Action.FIX_REQUEST),
    ErrorRule(
        134103, "MarketingMessagesLiteUnsupportedTemplateStructureError", _LITE, Action.FIX_REQUEST
    ),
    ErrorRule(613, "FetchCallPermissionLimitHitError", _CALLING, Action.RETRY),
    ErrorRule(138000, "CallingNotEnabledError", _CALLING, Action.FIX_ACCOUNT),
    ErrorRule(138001, "ReceiverUncallableError", _CALLING, Action.DROP_RECIPIENT),
    ErrorRule(138002, "ConcurrentCallsLimitError", _CALLING, Action.RETRY),
    ErrorRule(138003, "DuplicateCallError", _CALLING, Action.FIX_REQUEST),
    ErrorRule(138004, "CallConnectionError", _CALLING, Action.RETRY),
    ErrorRule(138005, "CallRateLimitExceededError", _CALLING, Action.RETRY),
    ErrorRule(138006, "CallPermissionNotFoundError", _CALLING, Action.FIX_REQUEST),
    ErrorRule(138007, "CallConnectionTimeoutError", _CALLING, Action.RETRY),
    ErrorRule(138009, "CallPermissionRequestLimitHitError", _CALLING, Action.WAIT_A_DAY),
    ErrorRule(138012, "BusinessInitiatedCallsLimitHitError", _CALLING, Action.WAIT_A_DAY),
    ErrorRule(138013, "FetchCallPermissionLimitHitError", _CALLING, Action.RETRY),
    ErrorRule(138018, "CallingCannotBeEnabledError", _CALLING, Action.FIX_ACCOUNT),
    ErrorRule(138021, "CallWebhookError", _CALLING, Action.INSPECT),
    ErrorRule(2593109, "HistorySharingDeclinedError", _OTHER, Action.INSPECT),
)

APP_SECRET_PROOF: Final = ErrorRule(100, "AppSecretProofError", _AUTH, Action.FIX_ACCESS)
"""Meta's refusal of a missing or wrong `appsecret_proof`, which only its text identifies."""

PERMISSION_CODES: Final = range(201, 300)
"""Every code in it is a missing permission, like 200."""

TEMPLATE_SUBCODES: Final = range(2388000, 2389000)
"""Every subcode in it is a fault of a template to create."""

TEMPLATE_CREATION: Final = "TemplateCreationError"

UNLISTED_NAMES: Final = frozenset({"GraphApiError", "GraphAuthError", "GraphRateLimitError"})
"""The name of an error without a row, or whose status does not fit its row."""

ERROR_NAMES: Final = (
    frozenset({*(rule.name for rule in RULES), TEMPLATE_CREATION, APP_SECRET_PROOF.name})
    | UNLISTED_NAMES
)
"""Every name that a refusal can have: the closed list of the error ledger."""

_BY_CODE: Final = {(rule.code, rule.subcode): rule for rule in RULES}
_THROTTLING_CODES: Final = frozenset(rule.code for rule in RULES if rule.category is _THROTTLING)


def find_rule(code: int | None, subcode: int | None = None) -> ErrorRule | None:
    """Return the row of *code*, preferably for this *subcode*; `None` if there is none."""
    if code is None:
        return None
    rule = _BY_CODE.get((code, subcode))
    if rule is None and subcode in TEMPLATE_SUBCODES:
        return ErrorRule(code, TEMPLATE_CREATION, _TEMPLATE, Action.FIX_REQUEST, subcode)
    if rule is None and code in PERMISSION_CODES:
        return ErrorRule(code, "APIPermissionError", _AUTH, Action.FIX_ACCESS)
    return rule or _BY_CODE.get((code, None))


# Meta's types are names of exceptions; any other word could be a customer's. Trace ids are short
# and hold no long number: a phone number has at least seven consecutive digits.
_TYPE: Final = re.compile(r"[A-Za-z_]{0,55}(?:Exception|Error)")
_TRACE_ID: Final = re.compile(r"(?!.*[0-9]{7})(?=.*[A-Za-z])[A-Za-z0-9_-]{1,64}")
_NUMBER: Final = re.compile(r"[0-9]{1,7}")
_HIGHEST_NUMBER: Final = 9_999_999
# Seconds, for up to eleven days, or a date; free text could be personal data.
_RETRY_AFTER: Final = re.compile(
    r"[0-9]{1,6}|[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9]{2}:[0-9]{2}:[0-9]{2} GMT"
)

_USAGE: Final = "x-business-use-case-usage"
_REGAIN: Final = "estimated_time_to_regain_access"
_LONGEST_WAIT_SECONDS: Final = 999_999

_UNAUTHORIZED: Final = frozenset({HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN})

# Returned by a proxy after a timeout, and nginx's own name for a client that hung up.
_TIMED_OUT_OR_CLOSED: Final = frozenset({HTTPStatus.REQUEST_TIMEOUT.value, 499})

_NOT_JSON: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_json(body: bytes) -> Any:
    """Return the JSON in *body*; `None` also when there is none."""
    try:
        return msgspec.json.decode(body)
    except _NOT_JSON:
        return None


def classify(status: int, headers: Mapping[str, str], body: bytes) -> GraphRefused:
    """Classify a response of *status*, which is not 2xx.

    A field of Meta's error object with an unexpected type is ignored on its own. An error object
    without `error` around it is reported and not believed.
    """
    payload = decode_json(body)
    outer = payload if isinstance(payload, dict) else {}
    wrapped = isinstance(outer.get("error"), dict)
    error: dict[str, Any] = outer["error"] if wrapped else outer

    code, subcode = _number(error.get("code")), _number(error.get("error_subcode"))
    meta_type = _matching(_TYPE, error.get("type"))
    believed = code if wrapped else None
    rule = APP_SECRET_PROOF if _is_about_proof(believed, error) else find_rule(believed, subcode)
    throttled = status == HTTPStatus.TOO_MANY_REQUESTS or (
        _is_client_error(status) and believed in _THROTTLING_CODES
    )
    auth_like = status in _UNAUTHORIZED or (
        wrapped
        and _is_client_error(status)
        and (meta_type == "OAuthException" or believed == 190 or rule is APP_SECRET_PROOF)
    )
    action = _action(rule, status)
    diagnostics = GraphDiagnostics(
        meta_code=code,
        meta_subcode=subcode,
        meta_type=meta_type,
        fbtrace_id=_matching(_TRACE_ID, error.get("fbtrace_id")),
        name=_name(rule, throttled=throttled, auth_like=auth_like),
        category=_category(rule, status, throttled=throttled),
        retryable=action in _RETRYABLE,
        advice=ADVICE[action],
        parameter=find_parameter(_texts(error)) if wrapped else None,
    )
    refused = GraphRefused(
        status,
        diagnostics,
        retry_after=_retry_after(headers) or (_regain_seconds(headers) if throttled else None),
        throttled=throttled,
        is_certain=_proves_refusal(status, error.get("code"), rule),
    )
    refused.cause = None if believed is not None else GraphCause.PROXY
    return refused


def _proves_refusal(status: int, code: object, rule: ErrorRule | None) -> bool:
    if _is_client_error(status) and status not in _TIMED_OUT_OR_CLOSED:
        return True
    # JSON errors of proxies look like Graph's, with the HTTP status as their code, or with text.
    is_integer = isinstance(code, int) and not isinstance(code, bool)
    return is_integer and rule is not None and rule.gives_reason


def _name(rule: ErrorRule | None, *, throttled: bool, auth_like: bool) -> str:
    if rule is None:
        if throttled:
            return "GraphRateLimitError"
        return "GraphAuthError" if auth_like else "GraphApiError"
    # Meta uses these codes for unrelated errors too; the status must agree.
    if rule.category is _AUTH and not auth_like:
        return "GraphApiError"
    if rule.category is _THROTTLING and not throttled:
        return "GraphApiError"
    return rule.name


def _category(rule: ErrorRule | None, status: int, *, throttled: bool) -> ErrorCategory:
    if rule is not None:
        return rule.category
    if throttled:
        return _THROTTLING
    # Meta uses OAuthException for nearly everything, so here only the status counts.
    return _AUTH if status in _UNAUTHORIZED else _OTHER


def _action(rule: ErrorRule | None, status: int) -> Action:
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        fits = rule is not None and (rule.retryable or rule.action is Action.PAUSE_NUMBER)
        return rule.action if rule is not None and fits else Action.RETRY
    if rule is not None:
        return rule.action
    if status in _UNAUTHORIZED:
        return Action.FIX_ACCESS
    return Action.RETRY if status >= HTTPStatus.INTERNAL_SERVER_ERROR else Action.INSPECT


def _is_about_proof(code: int | None, error: Mapping[str, Any]) -> bool:
    return code == APP_SECRET_PROOF.code and any("appsecret_proof" in t for t in _texts(error))


def _texts(error: Mapping[str, Any]) -> list[str]:
    """Return Meta's texts about the request; they can quote it, so they must not be passed on."""
    data = error.get("error_data")
    details = data.get("details") if isinstance(data, dict) else data
    return [text for text in (details, error.get("message")) if isinstance(text, str)]


def _is_client_error(status: int) -> bool:
    return HTTPStatus.BAD_REQUEST <= status < HTTPStatus.INTERNAL_SERVER_ERROR


def _number(value: object) -> int | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    # Meta's codes end below ten million; a longer number could be personal data.
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _HIGHEST_NUMBER:
        return value
    return None


def _matching(pattern: re.Pattern[str], value: object) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _retry_after(headers: Mapping[str, str]) -> str | None:
    values = (value.strip() for name, value in headers.items() if name.lower() == "retry-after")
    return next((value for value in values if _RETRY_AFTER.fullmatch(value)), None)


def _regain_seconds(headers: Mapping[str, str]) -> str | None:
    """Return how long Meta throttles us, from its usage header, whose unit is minutes."""
    text = next((value for name, value in headers.items() if name.lower() == _USAGE), "")
    usage = decode_json(text.encode(errors="replace"))
    accounts = usage.values() if isinstance(usage, dict) else ()
    uses = [use for uses in accounts if isinstance(uses, list) for use in uses]
    minutes = [_number(use.get(_REGAIN)) or 0 for use in uses if isinstance(use, dict)]
    seconds = min(60 * max(minutes, default=0), _LONGEST_WAIT_SECONDS)
    return str(seconds) if seconds else None
