"""Schemas: events validate against them, independent readers take them, the documentation is fresh."""

import gzip
import json
from datetime import datetime
from pathlib import Path

import pytest
import yaml
from cloudevents.core.v1.event import CloudEvent
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft7Validator, Draft202012Validator
from typer.testing import CliRunner

from gateway import cli
from gateway.cli.markdown import MARKER, markdown
from gateway.cli.schema import config_schema
from gateway.normalise import malformed, normalise
from gateway.schema import asyncapi, event_schema, event_types
from tests.test_catalogue import ROWS, SAMPLES, callback, event_of, sample_body
from tests.test_normalise import commands, json_values, wire_names

HERE = Path(__file__).parent
VALIDATORS = {name: Draft202012Validator(event_schema(name)) for name in event_types()}


def assert_valid(event):
    """The event fits its schema, and the CloudEvents SDK reads it."""
    read = json.loads(event.body)
    VALIDATORS[event.type].validate(read)
    data = read.pop("data")
    accepted = CloudEvent(attributes={**read, "time": datetime.fromisoformat(read["time"])}, data=data)
    assert (accepted.get_id(), accepted.get_type()) == (event.id, event.type)


@pytest.mark.parametrize("name", event_types())
def test_every_schema_is_one(name):
    """Each is valid JSON Schema 2020-12, and open: only the envelope is required."""
    schema = event_schema(name)

    Draft202012Validator.check_schema(schema)
    assert "enum" not in json.dumps(schema)
    assert "additionalProperties" not in json.dumps(schema)
    assert "required" not in schema["properties"]["data"]


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_every_sample_validates(path):
    """All recorded bodies."""
    for event in normalise(callback(json.loads(path.read_text()), path.stem), "j.1"):
        assert_valid(event)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_every_row_validates(row):
    """All commands, those without a recorded body included."""
    assert_valid(event_of(row, sample_body(row)))
    assert_valid(event_of(row, {}))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(st.dictionaries(wire_names | st.text(max_size=8), json_values, max_size=8), commands)
def test_any_body_gives_valid_events(body, command):
    """Whatever stands in the fields: what does not fit goes elsewhere, so the types hold."""
    for event in normalise(callback(body, command), "j.1"):
        VALIDATORS[event.type].validate(json.loads(event.body))


@settings(deadline=None)
@given(st.sampled_from(ROWS), st.data())
def test_any_value_in_any_known_field_gives_valid_events(row, data):
    """Each known field of each command with a value of another shape."""
    body = sample_body(row)
    inner = body[row.envelope][0] if row.envelope else body
    wire = data.draw(st.sampled_from(sorted(inner)))
    inner[wire] = data.draw(json_values)

    for event in normalise(callback(body, row.name), "j.1"):
        VALIDATORS[event.type].validate(json.loads(event.body))


def test_malformed_events_validate():
    """What is no JSON object has a schema as well."""
    assert_valid(malformed(callback({}, "A.B")._replace(body=b"\xff"), "j.1", "malformed_body"))
    assert_valid(malformed(callback({}, "A.B"), "j.1", "refused_by_broker", with_body=False))


def test_the_asyncapi_document_validates():
    """By the official schema of AsyncAPI 3.0.0 (npm @asyncapi/specs 6.11.1, Apache-2.0)."""
    official = json.loads(gzip.decompress((HERE / "samples/asyncapi/3.0.0.json.gz").read_bytes()))
    document = asyncapi("im.events", "1.0")

    Draft7Validator(official).validate(document)
    assert len(document["channels"]) == len(event_types())
    for reference in json.dumps(document).split('"$ref": "#/')[1:]:
        place = document
        for key in reference.split('"')[0].split("/"):
            place = place[key]


def test_the_shipped_configuration_validates():
    """config.yaml fits the printed schema, and a wrong key does not."""
    validator = Draft202012Validator(config_schema())
    shown = yaml.safe_load((HERE.parent / "config.yaml").read_text())

    Draft202012Validator.check_schema(config_schema())
    validator.validate(shown)
    assert not validator.is_valid({**shown, "listne": {}})


def test_the_documentation_is_fresh():
    """docs/events.md is generated below its marker: gateway schema --markdown."""
    text = (HERE.parent / "docs/events.md").read_text()
    head, found, generated = text.partition(f"{MARKER}\n\n")

    assert found, "the marker is gone"
    assert "## data" in head
    assert generated == markdown(), "stale: write it again with `gateway schema --markdown`"


@pytest.mark.parametrize(
    ("arguments", "has"),
    [
        ([], '"title": "Config"'),
        (["im.group.member.exited"], "urn:im-gateway:event:im.group.member.exited:1"),
        (["--events"], '"im.malformed"'),
        (["--asyncapi"], '"asyncapi": "3.0.0"'),
        (["--asyncapi", "--exchange", "x.events"], '"name": "x.events"'),
        (["--markdown"], "### im.group.member.exited"),
    ],
)
def test_the_command_prints_them(arguments, has):
    """`gateway schema` in all its forms; JSON is JSON."""
    result = CliRunner().invoke(cli.app, ["schema", *arguments])

    assert result.exit_code == 0
    assert has in result.output
    if "--markdown" not in arguments:
        json.loads(result.output)


def test_a_wrong_type_names_the_nearest():
    """A slip is found like one in the configuration."""
    result = CliRunner().invoke(cli.app, ["schema", "im.group.member.exit"])

    assert result.exit_code == 2
    assert "im.group.member.exited" in result.output
