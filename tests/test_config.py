"""The configuration file: defaults, errors in words, secrets."""

import re
import textwrap
from importlib import import_module
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import build
from gateway.banner import banner, local_url
from gateway.config import (
    AmqpSink,
    App,
    Config,
    HttpSink,
    JsonlSink,
    MysqlSink,
    PluginSink,
    PostgresSink,
    PythonSink,
    RedisSink,
    SinkBase,
    SqliteSink,
    compiled,
    load,
    mask_url,
    masked,
)
from gateway.config.sinks import KINDS
from gateway.errors import ConfigError

SHIPPED = Path(__file__).parent.parent / "config.yaml"
# What the examples of the documentation take from the environment.
ENVIRON = {
    "CRM_PASSWORD": "x",
    "CACHE_PASSWORD": "x",
    "COPY_PASSWORD": "x",
    "HOOK_SECRET": f"whsec_{'A' * 32}",
}


def config_of(tmp_path, text, environ=None):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return load(path, environ or {})


def fault_of(tmp_path, text, environ=None):
    with pytest.raises(ConfigError) as caught:
        config_of(tmp_path, text, environ)
    return str(caught.value)


def shown():
    """Return the shipped file as plain values, the sink that is commented out included."""
    text = SHIPPED.read_text()
    return yaml.safe_load(re.sub(r"^  # ( *[a-z_]+:)", r"  \1", text, flags=re.M))


@pytest.mark.parametrize("section", ["listen", "admin", "console", "journal", "broker", "log"])
def test_the_shown_defaults_are_the_real_ones(section):
    """Every key of a section stands in config.yaml with the value it has when left out."""
    real = Config().model_dump(mode="json")[section]
    if section == "admin":
        real["token"] = ""

    assert shown()[section] == real


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("audit", JsonlSink),
        ("exits", SqliteSink),
        ("crm", PostgresSink),
        ("shop", MysqlSink),
        ("copy", AmqpSink),
        ("own", PythonSink),
        ("cache", RedisSink),
        ("hook", HttpSink),
    ],
)
def test_the_shown_sinks_have_every_key_with_its_default(name, model):
    """A sink in config.yaml shows all keys of its kind, the first one also what all have, and their defaults."""
    sink = shown()["sinks"][name]
    own = set(model.model_fields) - set(SinkBase.model_fields)

    assert set(sink) >= (set(model.model_fields) if name == "audit" else own)
    for key in sink:
        field = model.model_fields[key]
        if not field.is_required() and key != "events":
            default = field.get_default(call_default_factory=True)
            default = list(default) if isinstance(default, tuple) else default
            assert sink[key] == default, key


SINKS_PAGE = (SHIPPED.parent / "docs/sinks.md").read_text()
EXAMPLES = re.findall(r"^    sinks:\n(?:^    .*\n|^\n(?=    ))+", SINKS_PAGE, flags=re.M)


@pytest.mark.parametrize("example", EXAMPLES)
def test_the_examples_of_the_sinks_page_can_be_used(tmp_path, example):
    """Whoever copies one into a file gets what the page says."""
    apps = "apps: {1400000000: {}, 1400000001: {}}\n"

    assert build.check(config_of(tmp_path, apps + textwrap.dedent(example), ENVIRON))


def test_the_expressions_of_the_sinks_page_can_be_used():
    """The same for what stands in its tables."""
    found = re.findall(r"\| ``?(\{.*?\}|merge\(.*?\))``? \|", SINKS_PAGE)

    assert len(found) == 3
    assert all(compiled(one) for one in found)


OWN = "sinks: {a: {kind: sqlite, path: x, %s}}"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ("columns: {k: id}", "sinks.a: columns describe a table of your own: name it in table"),
        ("each: data.members, key: [k]", "sinks.a: each and key describe a table of your own"),
        ("table: t", "sinks.a: table needs columns, like {group_id: data.group_id}, and key"),
        ("table: t, columns: {k: id}", "sinks.a: table needs columns"),
        ("table: t, columns: {k: id}, key: [k, l]", "sinks.a: key names l, and columns does not"),
        ("table: t, columns: {k: id, K: id}, key: [k]", "sinks.a: columns: k stands there twice"),
        ("table: t, columns: {IM_VERSION: id}, key: [IM_VERSION]", "im_version stands there twice, or is"),
        (
            "table: 't; DROP TABLE x', columns: {k: id}, key: [k]",
            "sinks.a.table: must be the name of a table",
        ),
        ("table: t, columns: {'k\"': id}, key: [k]", "must be the name of a column"),
        ("table: t, columns: {k: 'data.'}, key: [k]", "sinks.a.columns.k: is no JMESPath expression"),
        ("table: t, columns: {k: [id]}, key: [k]", "sinks.a.columns.k: must be text"),
        ("table: t, columns: {k: id}, key: [k], each: 'max('", "sinks.a.each: is no JMESPath expression"),
    ],
)
def test_a_table_of_the_users_own_is_whole_or_an_error(tmp_path, keys, said):
    """What could not be written with is told before the first event comes."""
    assert said in fault_of(tmp_path, OWN % keys)


