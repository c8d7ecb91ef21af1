"""The table of commands: complete, consistent, and the ids that follow from it proven over every row."""

import dataclasses
import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import normalise as normalising
from gateway.callback import Callback
from gateway.catalogue import COMMANDS, EVENT_TIMES, ROWS, Kind
from gateway.fields import name_of
from gateway.ids import FACT_DIGITS
from gateway.normalise import normalise
from gateway.samples import sample_body
from gateway.schema import data_fields

SAMPLES = sorted((Path(__file__).parent / "samples/callbacks").glob("*.json"))
DOCUMENTED = [row for row in ROWS if row.is_documented]
BY_NAME = {"ids": lambda row: row.name}
rows = st.sampled_from(ROWS)

# The reference's list: 61 of Chat, 22 of the cousin products.
NAMES = {
    "": "State.StateChange Profile.CallbackPortraitSet Alert.RequestOverLimit Bot.OnC2CMessage Bot.OnGroupMessage"
    " Chatbot.OnC2CSignalMessage ContentCallback.ResultNotify Push.OfflinePush Push.AllMemberPush"
    " Mic.CallbackAfterSeatInfoChanged",
    "Sns.Callback": "PrevFriendAdd PrevFriendResponse FriendAdd FriendDelete BlackListAdd BlackListDelete",
    "Follow.CallbackAfter": "FollowAdd FollowDelete",
    "C2C.Callback": "BeforeSendMsg AfterSendMsg AfterMsgReport AfterMsgWithDraw AfterMsgReadReceipt AfterMsgReadAll"
    " AfterModifyMsg AfterC2CMsgExtension",
    "Group.Callback": "BeforeCreateGroup AfterCreateGroup BeforeApplyJoinGroup BeforeInviteJoinGroup AfterNewMemberJoin"
    " AfterMemberExit AfterGroupFull AfterGroupDestroyed AfterGroupInfoChanged AfterMemberFieldChanged"
    " AfterGroupAttrChanged AfterChangeGroupOwner OnMemberStateChange OnDailyGroupQuotaAlarm BeforeSendMsg"
    " AfterSendMsg SendMsgException AfterRecallMsg AfterModifyMsg AfterGroupMsgExtension AfterReadReceipt"
    " BeforeCreateTopic AfterCreateTopic AfterTopicDestroyed AfterTopicInfoChanged",
    "OfficialAccount.Callback": "BeforeCreateOfficialAccount AfterCreateOfficialAccount"
    " AfterOfficialAccountInfoChanged AfterOfficialAccountDestroyed BeforeAddSubscriber AfterAddSubscriber"
    " AfterDeleteSubscriber AfterOfficialAccountFull BeforeSendMsg AfterSendMsg AfterMsgWithDraw",
    "Room.CallbackAfter": "CreateRoom UpdateRoomInfo DestroyRoom MemberEnter MemberLeave",
    "Live.Callback": "AfterCreateRoom AfterDestroyRoom AfterUpdateRoomInfo AfterMemberStateChanged AfterChangeOwner"
    " AfterModifyAdmin AfterSetMetadata AfterDelMetadata AfterCreateRoomReachingThreshold AfterCreateBattle"
    " AfterStartBattle AfterEndBattle BeforeSendGift",
    "Call.CallbackAfter": "StartCall EndCall MemberChanged",
}  # fmt: skip


def callback(body, command, **changes):
    query = f"SdkAppid=14&CallbackCommand={command}&contenttype=json&ClientIP=1.2.3.4&OptPlatform=RESTAPI"
    base = Callback("14", query, json.dumps(body).encode(), "127.0.0.1", 1_700_000_000_123, True, 1, 10)
    return base._replace(**changes)


def event_of(row, body, **changes):
    return normalise(callback(body, row.name, **changes), "j.1")[0]


def test_all_83_commands_have_a_row():
    """Every command of the reference is typed, and nothing stands twice."""
    expected = {prefix + name for prefix, names in NAMES.items() for name in names.split()}

    assert len(expected) == 83
    assert {row.name for row in DOCUMENTED} == expected
    assert len(ROWS) == len({row.name for row in ROWS}) == len({row.type for row in ROWS})


def test_older_and_unsure_names_are_known():
    """What older lists and other products call it has the same type; unverified names have one at least."""
    assert COMMANDS["Room.CallbackUpdateRoomInfo"] is COMMANDS["Room.CallbackAfterUpdateRoomInfo"]
    assert COMMANDS["Live.CallbackMemberStateChanged"] is COMMANDS["Live.CallbackAfterMemberStateChanged"]
    for name in ("Group.CallbackAfterMemberInvited", "Live.CallbackBeforeCallBackNotBlock", "call_end"):
        assert not COMMANDS[name].is_documented


