from typing import Any

import pytest

NUMBER = "200000000000002"
GROUPS = f"/v25.0/{NUMBER}/groups"
PRODUCT = {"messaging_product": "whatsapp"}
PERSON = "15550002222"


async def create(meta: Any, receiver: Any, **changes: Any) -> str:
    """Create a group and return its id, which only the webhook reports."""
    _, answer = await meta.graph.call("POST", GROUPS, {**PRODUCT, "subject": "Tea", **changes})
    await meta.simulator.settle()
    [item] = [
        item
        for item in receiver.items("groups", "group_lifecycle_update")
        if item["request_id"] == answer["request_id"]
    ]
    group_id: str = item["group_id"]
    return group_id


async def test_a_created_group_is_reported_by_webhook(meta: Any, receiver: Any) -> None:
    group_id = await create(
        meta, receiver, description="a\nb", join_approval_mode="approval_required"
    )

    [item] = receiver.items("groups", "group_lifecycle_update")
    assert item["type"] == "group_create"
    assert item["subject"] == "Tea"
    assert item["description"] == "a\nb"
    assert item["join_approval_mode"] == "approval_required"
    assert item["invite_link"].startswith("https://")
    status, group = await meta.graph.call("GET", f"/v25.0/{group_id}")
    assert (status, group["subject"], group["participants"]) == (200, "Tea", [])


@pytest.mark.parametrize(
    "body",
    [
        {"subject": "Tea"},
        PRODUCT,
        {**PRODUCT, "subject": "x" * 129},
        {**PRODUCT, "subject": 1},
        {**PRODUCT, "subject": "x", "description": "x" * 2049},
        {**PRODUCT, "subject": "x", "join_approval_mode": "maybe"},
    ],
)
async def test_a_faulty_group_is_refused(meta: Any, body: dict[str, Any]) -> None:
    status, answer = await meta.graph.call("POST", GROUPS, body)

    assert (status, answer["error"]["code"]) == (400, 100)


async def test_groups_are_listed_page_by_page(meta: Any, receiver: Any) -> None:
    ids = [await create(meta, receiver) for _ in range(5)]

    _, first = await meta.graph.call("GET", f"{GROUPS}?limit=2")
    after = first["paging"]["cursors"]["after"]
    _, second = await meta.graph.call("GET", f"{GROUPS}?limit=2&after={after}")
    before = second["paging"]["cursors"]["before"]
    _, back = await meta.graph.call("GET", f"{GROUPS}?limit=2&before={before}")
    _, whole = await meta.graph.call("GET", f"{GROUPS}?limit=none")

    pages = [[group["id"] for group in page["data"]["groups"]] for page in (first, second, back)]
    assert pages == [ids[:2], ids[2:4], ids[:2]]
    assert [group["id"] for group in whole["data"]["groups"]] == ids


async def test_only_the_requested_fields_are_returned(meta: Any, receiver: Any) -> None:
    group_id = await create(meta, receiver)

    _, group = await meta.graph.call("GET", f"/v25.0/{group_id}?fields=subject,suspended")

    assert group == {**PRODUCT, "id": group_id, "subject": "Tea", "suspended": False}


async def test_a_change_is_reported_by_webhook(meta: Any, receiver: Any) -> None:
    group_id = await create(meta, receiver)

    status, answer = await meta.graph.call(
        "POST", f"/v25.0/{group_id}", {**PRODUCT, "subject": "Coffee"}
    )
    await meta.simulator.settle()

    [item] = receiver.items("groups", "group_settings_update")
    assert (status, item["request_id"]) == (200, answer["request_id"])
    assert item["group_subject"] == {"text": "Coffee", "update_successful": True}
    _, group = await meta.graph.call("GET", f"/v25.0/{group_id}")
    assert group["subject"] == "Coffee"


async def test_a_change_without_fields_is_refused(meta: Any, receiver: Any) -> None:
    group_id = await create(meta, receiver)

    status, _ = await meta.graph.call("POST", f"/v25.0/{group_id}", PRODUCT)

    assert status == 400


async def test_a_deleted_group_does_not_exist(meta: Any, receiver: Any) -> None:
    group_id = await create(meta, receiver)

    status, _ = await meta.graph.call("DELETE", f"/v25.0/{group_id}")
    await meta.simulator.settle()

    assert status == 200
    assert receiver.items("groups", "group_lifecycle_update")[-1]["type"] == "group_delete"
    status, answer = await meta.graph.call("GET", f"/v25.0/{group_id}")
    assert (status, answer["error"]["error_subcode"]) == (400, 33)
    status, _ = await meta.graph.call("PUT", f"/v25.0/{group_id}", PRODUCT)
    assert status == 400


