"""The content of accounts, business numbers, templates and flows, by field. No I/O."""

from typing import Any

from wats.inbound.parts import Moment, Part


class RestrictionInfo(Part, frozen=True):
    """A restriction of an account, and its end."""

    restriction_type: str | None = None
    expiration: Moment | None = None
    remediation: str | None = None


class ViolationInfo(Part, frozen=True):
    """The violated policy."""

    violation_type: str | None = None
    remediation: str | None = None


class BanInfo(Part, frozen=True):
    """The state of a ban, with its date as Meta writes it."""

    waba_ban_state: str | None = None
    waba_ban_date: str | None = None


class WabaInfo(Part, frozen=True):
    """The account that an event is about, and its partners."""

    waba_id: str | None = None
    owner_business_id: str | None = None
    ad_account_linked: str | None = None
    partner_app_id: str | None = None
    solution_id: str | None = None
    solution_partner_business_ids: tuple[str, ...] = ()
    onboarding_status: str | None = None
    lite_api_status: str | None = None


class DisconnectionInfo(Part, frozen=True):
    """Why an account was disconnected, and from which partner."""

    reason: str | None = None
    initiated_by: str | None = None
    partner_id: str | None = None
    partner_name: str | None = None


class RateException(Part, frozen=True):
    """A country with a start time of its own."""

    country_code: str | None = None
    start_time: Moment | None = None


class RateEligibility(Part, frozen=True):
    """Since when the rates of international authentication messages apply."""

    start_time: Moment | None = None
    exception_countries: tuple[RateException, ...] = ()


class CertificationInfo(Part, frozen=True):
    """The certification of a client of a partner."""

    client_business_id: str | None = None
    status: str | None = None
    rejection_reasons: tuple[str, ...] = ()


class VolumeTier(Part, frozen=True):
    """The tier of the prices by volume."""

    tier_update_time: Moment | None = None
    pricing_category: str | None = None
    tier: str | None = None
    effective_month: str | None = None
    region: str | None = None


class AccountUpdate(Part, frozen=True):
    """A change of an account; `event` names it, and one of the other fields has the details."""

    event: str | None = None
    country: str | None = None
    phone_number: str | None = None
    restriction_info: tuple[RestrictionInfo, ...] = ()
    violation_info: ViolationInfo | None = None
    ban_info: BanInfo | None = None
    waba_info: WabaInfo | None = None
    disconnection_info: DisconnectionInfo | None = None
    auth_international_rate_eligibility: RateEligibility | None = None
    partner_client_certification_info: CertificationInfo | None = None
    volume_tier_info: VolumeTier | None = None


class AlertInfo(Part, frozen=True):
    """The severity, state and description of an alert."""

    alert_severity: str | None = None
    alert_status: str | None = None
    alert_type: str | None = None
    alert_description: str | None = None


class AccountAlert(Part, frozen=True):
    """An alert about an account, a number or a business."""

    entity_type: str | None = None
    entity_id: str | None = None
    alert_info: AlertInfo | None = None


class AccountReview(Part, frozen=True):
    """The decision of the review of an account."""

    decision: str | None = None


class OperatingHours(Part, frozen=True):
    """The hours of one day of the week, as `0900`."""

    day_of_week: str | None = None
    open_time: str | None = None
    close_time: str | None = None


class Holiday(Part, frozen=True):
    """The hours of one date."""

    date: str | None = None
    start_time: str | None = None
    end_time: str | None = None


class CallHours(Part, frozen=True):
    """When a number can be called."""

    status: str | None = None
    timezone_id: str | None = None
    weekly_operating_hours: tuple[OperatingHours, ...] = ()
    holiday_schedule: tuple[Holiday, ...] = ()


class CallIcons(Part, frozen=True):
    """The countries whose customers see the call icon."""

    restrict_to_user_countries: tuple[str, ...] = ()


class SipServer(Part, frozen=True):
    """A SIP server that calls are passed to."""

    hostname: str | None = None
    port: int | None = None
    request_uri_user_params: dict[str, Any] | None = None


class SipSettings(Part, frozen=True):
    """Whether calls are passed to SIP servers."""

    status: str | None = None
    servers: tuple[SipServer, ...] = ()


class CallingSettings(Part, frozen=True):
    """The settings of calls of a number."""

    status: str | None = None
    call_icon_visibility: str | None = None
    callback_permission_status: str | None = None
    call_icons: CallIcons | None = None
    call_hours: CallHours | None = None
    sip: SipSettings | None = None


class NumberSettings(Part, frozen=True):
    """The settings of a business number."""

    phone_number_id: str | None = None
    calling: CallingSettings | None = None


class AccountSettings(Part, frozen=True):
    """Settings that changed, by `type`."""

    messaging_product: str | None = None
    type: str | None = None
    timestamp: Moment | None = None
    phone_number_settings: NumberSettings | None = None