def test_tables_of_the_users_own_may_have_a_schema_and_any_case(tmp_path):
    """Names are taken as they stand; on a server, several lanes may write there."""
    text = "sinks: {a: {kind: postgres, dsn: 'postgresql://h/d', concurrency: 4, table: Crm.Left, columns: {Who: id}, key: [Who]}}"

    assert config_of(tmp_path, text).sinks["a"].table == "Crm.Left"


def test_no_answers_are_fixed_by_default():
    """The shipped file shows the key, and leaves every answer to OK."""
    assert shown()["answers"] == Config().answers == {}


def test_the_shown_app_has_every_key_with_its_default():
    """The app in config.yaml shows all keys of an app."""
    assert next(iter(shown()["apps"].values())) == App().model_dump(mode="json")


def test_the_shipped_file_is_valid_and_warns_of_the_missing_token():
    """`make run` works without an edit, and says what is open."""
    config = load(SHIPPED, {})

    assert any("no token" in warning for warning in build.check(config))


def test_an_unknown_key_names_path_and_nearest(tmp_path):
    """A typing slip is found by its full path, with the key that was meant and all that are allowed."""
    said = fault_of(tmp_path, "listen: {prot: 1}")

    assert "listen.prot: unknown key; did you mean listen.port?" in said
    assert "ack_after" in said


def test_unknown_keys_in_sinks_and_apps_are_found(tmp_path):
    """Also below names that are the user's own."""
    said = fault_of(tmp_path, "apps: {1400000000: {pth: /}}\nsinks: {a: {kind: jsonl, path: x, rotat_mb: 3}}")

    assert "apps.1400000000.pth: unknown key; did you mean apps.1400000000.path?" in said
    assert "sinks.a.rotat_mb: unknown key; did you mean sinks.a.rotate_mb?" in said