async def test_the_invite_link_can_be_reset(meta: Any, receiver: Any) -> None:
    path = f"/v25.0/{await create(meta, receiver)}/invite_link"

    _, first = await meta.graph.call("GET", path)
    _, second = await meta.graph.call("POST", path, PRODUCT)
    _, third = await meta.graph.call("GET", path)

    assert first["invite_link"] != second["invite_link"] == third["invite_link"]


async def test_a_participant_joins_by_link_and_is_removed(meta: Any, receiver: Any) -> None:
    group_id = await create(meta, receiver)
    people = {**PRODUCT, "participants": [{"user": PERSON}]}

    for _ in range(2):
        meta.simulator.join_group(group_id, PERSON)
    await meta.simulator.settle()
    _, group = await meta.graph.call("GET", f"/v25.0/{group_id}")
    status, answer = await meta.graph.call("DELETE", f"/v25.0/{group_id}/participants", people)
    again, refused = await meta.graph.call("DELETE", f"/v25.0/{group_id}/participants", people)
    await meta.simulator.settle()

    added, _, removed = receiver.items("groups", "group_participants_update")
    assert group["participants"] == [{"wa_id": PERSON}]
    assert (added["type"], added["reason"]) == ("group_participants_add", "invite_link")
    assert (status, removed["request_id"]) == (200, answer["request_id"])
    assert removed["removed_participants"] == [{"input": PERSON}]
    assert (again, refused["error"]["code"]) == (400, 131212)


@pytest.mark.parametrize("participants", [None, [], ["x"], [{"user": "x"}] * 9])
async def test_a_faulty_removal_is_refused(meta: Any, receiver: Any, participants: object) -> None:
    path = f"/v25.0/{await create(meta, receiver)}/participants"

    status, _ = await meta.graph.call("DELETE", path, {**PRODUCT, "participants": participants})

    assert status == 400


async def test_join_requests_are_approved_and_rejected(meta: Any, receiver: Any) -> None:
    group_id = await create(meta, receiver, join_approval_mode="approval_required")
    path = f"/v25.0/{group_id}/join_requests"
    for person in ("15550002222", "15550003333"):
        meta.simulator.join_group(group_id, person)
    await meta.simulator.settle()

    _, listed = await meta.graph.call("GET", path)
    first, second = [row["join_request_id"] for row in listed["data"]]
    _, approved = await meta.graph.call(
        "POST", path, {**PRODUCT, "join_requests": [first, "unknown"]}
    )
    _, rejected = await meta.graph.call("DELETE", path, {**PRODUCT, "join_requests": [second]})
    await meta.simulator.settle()

    assert approved["approved_join_requests"] == [first]
    [failed] = approved["failed_join_requests"]
    assert failed["join_request_id"] == "unknown"
    assert failed["errors"][0]["code"] == 131213
    assert rejected == {**PRODUCT, "rejected_join_requests": [second]}
    items = receiver.items("groups", "group_participants_update")
    assert [item["type"] for item in items] == [
        "group_join_request_created",
        "group_join_request_created",
        "group_participants_add",
    ]
    _, empty = await meta.graph.call("GET", path)
    assert empty["data"] == []


@pytest.mark.parametrize("ids", [None, [], [1], [{"join_request_id": "x"}]])
async def test_join_requests_are_ids_and_not_objects(meta: Any, receiver: Any, ids: object) -> None:
    path = f"/v25.0/{await create(meta, receiver)}/join_requests"

    status, _ = await meta.graph.call("POST", path, {**PRODUCT, "join_requests": ids})

    assert status == 400


async def test_a_group_can_receive_and_send_messages(meta: Any, receiver: Any) -> None:
    group_id = await create(meta, receiver)
    for person in ("15550002222", "15550003333"):
        meta.simulator.join_group(group_id, person)

    status, answer = await meta.graph.send(group_id, recipient_type="group")
    meta.simulator.inbound("15550002222", "Hi", group_id=group_id)
    await meta.simulator.settle()

    assert status == 200
    wamid = answer["messages"][0]["id"]
    assert receiver.statuses_of(wamid) == ["sent", *["delivered"] * 2, *["read"] * 2]
    people = [item.get("recipient_participant_id") for item in receiver.items("statuses")]
    assert people == [None, *["15550002222", "15550003333"] * 2]
    [message] = receiver.items("messages")
    assert message["group_id"] == group_id


async def test_a_message_to_a_group_deleted_meanwhile_has_statuses(
    meta: Any, receiver: Any
) -> None:
    group_id = await create(meta, receiver)

    await meta.graph.send(group_id, recipient_type="group")
    await meta.graph.call("DELETE", f"/v25.0/{group_id}")
    await meta.simulator.settle()

    assert receiver.items("statuses")[0]["recipient_type"] == "group"