@pytest.mark.parametrize("row", ROWS, **BY_NAME)
def test_types_and_phases_are_consistent(row):
    """im.<domain>.<entity>.<verb>; what may still fail ends in .requested, and nothing else does."""
    assert re.fullmatch(r"im(\.[a-z][a-z0-9_]*){2}\.[a-z]+", row.type)
    assert (row.phase == "before") == row.type.endswith(".requested")
    assert (row.phase == "before") == bool(re.search(r"Callback(Before|Prev)", row.name))
    assert row.source
    if row.phase == "alert":
        assert row.name in ("Alert.RequestOverLimit", "Group.CallbackOnDailyGroupQuotaAlarm")
    assert (row.phase == "sync") == (row.name == "Chatbot.OnC2CSignalMessage")


@pytest.mark.parametrize("row", ROWS, **BY_NAME)
def test_rows_hold_together(row):
    """Names in data are unique, kinds of subject known, objects described by fields and nothing else."""
    names = [name_of(field) for field in data_fields(row)]

    assert len(names) == len(set(names))
    assert {text.split(":")[0] for text in row.about} <= {
        "group", "topic", "c2c", "user", "official_account", "room", "call"
    }  # fmt: skip
    assert sum(field.kind in EVENT_TIMES for field in row.fields) <= 1
    for field in row.fields:
        assert not field.fields or field.kind in (Kind.OBJECT, Kind.OBJECTS)


@pytest.mark.parametrize("row", ROWS, **BY_NAME)
def test_the_sample_of_every_row_is_wholly_understood(row):
    """Each field stands under its name, the subject is what the row says, and people are named."""
    event = json.loads(event_of(row, sample_body(row)).body)
    data = event["data"]

    assert event["type"] == row.type
    for field in data_fields(row):
        target = data["message"] if name_of(field).startswith("message.") else data
        assert name_of(field).removeprefix("message.") in target
    if row.about:
        assert event["subject"].split("/")[0] in {text.split(":")[0] for text in row.about} | {"user"}
    assert (row.is_uniform and isinstance(data["subjects"], list)) or "subjects" not in data
    if row.is_uniform and row.actor and row.is_documented and "Operator_Account" in str(row.fields):
        assert isinstance(data["actor"], str)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_no_sample_is_unknown(path):
    """Every recorded body has the type of its row, with the query's command or by its own."""
    named = normalise(callback(json.loads(path.read_text()), path.stem), "j.1")
    unnamed = normalise(callback(json.loads(path.read_text()), path.stem, query="SdkAppid=14"), "j.1")

    assert {event.type for event in named} == {COMMANDS[path.stem].type}
    assert [event.id for event in named] == [event.id for event in unnamed]


def respelled(value, chance, name=""):
    """Return *value* as another sender might write it: keys shuffled, numbers as text, time as text or number."""
    if isinstance(value, dict):
        keys = list(value)
        chance.shuffle(keys)
        return {key: respelled(value[key], chance, key) for key in keys}
    if isinstance(value, list):
        return [respelled(item, chance, name) for item in value]
    if name == "EventTime":
        value = int(value)
        in_seconds = value // 1000 if value > 10**11 and value % 1000 == 0 else value
        value = chance.choice((value, in_seconds))
        return chance.choice((value, str(value)))
    if isinstance(value, int) and not isinstance(value, bool):
        return chance.choice((value, str(value)))
    return value


def renamed(row, body, chance):
    """Return *body* with other spellings of its names, as far as the row knows them."""
    other = {
        field.wire: chance.choice((field.wire, *field.also))
        for field in row.fields
        if field.also and field.wire != "TopicIdList"
    }
    if row.envelope:
        return {
            **body,
            row.envelope: [
                {other.get(key, key): item for key, item in one.items()} for one in body[row.envelope]
            ],
        }
    return {other.get(key, key): item for key, item in body.items()}


LONE = {Kind.ACCOUNT, Kind.OBJECT, Kind.GROUP_ID, Kind.TOPIC_ID, Kind.ROOM_ID, Kind.OFFICIAL_ID}
LISTS = {Kind.ACCOUNTS, Kind.TEXTS, Kind.INTS, Kind.OBJECTS, Kind.ELEMENTS}


def listed(row, body, chance):
    """Return *body* with lists of one where single values stand, and single values where lists of one stand."""
    if row.envelope:
        return {
            **body,
            row.envelope: [listed_object(row.fields, one, chance) for one in body[row.envelope]],
        }
    return listed_object(row.fields, body, chance)


