from wats.telemetry import UNMATCHED, Method, RouteLabel
from wats.telemetry.contract.labels import (
    MAX_TARGETS,
    METHOD,
    ROUTE,
    TARGET,
    Subject,
    Subjects,
    shown_name,
)


def subjects_of(*templates: str, targets: tuple[str, ...] = ()) -> Subjects:
    routes = tuple(RouteLabel(template) for template in templates)
    return Subjects(routes=routes, adapter=None, targets=targets)


def test_clamping_gives_plain_text_of_the_closed_list():
    clamped = [METHOD.clamp(value) for value in (Method.GET, "GET", "PROPFIND", "get", 7, None)]

    assert clamped == ["GET", "GET", "unknown", "unknown", "unknown", "unknown"]
    assert {type(value) for value in clamped} == {str}


def test_the_values_of_a_route_are_the_templates_of_the_table():
    assert ROUTE.values_of(subjects_of("/healthz", UNMATCHED)) == ("/healthz", UNMATCHED)


def test_a_label_without_a_source_has_constant_values():
    assert METHOD.values_of(subjects_of(UNMATCHED)) == METHOD.values == tuple(Method)


def test_there_are_as_many_targets_however_many_have_names():
    one, all_of_them = subjects_of(targets=("a:b",)), [f"m:f{n}" for n in range(MAX_TARGETS)]

    few = TARGET.values_of(one)
    many = TARGET.values_of(subjects_of(targets=tuple(all_of_them)))

    assert (few[0], few[-1], len(set(few))) == ("a:b", "other", 32)
    assert many == (*all_of_them, "other")


def test_the_store_is_there_if_it_has_an_adapter():
    nothing = subjects_of(UNMATCHED)

    assert [nothing.have(subject) for subject in Subject] == [True, False]


def test_a_name_that_may_be_personal_data_is_not_shown():
    shown = [shown_name(each) for each in ("orders:reply", "crm-2", "crm15551234567", "Ada L", "")]

    assert shown == ["orders:reply", "crm-2", "other", "other", "other"]