def test_a_sink_named_like_a_kind_keeps_its_name_in_the_path(tmp_path):
    """`sqlite` is the name that comes to mind first for a sink of that kind."""
    said = fault_of(
        tmp_path, "sinks: {sqlite: {kind: sqlite, pth: x}, jsonl: {kind: jsonl, path: x, rotate_mb: -1}}"
    )

    assert "sinks.sqlite.pth: unknown key; did you mean sinks.sqlite.path?" in said
    assert "sinks.jsonl.rotate_mb: input should be greater" in said
    assert "sqlite: unknown key; " in fault_of(tmp_path, "sqlite: {}")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("listen: {port: 99999}", "listen.port: input should be less than or equal to 65535 (it is 99999)"),
        (
            "listen: {ack_after: never}",
            "listen.ack_after: input should be 'journaled', 'confirmed' or 'written'",
        ),
        (
            "sinks: {a: {kind: jsnl}}",
            "sinks.a: there is no kind 'jsnl'; did you mean jsonl? There are: amqp, http,",
        ),
        ("sinks: {a: {kind: jsonl}}", "sinks.a.path: field required"),
        ("sinks: {A b: {kind: jsonl, path: x}}", "sinks.A b: must be a name: a lower-case letter, then"),
        (
            "sinks: {a: {kind: redis, url: 'http://h'}}",
            "sinks.a.url: must be redis://user:password@host:6379/0",
        ),
        ("sinks: {a: {kind: redis, url: 'redis://u:p#w@h'}}", "sinks.a.url: must be redis://user:"),
        ("sinks: {a: {kind: redis, url: 'redis://h:99999'}}", "sinks.a.url: must be redis://user:"),
        ("sinks: {a: {kind: redis, url: 'redis://h/x'}}", "sinks.a.url: must be redis://user:"),
        ("sinks: {a: {kind: redis, url: 'rediss://h?ssl_cert_reqs=none'}}", "without a query"),
        (
            "sinks: {a: {kind: http, url: 'ftp://h/pw5ecr3t', secrets: [x]}}",
            "sinks.a.url: must be https://host/path, or http://",
        ),
        (
            "sinks: {a: {kind: http, url: 'https://u:p@h/', secrets: []}}",
            "sinks.a.url: must have no user and password; write them into headers: Authorization",
        ),
        (
            "sinks: {a: {kind: http, url: 'https://h/', secrets: []}}",
            "sinks.a.secrets: tuple should have at least 1",
        ),
        (
            "sinks: {a: {kind: http, url: 'https://h/', secrets: [pw5ecr3t]}}",
            "sinks.a.secrets.0: must be whsec_ and 24 to 64 bytes in base64; to make one",
        ),
        (
            "sinks: {a: {kind: http, url: 'https://h/', secrets: ['whsec_AAAA']}}",
            "sinks.a.secrets.0: must be whsec_ and 24 to 64 bytes",
        ),
        (
            "sinks: {a: {kind: http, url: 'https://h/', headers: {Host: x}}}",
            "sinks.a.headers: may not set Host: the gateway does",
        ),
        (
            "sinks: {a: {kind: http, url: 'https://h/', headers: {WebHook-Id: x}}}",
            "sinks.a.headers: may not set WebHook-Id",
        ),
        (
            "sinks: {a: {kind: http, url: 'https://h/', headers: {'X Y': x}}}",
            "sinks.a.headers: holds a name that is none",
        ),
        (
            'sinks: {a: {kind: http, url: "https://h/", headers: {X-A: "a\\r\\nX-B: pw5ecr3t"}}}',
            "sinks.a.headers: must give X-A a value of printable ASCII",
        ),
        (
            "sinks: {a: {kind: http, url: 'https://h/', headers: {X-A: a, x-a: b}}}",
            "sinks.a.headers: names a header twice",
        ),
        (
            "sinks: {a: {kind: http, url: 'https://h/', allow_networks: [10.0.0.1/8]}}",
            "must be a whole network; that would be 10.0.0.0/8",
        ),
        (
            "sinks: {a: {kind: http, url: 'https://h/', wait_statuses: [500]}}",
            "sinks.a.wait_statuses.0: input should be less than or equal to 499",
        ),
        (
            "sinks: {a: {kind: http, url: 'https://h/', secrets: [whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA], batch_max_events: 31}}",
            "sinks.a: batch_max_events: 31 requests of up to timeout_s (10 s) each may take longer than write_timeout_s (300 s)",
        ),
        ("sinks: {a: {kind: http, url: 'http://h..x/'}}", "sinks.a.url: must be https://host/path"),
        ("sinks: {a: {kind: http, url: 'http://h:0/'}}", "sinks.a.url: must be https://host/path"),
        ('sinks: {a: {kind: http, url: "http://h/a b"}}', "sinks.a.url: must be https://host/path"),
        (
            "sinks: {a: {kind: redis, url: 'redis://h', stream: 'a b'}}",
            "sinks.a.stream: must be a key without",
        ),
        (
            "sinks: {a: {kind: redis, url: 'redis://h', stream: '{}x'}}",
            "sinks.a.stream: must be a key without",
        ),
        (
            "sinks: {a: {kind: redis, url: 'redis://h', stream: ''}}",
            "sinks.a.stream: string should have at least 1",
        ),
        (
            "sinks: {a: {kind: redis, url: 'redis://h', window_s: 0}}",
            "sinks.a.window_s: input should be greater",
        ),
        ("apps: {abc: {}}", "apps.abc: must be an SDKAppID: decimal digits, at most 20 (it is 'abc')"),
        ("apps: {'1': {path: no-slash}}", "apps.1.path: must be the path of the console's callback URL"),
        ("apps: {'1': {tokens: ['']}}", "apps.1.tokens: a token may not be empty"),
        (
            "apps: {'1': {tokens: [\"abc\\n\"]}}",
            "apps.1.tokens: a token begins or ends with a blank or a line",
        ),
        ("apps: {'1': {tokens_file: ''}}", "apps.1.tokens_file: must name a file; leave the key out"),
        ("apps: {'1': {tokens_file: [a]}}", "apps.1.tokens_file: must be the path of a file"),
        ("apps: {'1': {max_per_s: yes}}", "apps.1.max_per_s: must be a number (it is True)"),
        (
            "sinks: {a: {kind: amqp, url: 'http://x', exchange: y}}",
            "sinks.a.url.0: must be amqp://… or amqps://…",
        ),
        ("sinks: {a: {kind: amqp, url: [], exchange: y}}", "sinks.a.url: "),
        (
            "sinks: {a: {kind: amqp, url: 'amqp://u:a#b@h/', exchange: y}}",
            "sinks.a.url.0: can't be read as amqp(s)://user:password@host:5672/vhost",
        ),
        ("sinks: {a: {kind: amqp, url: 'amqp://h', exchange: ''}}", "sinks.a: routing_key: with exchange"),
        ("sinks: {a: {kind: jsonl, path: x, apps: [one]}}", "sinks.a.apps.0: must be an SDKAppID"),
        (
            "sinks: {a: {kind: jsonl, path: x, apps: [true]}}",
            "sinks.a.apps.0: input should be a valid string",
        ),
        (
            "sinks: {a: {kind: jsonl, path: x, transform: 'data.[a'}}",
            "sinks.a.transform: is no JMESPath expression: it ends too early, at character 8 (it is 'data.[a')",
        ),
        (
            "sinks: {a: {kind: jsonl, path: x, transform: '{a: data.a; b: c}'}}",
            "sinks.a.transform: is no JMESPath expression: unknown token ; at character 11",
        ),
        (
            "sinks: {a: {kind: jsonl, path: x, transform: 'data )'}}",
            "sinks.a.transform: is no JMESPath expression: unexpected ')' at character 6",
        ),
        (
            "sinks: {a: {kind: jsonl, path: x, transform: '{n: lenght(data.members)}'}}",
            "there is no function lenght(), at character 5; did you mean length()?",
        ),
        (
            "sinks: {a: {kind: jsonl, path: x, transform: 'merge()'}}",
            "merge() takes at least 1",
        ),
        (
            "sinks: {a: {kind: jsonl, path: x, transform: 'to_number(abs( data.a)) | len (@)'}}",
            "there is no function len(), at character 27",
        ),
        (
            "sinks: {a: {kind: jsonl, path: x, transform: 'join(data)'}}",
            "join() takes 2 arguments and has 1, at character 1",
        ),
        (
            "sinks: {a: {kind: jsonl, path: x, transform: ''}}",
            "sinks.a.transform: is no JMESPath expression: it is empty",
        ),
        (
            "sinks: {a: {kind: jsonl, path: x, transform: {a: b}}}",
            "sinks.a.transform: must be text: put the expression in quotes",
        ),
        (f"sinks: {{a: {{kind: jsonl, path: x, transform: '{'[' * 5000}'}}}}", "too many levels"),
        ("apps: {'1': {}, 1: {}}", "key 1 is given twice"),
        (
            "answers: {Sns.CallbackPrevFriendAdd: {code: no}}",
            "FriendAdd.code: must be a number (it is False)",
        ),
        ("listen: {drain_s: on}", "listen.drain_s: must be a number (it is True)"),
        ("listen: {header_timeout_s: on}", "listen.header_timeout_s: must be a number (it is True)"),
        (
            "listen: {host: 'http://127.0.0.1'}",
            "listen.host: must be an address or a host name, without scheme",
        ),
        ("listen: {host: '127.0.0.1:80'}", "listen.host: must be an address or a host name, without scheme"),
        ("listen: {tls_cert: '', tls_key: a}", "listen.tls_cert: must name a file"),
        ("listen: {allow_networks: 10.0.0.0/8}", "listen.allow_networks: must be a list, like [a, b]"),
        (
            "listen: {allow_networks: [10.0.0.1/8]}",
            "listen.allow_networks.0: must be a whole network; that would be 10.0.0.0/8",
        ),
        (
            "listen: {trusted_proxies: [nginx]}",
            "listen.trusted_proxies.0: must be a network, like 192.0.2.0/24",
        ),
        ("broker: {url: 'http://x'}", "broker.url: must be amqp://…, amqps://… or embedded:PATH"),
        ("broker: {url: ['embedded:a', 'amqp://b']}", "embedded:PATH stands alone"),
        ("journal: {max_mb: 9}", "journal.max_mb: 9 is less than 10 times listen.max_body_bytes; say 10"),
        ("sinks: {a: {kind: jsonl, path: x, events: ['im..x']}}", "sinks.a.events"),
        ("listen: [1]", "listen"),
        ("- 1", "top level must be a mapping"),
        ("a: 1\na: 2", "key 'a' is given twice"),
        ("listen: {", "not readable as YAML"),
        ("listen: {processes: 65}", "listen.processes"),
    ],
)
def test_faults_name_path_and_what_is_allowed(tmp_path, text, expected):
    """Whatever is wrong, the message says where and what would be right."""
    said = fault_of(tmp_path, text)

    assert expected in said
    assert "pw5ecr3t" not in said


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "fe80::1%eth0", "localhost", "im.example.org", ""])
def test_hosts_that_can_be_listened_on(tmp_path, host):
    """Addresses of both kinds, names, and all addresses."""
    (tmp_path / "config.yaml").write_text(f"listen: {{host: '{host}'}}")

    assert load(tmp_path / "config.yaml", {}).listen.host == host