def listed_object(fields, body, chance):
    known = {name: field for field in fields for name in (field.wire, *field.also)}
    return {
        name: listed_value(known[name], value, chance) if name in known else value
        for name, value in body.items()
    }


def listed_value(field, value, chance):
    if isinstance(value, dict):
        value = listed_object(field.fields, value, chance)
    elif isinstance(value, list) and field.kind is Kind.OBJECTS:
        value = [listed_object(field.fields, item, chance) for item in value]
    if field.kind in LISTS and isinstance(value, list) and len(value) == 1:
        return chance.choice((value, value[0]))
    return chance.choice((value, [value])) if field.kind in LONE else value


def timed(body, time_ms):
    """Return *body* with another EventTime, wherever it has one."""
    return json.loads(re.sub(r'("EventTime": "?)\d+', rf"\g<1>{time_ms}", json.dumps(body)))


@given(rows, st.randoms(), st.integers(10**12, 2 * 10**12), st.booleans(), st.integers(0, 10**9))
def test_equal_facts_have_one_id(row, chance, time_ms, whole_seconds, later_ms):
    """Order of keys, text or number, GroupId or GroupID, a list of one or its item, another Sign: one fact."""
    body = timed(sample_body(row), time_ms // 1000 * 1000 if whole_seconds else time_ms)
    other = renamed(row, listed(row, respelled(body, chance), chance), chance)
    first = callback(body, row.name)
    waits = later_ms if "EventTime" in json.dumps(body) else 0
    again = callback(other, row.name, received_ms=first.received_ms + waits, verified=False, peer="9.9.9.9")
    again = again._replace(query=again.query + f"&RequestTime={later_ms}&RequestID=x")

    event, same = normalise(first, "j.1")[0], normalise(again, "j.2")[0]
    assert same.id == event.id
    assert same.partition_key == event.partition_key


@given(rows, st.randoms(), st.booleans())
def test_equal_facts_of_unknown_commands_have_one_id(row, chance, is_timed):
    """The body in its canonical form counts: no order of keys, no lists of one, 5 or "5", and no receipt."""
    body = {**sample_body(row), "EventTime": 1_670_574_414_000}
    other = loosely_listed(respelled(body, chance), chance)
    later_ms = 10**9 if is_timed else 0
    if not is_timed:
        for one in (body, other):
            del one["EventTime"]
    first = callback(body, "New.Thing")
    again = callback(other, "New.Thing", received_ms=first.received_ms + later_ms)

    assert normalise(first, "j.1")[0].type == "im.unknown"
    assert normalise(first, "j.1")[0].id == normalise(again, "j.2")[0].id


@given(rows, st.data())
def test_different_facts_of_unknown_commands_have_different_ids(row, data):
    """Every value counts, the one in a list of one too; and the app, the command and the time."""
    body = {**sample_body(row), "EventTime": 1_670_574_414_000}
    places = list(parts(body))
    path = data.draw(st.sampled_from(places)) if places else None
    others = [callback({**body, "EventTime": 1_670_574_415_000}, "New.Thing"), callback(body, "New.Other")]
    others.append(callback(body, "New.Thing", app_id="15"))
    if path:
        others.append(callback(changed(body, path), "New.Thing"))
    ids = {normalise(one, "j.1")[0].id for one in (callback(body, "New.Thing"), *others)}

    assert len(ids) == 1 + len(others), path


def loosely_listed(value, chance, name=""):
    """Return *value* with lists of one and single values in each other's place, at any depth but not of times."""
    if isinstance(value, dict):
        value = {key: loosely_listed(item, chance, key) for key, item in value.items()}
    elif isinstance(value, list):
        items = [loosely_listed(item, chance) for item in value]
        value = items[0] if len(items) == 1 and chance.random() < 0.5 else items
    if not name or name in ("EventTime", "MsgTime") or isinstance(value, list):
        return value
    return chance.choice((value, [value]))


@given(st.integers(), st.integers(1, 10**6), st.sampled_from(["New.Thing", "Sns.CallbackFriendDelete"]))
def test_the_window_changes_only_the_last_half_of_an_id(number, windows, command):
    """What the receipt takes part in begins with the fact, so that whoever sent it knows half of the id."""
    first = callback({"N": number}, command)
    later = first._replace(received_ms=first.received_ms + windows * 10_000)
    one, same_fact, other_fact = (
        normalise(stored, "j.1")[0].id for stored in (first, later, callback({"N": number + 1}, command))
    )

    assert one[:FACT_DIGITS] == same_fact[:FACT_DIGITS] != other_fact[:FACT_DIGITS]
    assert one[FACT_DIGITS:] != same_fact[FACT_DIGITS:]


def parts(value, path=()):
    """Yield the paths to all scalars that tell facts apart."""
    if isinstance(value, dict):
        for key, item in value.items():
            if key not in ("CallbackCommand", "EventTime"):
                yield from parts(item, (*path, key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from parts(item, (*path, at))
    else:
        yield path


def changed(value, path):
    """Return *value* with the scalar at *path* replaced by another."""
    if not path:
        return value + 7 if isinstance(value, int) and not isinstance(value, bool) else f"{value} other"
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(copy[path[0]], path[1:])
    return copy


def of_fact(row, path):
    """Say whether the row counts what stands at *path* as part of the fact."""
    if not row.fact:
        return True
    wanted = [text.rstrip("?") for text in row.fact]
    named = [part for part in path if isinstance(part, str) and part != row.envelope]
    return any(".".join(named[: len(text.split("."))]) == text for text in wanted)


@given(rows, st.data())
def test_different_facts_have_different_ids(row, data):
    """Another time, or another value in what the row counts, is another fact."""
    body = sample_body(row)
    places = [path for path in parts(body) if of_fact(row, path)]
    path = data.draw(st.sampled_from(places)) if places else None
    others = [changed(body, path)] if path else []
    if "EventTime" in json.dumps(body):
        others.append(timed(body, 1_670_574_414_124 if "Push" not in row.name else 1_670_574_415))
    ids = {event_of(row, one).id for one in (body, *others)}

    assert len(ids) == 1 + len(others), (row.name, path)


@pytest.mark.parametrize("row", [row for row in ROWS if row.fact], **BY_NAME)
def test_lists_of_accounts_in_a_fact_count_without_order(row):
    """The same people in another order are the same fact, one more of them is another."""
    body = sample_body(row)
    lists = [
        (field.wire, field.item)
        for field in row.fields
        if field.kind is Kind.ACCOUNTS and field.wire in str(row.fact)
    ]
    for wire, item in lists:
        objects = [[{item: one} if item else one for one in names] for names in ("ab", "ba", "abc")]
        spellings = [*objects, ["b", "a"]]
        ids = [event_of(row, {**body, wire: spelling}).id for spelling in spellings]

        assert ids[0] == ids[1] == ids[3] != ids[2]


@given(rows, st.integers(1, 86_400))
def test_a_later_release_gives_the_old_id(row, window_s):
    """A better type, better names or another window in the config change no id of what is stored."""
    body = sample_body(row)
    fields = tuple(dataclasses.replace(field, name=f"better.{at}") for at, field in enumerate(row.fields))
    better = dataclasses.replace(
        row, type="im.better.type.found", fields=fields, about=(), actor=(), mend=None
    )
    stored = callback(body, row.name)
    before = normalise(stored, "j.1")[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalising, "COMMANDS", {**COMMANDS, row.name: better})
        after = normalise(stored, "j.1")[0]

    assert (after.type, after.id) == ("im.better.type.found", before.id)
    if "EventTime" not in json.dumps(body) and not row.once:
        narrow, wide = (event_of(row, body, id_window_s=one).id for one in (1, window_s + 1))
        assert narrow != wide  # the window that was stored with it counts, and no other


@given(rows)
def test_a_row_added_later_keeps_the_ids_of_what_was_unknown(row):
    """A callback stored when its command was unknown has that id for ever: rows say since when they hold."""
    stored = callback(sample_body(row), row.name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(normalising, "COMMANDS", {})
        unknown = normalise(stored, "j.1")[0]
        patch.setattr(normalising, "COMMANDS", {row.name: dataclasses.replace(row, since=2)})
        known = normalise(stored, "j.1")[0]

    assert (unknown.type, known.type) == ("im.unknown", row.type)
    assert unknown.id == known.id


def test_the_ids_of_the_samples_never_change():
    """Recipe 1 over all recorded bodies: when this fails, write recipe 2 instead."""
    pinned = json.loads((Path(__file__).parent / "samples/ids-recipe-1.json").read_text())

    assert len({one["command"] for one in pinned}) >= 83
    for one in pinned:
        events = normalise(callback(one["body"], one["command"]), "j.1")
        assert [event.id for event in events] == one["ids"], one["command"]


def test_chance_is_fair():
    """The respelling does change something, else the property above would be empty."""
    body = {"EventTime": 1_670_574_414_000, "A": 1, "B": [2, 3], "C": {"D": 4}}
    seen = {json.dumps(respelled(body, random.Random(seed))) for seed in range(20)}

    assert len(seen) > 5