class BusinessCapability(Part, frozen=True):
    """The limits of an account. Meta writes a limit as a tier or as a number."""

    max_daily_conversation_per_phone: str | None = None
    max_daily_conversations_per_business: str | None = None
    max_phone_numbers_per_business: int | None = None
    max_phone_numbers_per_waba: int | None = None


class BusinessStatus(Part, frozen=True):
    """A change of a business portfolio."""

    business_id: str | None = None
    event: str | None = None


class BusinessUsername(Part, frozen=True):
    """The username of a business number was reserved, approved or deleted."""

    display_phone_number: str | None = None
    username: str | None = None
    status: str | None = None


class PartnerSolution(Part, frozen=True):
    """A solution of several partners was created or changed."""

    event: str | None = None
    solution_id: str | None = None
    solution_status: str | None = None


class PaymentConfiguration(Part, frozen=True):
    """The state of a configuration for payments."""

    configuration_name: str | None = None
    provider_name: str | None = None
    provider_mid: str | None = None
    status: str | None = None
    created_timestamp: Moment | None = None
    updated_timestamp: Moment | None = None


class NumberName(Part, frozen=True):
    """The decision about the display name of a number."""

    display_phone_number: str | None = None
    decision: str | None = None
    requested_verified_name: str | None = None
    rejection_reason: str | None = None


class NumberQuality(Part, frozen=True):
    """The quality rating or the limit of a number changed."""

    display_phone_number: str | None = None
    event: str | None = None
    old_limit: str | None = None
    current_limit: str | None = None
    max_daily_conversations_per_business: str | None = None


class SecurityEvent(Part, frozen=True):
    """The PIN of a number was changed or reset, or a reset was requested."""

    display_phone_number: str | None = None
    event: str | None = None
    requester: str | None = None


class RejectionInfo(Part, frozen=True):
    """Why a template was rejected, and how to change it."""

    reason: str | None = None
    recommendation: str | None = None


class DisableInfo(Part, frozen=True):
    """When a template was disabled, as Meta writes it."""

    disable_date: str | None = None


class OtherInfo(Part, frozen=True):
    """More about the status of a template, such as its pause."""

    title: str | None = None
    description: str | None = None


class TemplateStatus(Part, frozen=True):
    """The status of a template, such as `APPROVED`, in `event`."""

    message_template_id: str | None = None
    message_template_name: str | None = None
    message_template_language: str | None = None
    message_template_category: str | None = None
    event: str | None = None
    reason: str | None = None
    rejection_info: RejectionInfo | None = None
    disable_info: DisableInfo | None = None
    other_info: OtherInfo | None = None


class TemplateQuality(Part, frozen=True):
    """The quality rating of a template changed."""

    message_template_id: str | None = None
    message_template_name: str | None = None
    message_template_language: str | None = None
    previous_quality_score: str | None = None
    new_quality_score: str | None = None


class TemplateButton(Part, frozen=True):
    """A button of a template."""

    message_template_button_type: str | None = None
    message_template_button_text: str | None = None
    message_template_button_url: str | None = None
    message_template_button_phone_number: str | None = None


class TemplateComponents(Part, frozen=True):
    """The new text and buttons of a template."""

    message_template_id: str | None = None
    message_template_name: str | None = None
    message_template_language: str | None = None
    message_template_title: str | None = None
    message_template_element: str | None = None
    message_template_footer: str | None = None
    message_template_buttons: tuple[TemplateButton, ...] = ()


class TemplateCategory(Part, frozen=True):
    """The category of a template changed, or will.

    A change in the future has the present category in `new_category` and the future one in
    `correct_category`.
    """

    message_template_id: str | None = None
    message_template_name: str | None = None
    message_template_language: str | None = None
    previous_category: str | None = None
    new_category: str | None = None
    correct_category: str | None = None
    category_update_timestamp: Moment | None = None


class TemplateCategoryDetection(Part, frozen=True):
    """A template whose category Meta considers wrong."""

    message_template_id: str | None = None
    message_template_name: str | None = None
    message_template_language: str | None = None
    category: str | None = None
    correct_category: str | None = None


class FlowError(Part, frozen=True):
    """How often an error of a flow occurred."""

    error_type: str | None = None
    error_rate: float | None = None
    error_count: int | None = None


class FlowEvent(Part, frozen=True):
    """The state or the health of a flow; `event` names the figures that are filled."""

    flow_id: str | None = None
    event: str | None = None
    message: str | None = None
    old_status: str | None = None
    new_status: str | None = None
    alert_state: str | None = None
    threshold: float | None = None
    error_rate: float | None = None
    errors: tuple[FlowError, ...] = ()
    p50_latency: float | None = None
    p90_latency: float | None = None
    requests_count: int | None = None
    availability: float | None = None
    warning: str | None = None