def test_all_faults_are_told_at_once(tmp_path):
    """One run of check is enough to mend a file."""
    said = fault_of(tmp_path, "listen: {port: x, host: [1]}\njournal: {max_mb: -1}")

    assert len(said.splitlines()) == 3


def test_an_open_address_without_token_fails_closed(tmp_path):
    """Nobody exposes an app to strangers by forgetting a token."""
    said = fault_of(tmp_path, "listen: {host: 0.0.0.0}\napps: {'1': {}}")

    assert said.endswith("or say unsigned: allow")
    assert config_of(tmp_path, "listen: {host: 0.0.0.0}\napps: {'1': {unsigned: allow}}").apps


def test_an_open_admin_address_needs_a_token(tmp_path):
    """Metrics and health tell strangers nothing."""
    assert "admin.token" in fault_of(tmp_path, "admin: {host: '::'}")


def test_variables_are_expanded(tmp_path):
    """${NAME} and ${NAME:-default} come from the environment, into single values only."""
    config = config_of(
        tmp_path,
        "apps: {'1': {tokens: ['${T}'], path: '${P:-/x}'}}\nlisten: {port: '${PORT}'}",
        {"T": "a: [b", "PORT": "9"},
    )

    assert config.apps["1"].tokens[0].get_secret_value() == "a: [b"
    assert config.apps["1"].path == "/x"
    assert config.listen.port == 9


def test_a_missing_variable_is_an_error_with_its_path(tmp_path):
    """An unset password never becomes an empty one."""
    said = fault_of(tmp_path, "sinks: {a: {kind: postgres, dsn: 'postgres://u:${PW}@h/d'}}")

    assert said == "sinks.a.dsn: the environment has no PW; set it, or give a default: ${PW:-…}"


def test_the_environment_overrides_any_key(tmp_path):
    """GATEWAY__A__B=value wins over the file, lists in YAML's short form."""
    config = config_of(
        tmp_path,
        "broker: {url: 'embedded:x'}\nsinks: {audit: {kind: jsonl, path: x}}",
        {
            "GATEWAY__BROKER__URL": "amqp://guest:guest@127.0.0.1/",
            "GATEWAY__SINKS__AUDIT__PATH": "y",
            "GATEWAY__APPS__1400000000__TOKENS": "[one, two]",
        },
    )

    assert config.broker.urls == ("amqp://guest:guest@127.0.0.1/",)
    assert config.sinks["audit"].path == Path("y")
    assert len(config.apps["1400000000"].tokens) == 2


def test_a_wrong_variable_of_ours_is_an_error(tmp_path):
    """A slip in an override is found like one in the file."""
    assert "broker.ulr: unknown key; did you mean broker.url?" in fault_of(
        tmp_path, "{}", {"GATEWAY__BROKER__ULR": "x"}
    )
    assert "listen is a value" in fault_of(tmp_path, "listen: 1", {"GATEWAY__LISTEN__PORT": "1"})


@pytest.mark.parametrize(
    ("admin", "said"),
    [
        ("{view_token: view-secret-long-enough}", "without it everybody may act"),
        ("{token: the-same-token-twice, view_token: the-same-token-twice}", "it has to differ from token"),
    ],
)
def test_a_view_token_means_what_it_says(tmp_path, admin, said):
    """One that would let its bearer act after all is an error, not a pretence."""
    assert said in fault_of(tmp_path, f"admin: {admin}")


def test_a_short_admin_token_is_warned_of(tmp_path):
    """Logins can be tried without end; what can be guessed is named by its key, not shown."""
    config = config_of(tmp_path, "apps: {'1': {}}\nadmin: {token: long-enough-for-this, view_token: s3cr3t}")
    said = [one for one in build.check(config) if "guessed" in one]

    assert [one.partition(":")[0] for one in said] == ["admin.view_token"]
    assert "s3cr3t" not in said[0]


def test_events_that_go_unencrypted_are_warned_of(tmp_path):
    """Over the Internet; inside a network that is named it is the operator's own."""
    hook = "{{kind: http, url: '{}://h/', secrets: [whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA], {}}}"
    sinks = {"a": hook.format("http", "batch: true"), "b": hook.format("https", "batch: true"),
             "c": hook.format("http", "allow_networks: [10.0.0.0/8]")}  # fmt: skip
    text = "apps: {1: {}}\nsinks:\n" + "".join(f"  {name}: {sink}\n" for name, sink in sinks.items())
    said = [one for one in build.check(config_of(tmp_path, text)) if "encrypted" in one]

    assert said == ["sinks.a.url: http is not encrypted; whoever is on the way reads the events"]


def test_secrets_are_masked(tmp_path):
    """What check prints holds no token and no password."""
    text = """
admin: {token: admin-secret}
apps: {'1': {tokens: [token-secret]}}
broker: {url: ['amqp://u:amqp-secret@a/', 'amqps://u:amqp%40secret@b/v'], management_url: 'http://u:mgmt-secret@h'}
sinks: {a: {kind: postgres, dsn: 'postgresql://u:dsn-pw5ecr3t@h/d'}, b: {kind: postgres, dsn: 'host=h password=kv-secret'}, c: {kind: redis, url: 'redis://u:redis-pw5ecr3t@h'}, d: {kind: http, url: 'https://h:1/pw5ecr3t?pw5ecr3t', secrets: [whsec_pw5ecr3tpw5ecr3tpw5ecr3tpw5ecr3t], headers: {X-A: pw5ecr3t}},
  e: {kind: mysql, dsn: 'mysql://u:my-pw5ecr3t@h/d'}, f: {kind: amqp, url: [amqps://u:copy-pw5ecr3t@h/v], exchange: x}}
"""
    printed = yaml.safe_dump(masked(config_of(tmp_path, text)))

    assert "secret" not in printed.replace("secrets:", "")
    assert "5ecr3t" not in printed
    assert "redis://u:***@h" in printed
    assert "amqps://u:***@h/v" in printed
    assert "https://h:1/***" in printed
    assert "amqps://u:***@b/v" in printed


@pytest.mark.parametrize("password", ["pa@secret", "pa:secret", "@secret@", "secret@x@y"])
def test_a_password_that_holds_what_urls_are_made_of_is_masked_whole(tmp_path, password):
    """Drivers take it unescaped, so it must not be printed by half."""
    text = f"broker: {{url: 'amqp://u:{password}@h/'}}\nsinks: {{a: {{kind: postgres, dsn: 'postgresql://u:{password}/@h/d'}}}}"
    plain = masked(config_of(tmp_path, text))

    assert plain["broker"]["url"] == "amqp://u:***@h/"
    assert plain["sinks"]["a"]["dsn"] == "postgresql://u:***@h/d"


@pytest.mark.parametrize(
    "url", ["amqp://u:pa/secret@h/", "amqp://u:12/secret@h/", "amqp://u:pa#secret@h/", "amqp://h:port/"]
)
def test_a_broker_url_that_no_driver_reads_is_found_at_the_start(tmp_path, url):
    """Else every part that connects fails by itself, and later."""
    said = fault_of(tmp_path, f"broker: {{url: '{url}'}}")

    assert said.startswith(f"{tmp_path / 'config.yaml'}: broker.url: can't be read as")
    assert "secret" not in said


def test_secrets_do_not_show_in_errors(tmp_path):
    """A wrong URL or token is named by its path, not by its value."""
    said = fault_of(tmp_path, "broker: {url: 'ampq://u:pw5ecr3t@h/'}\napps: {'1': {tokens: {x: pw5ecr3t}}}")

    assert "pw5ecr3t" not in said


@settings(deadline=None)
@given(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        max_size=4,
    )
)
def test_no_file_makes_it_crash(tmp_path_factory, tree):
    """Any YAML gives a configuration or a ConfigError."""
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump({**tree, "listen": tree}, allow_unicode=True))

    try:
        load(path, {})
    except ConfigError as error:
        assert str(error)


@pytest.mark.parametrize(
    ("sink", "expected"),
    [
        ("apps: [1400000001]", "sinks.a.apps: 1400000001 is not configured; did you mean 1400000000?"),
        ("apps: [7]", "sinks.a.apps: 7 is not configured. There are: 1400000000, 15"),
        ("apps: [15], events: [im.group.created]", "sinks.a.events: im.group.created matches nothing of 15"),
        ("apps: [15], events: ['#', '#.1400000000']", "sinks.a.events: #.1400000000 matches nothing of 15"),
        (f"apps: [15], events: ['{'a' * 251}.#']", "longer than 255 bytes"),
    ],
)
def test_apps_of_a_sink_are_held_against_the_rest(tmp_path, sink, expected):
    """An app that is not configured, or that no pattern leaves anything of, is a slip."""
    text = f"apps: {{1400000000: {{}}, 15: {{}}}}\nsinks: {{a: {{kind: jsonl, path: x, {sink}}}}}"

    with pytest.raises(ConfigError) as caught:
        build.check(config_of(tmp_path, text))
    assert expected in str(caught.value)


@pytest.mark.parametrize(
    ("broker", "sink", "expected"),
    [
        (
            "amqp://a@h/",
            "url: 'amqp://b@h/', exchange: im.events",
            "sinks.a.exchange: im.events on this broker",
        ),
        ("amqp://a@h/", "url: 'amqps://b@H:5671/%2F', exchange: im.events", "sinks.a.exchange: im.events"),
        ("[amqp://g/v, amqp://h/v]", "url: 'amqp://h/v', exchange: im.events", "sinks.a.exchange: im.events"),
        (
            "amqp://localhost:5673/",
            "url: 'amqp://127.0.0.1:5673', exchange: im.sink.a",
            "sinks.a.exchange: im.sink.a",
        ),
        ("amqp://h/", "url: 'amqp://h/', exchange: im.unrouted", "sinks.a.exchange: im.unrouted"),
        (
            "amqp://h/",
            "url: 'amqp://h/', exchange: '', routing_key: im.sink.a",
            "sinks.a.routing_key: im.sink.a",
        ),
        ("amqp://h/", "url: 'amqp://h/', exchange: mine", ""),
        ("amqp://h/", "url: 'amqp://h/', exchange: '', routing_key: mine", ""),
        ("amqp://h/", "url: 'amqp://h/other', exchange: im.events", ""),
        ("amqp://h/", "url: 'amqp://h:5673/', exchange: im.events", ""),
        ("amqp://h/", "url: 'amqp://other/', exchange: im.events", ""),
        ("embedded:x", "url: 'amqp://h/', exchange: im.events", ""),
    ],
)
def test_events_do_not_go_round(tmp_path, broker, sink, expected):
    """A sink that publishes into our own topology would get its own events again, for ever."""
    config = config_of(
        tmp_path, f"apps: {{1: {{}}}}\nbroker: {{url: {broker}}}\nsinks: {{a: {{kind: amqp, {sink}}}}}"
    )
    try:
        build.check(config)
        said = ""
    except ConfigError as fault:
        said = str(fault)

    assert said.startswith(expected) if expected else not said


def test_every_kind_can_be_made():
    """A kind that the configuration knows has its class, and the other way round."""
    assert set(build._SINKS) == {*KINDS.values(), PluginSink}
    for make, module, _ in build._SINKS.values():
        assert callable(getattr(import_module(module), make))


def test_patterns_and_apps_of_a_sink_are_bound_together(tmp_path):
    """One worker takes only what it wants, whichever broker it has."""
    text = "apps: {14: {}, 15: {}}\nsinks: {a: {kind: jsonl, path: x, events: ['im.group.#', 'im.user.*.14'], apps: [14]}}"
    config = config_of(tmp_path, text)

    assert build.check(config)
    assert build.topology_of(config).sink("a").patterns == ("im.group.#.14", "im.user.*.14")
    assert "(im.group.#.14, im.user.*.14)" in banner(config, 8080, serves=False, sinks=["a"])


@pytest.mark.parametrize("name", ["a", "audit", "members", "a_name_that_is_long"])
def test_the_banner_keeps_a_sinks_name_apart_from_its_place(tmp_path, name):
    """However long the name is."""
    text = f"apps: {{14: {{}}}}\nsinks: {{{name}: {{kind: jsonl, path: x}}}}"

    assert f"  sink {name:<5}  jsonl x  (#)\n" in banner(
        config_of(tmp_path, text), 8080, serves=False, sinks=[name]
    )


def test_a_wrong_item_of_a_list_is_one_error(tmp_path):
    """That the list is too short without it says nothing."""
    hook = "apps: {{1: {{}}}}\nsinks: {{a: {{kind: http, url: 'https://h/', secrets: [{}], events: {}}}}}"
    said = fault_of(tmp_path, hook.format("whsec_AAAA", "[]")).splitlines()

    assert [line.split(": ")[1] for line in said] == ["sinks.a.events", "sinks.a.secrets.0"]


def test_a_missing_file_is_named(tmp_path):
    """The message says what to do."""
    with pytest.raises(ConfigError, match="--config"):
        load(tmp_path / "none.yaml", {})


def test_mask_url_leaves_the_rest():
    """Only the password goes."""
    assert mask_url("amqp://me:pw@host:5672/v?x=1") == "amqp://me:***@host:5672/v?x=1"


@pytest.mark.parametrize(
    "text",
    [
        "broker: amqp://u:pw5ecr3t@h",
        "admin: pw5ecr3t",
        "apps: {'1': pw5ecr3t}",
        "sinks: {a: 'postgresql://u:pw5ecr3t@h/d'}",
        "broker: {exchange: 'amqp://u:pw5ecr3t@h'}",
        "apps: {'1': {tokens: [pw5ecr3t: : x}}",
        "broker:\n  url: amqp://u:p: pw5ecr3t@h",
        "admin: {token: *pw5ecr3t}",
        "admin: {token: !pw5ecr3t x}",
    ],
)
def test_a_secret_in_the_wrong_place_does_not_show(tmp_path, text):
    """Neither a section that is a value nor a line that is no YAML is repeated."""
    assert "pw5ecr3t" not in fault_of(tmp_path, text)


@pytest.mark.parametrize(
    "url",
    [
        "amqp://u:a@pw5ecr3t@h/",
        "amqp://u:a/pw5ecr3t@h/",
        "amqp://u@x:pw5ecr3t@h/",
        "POSTGRESQL://u:pw5ecr3t@h/d",
        "postgresql://h/d?sslpassword=pw5ecr3t",
    ],
)
def test_every_spelling_of_a_password_is_masked(url):
    """Drivers are lenient about passwords that should have been escaped."""
    assert "pw5ecr3t" not in mask_url(url)


def test_a_section_with_nothing_below_it_has_its_defaults(tmp_path):
    """Commenting out the last key of a section is no mistake."""
    config = config_of(tmp_path, "listen:\njournal:\nsinks:\nlog:\napps:\n  1400000000:\n")

    assert config.listen == Config().listen
    assert config.apps["1400000000"] == App()


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("listen: &a {x: *a}", {}, "alias"),
        ("broker: {url: &a [*a]}", {}, "alias"),
        ("", {"GATEWAY__LISTEN__HOST": "\udcff"}, "no UTF-8"),
        ('sinks: {a: {kind: jsonl, path: "a\\0b"}}', {}, "NUL"),
        ("broker: {ignore: x}", {}, "broker.ignore: must be a list"),
        ("journal: {retain_h: .inf}", {}, "journal.retain_h"),
        ("sqlite: x", {}, "sqlite: unknown key"),
        ("'[key]': x", {}, "[key]: unknown key"),
        ("apps: {'[key]': {}}", {}, "apps.[key]: must be an SDKAppID"),
        ("sinks: {sqlite: {kind: jsonl, path: x, pth: y}}", {}, "sinks.sqlite.pth: unknown key"),
    ],
)
def test_odd_values_are_errors_in_words(tmp_path, text, environ, expected):
    """Nothing of a file or the environment ends in a traceback."""
    assert expected in fault_of(tmp_path, text, environ)


def test_an_override_may_hold_app_ids_as_yaml_reads_them(tmp_path):
    """A number as key is an app id in the environment as in the file."""
    assert list(config_of(tmp_path, "", {"GATEWAY__APPS": "{1400000001: {}}"}).apps) == ["1400000001"]


def test_anchors_can_be_merged(tmp_path):
    """YAML's << works, with keys of one's own beside it."""
    text = "sinks:\n  a: &a {kind: jsonl, path: x}\n  b:\n    <<: *a\n    path: y\n"

    assert [str(sink.path) for sink in config_of(tmp_path, text).sinks.values()] == ["x", "y"]


def test_one_file_for_two_is_found_in_every_spelling(tmp_path):
    """Two sinks, or a sink and the embedded broker, never share a file."""
    text = "apps: {1: {}}\nsinks: {a: {kind: jsonl, path: x/../y}, b: {kind: sqlite, path: y}, c: {kind: sqlite, path: var/broker.db}}"

    with pytest.raises(ConfigError) as caught:
        build.check(config_of(tmp_path, text))

    assert "sinks.b.path" in str(caught.value)
    assert "sinks.c.path: broker.url" in str(caught.value)


def test_the_banner_writes_ipv6_as_urls_do():
    """What it prints can be pasted."""
    config = Config.model_validate({"listen": {"host": "::1"}, "apps": {"1": {}}})

    assert "http://[::1]:8080/callback" in banner(config, 8080, serves=True, sinks=[])


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("0.0.0.0", "http://127.0.0.1:80"),
        ("::", "http://[::1]:80"),
        ("::1", "http://[::1]:80"),
        ("im.example", "http://im.example:80"),
    ],
)
def test_a_port_on_all_addresses_is_reached_on_loopback(host, url):
    """The line to try and the simulator's default go where the socket really listens."""
    config = Config.model_validate({"listen": {"host": host}, "apps": {"1": {"unsigned": "allow"}}})

    assert local_url(config, 80) == url
