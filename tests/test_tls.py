"""HTTPS in the gateway itself: versions, client certificates, renewal without a restart, faults in words."""

import asyncio
import contextlib
import logging
import os
import re
import resource
import socket
import ssl
import subprocess
import urllib.error
import urllib.request
from datetime import UTC, datetime

import aiohttp
import pytest
import trustme

from gateway import build
from gateway.banner import banner
from gateway.config import Config, Listen, load
from gateway.errors import ConfigError
from gateway.ports import door
from gateway.tls import Tls
from tests.callback_port import callback_port, signed
from tests.gateway_process import Gateway, eventually


class Files:
    """Certificate, key and client CA in a folder."""

    def __init__(self, folder):
        self.cert, self.key, self.ca = folder / "cert.pem", folder / "key.pem", folder / "ca.pem"

    def write(self, authority, client_ca=None, **more):
        issued = authority.issue_cert("localhost", **more)
        self.cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        self.key.write_bytes(issued.private_key_pem.bytes())
        if client_ca is not None:
            self.ca.write_bytes(client_ca.cert_pem.bytes())

    def listen(self, **more):
        return {"tls_cert": self.cert, "tls_key": self.key, **more}


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def files(tmp_path, authority):
    found = Files(tmp_path)
    found.write(authority)
    return found


def trusting(authority, client=None):
    """Return a client's context; *client* is the CA that issued its own certificate."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    if client is not None:
        client.issue_cert("client@example.org").configure_cert(context)
    return context


def fault_of(files, **more):
    with pytest.raises(ConfigError) as caught:
        build.check(Config.model_validate({"listen": files.listen(**more), "apps": {"1": {}}}))
    return str(caught.value)


async def test_callbacks_come_over_https(tmp_path, files, authority):
    """With the certificate checked by name; plain HTTP is not answered on that port."""
    async with callback_port(tmp_path, files.listen()) as port:
        assert await port.post(ssl=trusting(authority)) == (200, "")
        with pytest.raises(aiohttp.ClientError):
            await port.post()


@pytest.mark.parametrize(("version", "is_taken"), [("TLSv1_1", False), ("TLSv1_2", True), ("TLSv1_3", True)])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
async def test_tls_is_1_2_at_least(tmp_path, files, authority, version, is_taken):
    """Older versions end in the handshake."""
    context = trusting(authority)
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = getattr(ssl.TLSVersion, version)
    async with callback_port(tmp_path, files.listen()) as port:
        if is_taken:
            assert (await port.post(ssl=context))[0] == 200
        else:
            with pytest.raises(aiohttp.ClientError):
                await port.post(ssl=context)


async def test_a_client_ca_asks_every_caller_for_a_certificate(tmp_path, files, authority):
    """None, or one of another CA, ends in the handshake; another client CA is taken without a restart."""
    ours, theirs = trustme.CA(), trustme.CA()
    files.write(authority, ours)
    async with callback_port(tmp_path, files.listen(tls_client_ca=files.ca)) as port:
        assert (await port.post(ssl=trusting(authority, ours)))[0] == 200
        for context in (trusting(authority), trusting(authority, theirs)):
            with pytest.raises(aiohttp.ClientError):
                await port.post(ssl=context)

        files.ca.write_bytes(theirs.cert_pem.bytes())
        port.look_at_files()
        assert (await port.post(ssl=trusting(authority, theirs)))[0] == 200
        with pytest.raises(aiohttp.ClientError):
            await port.post(ssl=trusting(authority, ours))


async def test_a_renewed_certificate_is_taken_while_connections_stand(tmp_path, files, authority):
    """New connections see the new one; the connection that was open goes on."""
    renewed = trustme.CA()
    async with callback_port(tmp_path, files.listen()) as port:
        reader, writer = await asyncio.open_connection("localhost", port.port, ssl=trusting(authority))
        files.write(renewed)
        port.look_at_files()

        assert (await port.post(ssl=trusting(renewed)))[0] == 200
        with pytest.raises(aiohttp.ClientError):
            await port.post(ssl=trusting(authority))
        writer.write(b"GET /callback HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await reader.readline()).split()[1] == b"200"
        writer.close()


async def test_certificate_and_key_may_be_replaced_one_after_the_other(tmp_path, files, authority, caplog):
    """Looked at between the two, nothing is taken and nothing is logged."""
    renewed = trustme.CA()
    async with callback_port(tmp_path, files.listen()) as port:
        old_key = files.key.read_bytes()
        files.write(renewed)
        new_key = files.key.read_bytes()
        files.key.write_bytes(old_key)
        port.files.look()
        files.key.write_bytes(new_key)
        port.look_at_files()

        assert (await port.post(ssl=trusting(renewed)))[0] == 200
        assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_a_broken_renewal_changes_nothing_and_is_logged_once(tmp_path, files, authority, caplog):
    """Half a pair, then rubbish, then nothing; a whole pair is taken again."""
    async with callback_port(tmp_path, files.listen()) as port:
        old_key = files.key.read_bytes()
        files.write(trustme.CA())
        files.key.write_bytes(old_key)
        for _ in range(3):
            port.look_at_files()
        assert (await port.post(ssl=trusting(authority)))[0] == 200
        assert [record.levelname for record in caplog.records] == ["ERROR"]
        assert "is not the key of the first certificate" in caplog.text
        assert "the certificate read last stays in use" in caplog.text

        files.cert.unlink()
        port.look_at_files()
        port.look_at_files()
        assert len(caplog.records) == 2
        assert (await port.post(ssl=trusting(authority)))[0] == 200

        renewed = trustme.CA()
        files.write(renewed)
        with caplog.at_level(logging.INFO):
            port.look_at_files()
        assert "was read again" in caplog.text
        assert (await port.post(ssl=trusting(renewed)))[0] == 200


async def test_a_connection_without_a_handshake_is_given_up(tmp_path, files):
    """A stranger who says nothing does not hold a place for long."""
    async with callback_port(tmp_path, files.listen(header_timeout_s=0.2)) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
        async with asyncio.timeout(4):
            assert await reader.read() == b""
        writer.close()
        assert port.value("gateway_tls_handshakes_failed_total") == 1


def silent_callers(port, number):
    """Connect *number* callers who say nothing, all before the port gets to look."""
    return [socket.create_connection(("127.0.0.1", port.port), 5) for _ in range(number)]


async def failed(port, number):
    async with asyncio.timeout(5):
        while port.value("gateway_tls_handshakes_failed_total") < number:
            await asyncio.sleep(0.01)


async def test_handshakes_under_way_are_bounded(tmp_path, files, authority):
    """Strangers who connect and say nothing take no more files than that; the real caller comes through."""
    async with callback_port(tmp_path, files.listen(max_connections=8, header_timeout_s=60)) as port:
        silent = silent_callers(port, 50)
        await failed(port, 48)
        assert [one.recv(1) for one in silent[:48]] == [b""] * 48

        assert (await port.post(ssl=trusting(authority)))[0] == 200
        await failed(port, 49)
    assert silent[-1].recv(1) == b""
    for one in silent:
        one.close()


async def test_handshakes_given_up_count_for_no_peer(tmp_path, files, authority):
    """Also those that were given up before they had begun."""
    listen = files.listen(max_connections=8, max_connections_per_peer=40, header_timeout_s=60)
    async with callback_port(tmp_path, listen) as port:
        for before in (0, 39):
            silent = silent_callers(port, 39)
            await failed(port, before + 37)
            for one in silent:
                one.close()
            await failed(port, before + 39)
        assert (await port.post(ssl=trusting(authority)))[0] == 200
        assert not port.value("gateway_connections_refused_total")


async def test_a_handshake_counts_for_its_peer(tmp_path, files, authority):
    """Before it is done, too; what failed counts no longer."""
    listen = files.listen(max_connections_per_peer=1, header_timeout_s=60)
    async with callback_port(tmp_path, listen) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port.port)
        with pytest.raises(aiohttp.ClientError):
            await port.post(ssl=trusting(authority))
        assert port.value("gateway_connections_refused_total") == 1

        writer.close()
        await failed(port, 1)
        for _ in range(2):
            assert (await port.post(ssl=trusting(authority)))[0] == 200


async def test_an_odd_server_name_is_no_word_for_the_log(tmp_path, files, authority, capfd, caplog):
    """Bytes that are no ASCII reach no stream; the handshake goes on."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting(authority).wrap_bio(incoming, outgoing, server_hostname="stranger.example")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    hello = outgoing.read()
    assert b"stranger" in hello
    async with callback_port(tmp_path, files.listen()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port.port)
        writer.write(hello.replace(b"stranger", b"stra\xff\xfe\x80r"))
        async with asyncio.timeout(5):
            assert (await reader.readexactly(1))[0] == 22  # a record of the handshake; an alert would be 21
        writer.close()

    assert capfd.readouterr() == ("", "")
    assert not caplog.records


async def test_without_a_free_file_accepting_pauses(tmp_path, files, authority, monkeypatch, caplog):
    """The port goes on by itself when there are files again."""
    monkeypatch.setattr(door, "_PAUSE_S", 0.05)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with callback_port(tmp_path, files.listen()) as port:
        with socket.socket() as caller:
            caller.setblocking(False)
            used = max(map(int, os.listdir("/proc/self/fd"))) + 1
            resource.setrlimit(resource.RLIMIT_NOFILE, (used, limits[1]))
            fillers = [os.dup(0) for _ in range(used - len(os.listdir("/proc/self/fd")) + 1)]
            try:
                await asyncio.get_running_loop().sock_connect(caller, ("127.0.0.1", port.port))
                async with asyncio.timeout(5):
                    while "No connection can be accepted" not in caplog.text:
                        await asyncio.sleep(0.01)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limits)
                for one in fillers:
                    os.close(one)

        assert (await port.post(ssl=trusting(authority)))[0] == 200


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
async def test_a_session_of_an_old_client_ca_is_not_resumed(tmp_path, files, authority, version):
    """A CA that was taken out lives on in no ticket and in no session's id."""
    ours, theirs = trustme.CA(), trustme.CA()
    files.write(authority, ours)
    context = trusting(authority, ours)
    context.maximum_version = getattr(ssl.TLSVersion, version)
    async with callback_port(tmp_path, files.listen(tls_client_ca=files.ca)) as port:

        def answer(session=None):
            with (
                socket.create_connection(("localhost", port.port), 5) as plain,
                context.wrap_socket(plain, server_hostname="localhost", session=session) as secure,
            ):
                secure.sendall(b"GET /callback HTTP/1.1\r\nHost: x\r\n\r\n")
                return secure.recv(12), secure.session, secure.session_reused

        _, session, _ = await asyncio.to_thread(answer)
        assert (await asyncio.to_thread(answer, session))[::2] == (b"HTTP/1.1 200", True)
        files.ca.write_bytes(theirs.cert_pem.bytes())
        port.look_at_files()
        got = b""
        with contextlib.suppress(ssl.SSLError, ConnectionError):
            got, _, _ = await asyncio.to_thread(answer, session)
        assert got == b""


def test_a_running_gateway_takes_new_files_by_itself(tmp_path, authority):
    """The whole process: HTTPS, a token from a file, and both anew within seconds."""
    folder = tmp_path / "gateway"
    folder.mkdir()
    files, tokens = Files(folder), folder / "tokens"
    files.write(authority)
    tokens.write_text("old-token-of-the-console")
    gateway = Gateway(
        folder,
        listen={"tls_cert": "cert.pem", "tls_key": "key.pem"},
        apps={"1400000000": {"tokens_file": "tokens"}},
    )

    def status(token, trusted):
        query = signed(token, app_id="1400000000")
        request = urllib.request.Request(f"https://localhost:{gateway.port}/callback?{query}", b"{}")
        try:
            return urllib.request.urlopen(request, context=trusting(trusted), timeout=5).status
        except urllib.error.HTTPError as error:
            error.close()
            return error.code
        except urllib.error.URLError as error:
            return type(error.reason)

    try:
        gateway.start()
        assert status("old-token-of-the-console", authority) == 200
        renewed = trustme.CA()
        files.write(renewed)
        tokens.write_text("new-token-of-the-console")
        eventually(lambda: status("new-token-of-the-console", renewed) == 200, "both are new", 8.0)
        assert status("old-token-of-the-console", renewed) == 401
        assert status("new-token-of-the-console", authority) is ssl.SSLCertVerificationError
    finally:
        gateway.close()


def test_faults_at_start_name_key_and_file(tmp_path, files):
    """Missing, rubbish, swapped, of another certificate, with a passphrase."""
    missing = tmp_path / "missing.pem"
    assert fault_of(files, tls_cert=missing) == f"listen.tls_cert: {missing}: No such file or directory"
    assert fault_of(files, tls_key=missing) == f"listen.tls_key: {missing}: No such file or directory"
    assert fault_of(files, tls_client_ca=missing).startswith(f"listen.tls_client_ca: {missing}: No such")
    assert fault_of(files, tls_cert=files.key).endswith("holds no PEM certificate")
    assert fault_of(files, tls_key=files.cert).endswith("holds no PEM private key")
    assert "holds no readable PEM certificate" in fault_of(files, tls_client_ca=files.key)

    other = tmp_path / "other.pem"
    other.write_bytes(trustme.CA().issue_cert("localhost").private_key_pem.bytes())
    assert re.match(
        r"listen\.tls_key: .* is not the key of the first certificate in", fault_of(files, tls_key=other)
    )
    other.write_text("-----BEGIN PRIVATE KEY-----\nrubbish\n-----END PRIVATE KEY-----\n")  # not a secret
    assert fault_of(files, tls_key=other).startswith(
        "listen.tls_cert, listen.tls_key: can't be used together"
    )


def test_a_key_with_a_passphrase_is_refused_without_asking(tmp_path, files):
    """Nobody sits at the terminal of a service."""
    locked = tmp_path / "locked.pem"
    subprocess.run(
        [
            "openssl",
            "pkcs8",
            "-topk8",
            "-v2",
            "aes128",
            "-passout",
            "pass:secret",
            "-in",
            files.key,
            "-out",
            locked,
        ],
        check=True,
    )

    assert "is encrypted" in fault_of(files, tls_key=locked)


@pytest.mark.parametrize("keys", ["tls_cert: a", "tls_key: a", "tls_client_ca: a"])
def test_half_of_the_keys_is_a_config_error(tmp_path, keys):
    """A port that was meant to be HTTPS never opens as HTTP."""
    path = tmp_path / "config.yaml"
    path.write_text(f"listen: {{{keys}}}")

    with pytest.raises(ConfigError, match="tls_cert"):
        load(path, {})


def test_a_worker_needs_no_certificate(tmp_path, files):
    """One configuration serves processes on several hosts."""
    files.cert.unlink()
    config = Config.model_validate({"listen": files.listen(), "apps": {"1": {}}})

    assert build.check(config, serves=False)


def test_the_banner_says_https(files):
    """In the address and in the line to try."""
    said = banner(
        Config.model_validate({"listen": files.listen(), "apps": {"1": {}}}), 443, serves=True, sinks=[]
    )

    assert "https://127.0.0.1:443/callback  app 1" in said
    assert "curl -sS 'https://127.0.0.1:443/callback?" in said
    assert "http://127.0.0.1:443" not in said


def day(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ("2020-02-29", "is valid from 2020-03-01 00:00 UTC on"),
        ("2020-03-01", ""),
        ("2020-05-23", ""),
        ("2020-05-26", "expires at 2020-06-01 00:00 UTC"),
        ("2020-06-01", "expired at 2020-06-01 00:00 UTC, so callers refuse it; renew it"),
    ],
)
@pytest.mark.parametrize("has_client_ca", [False, True])
def test_a_certificate_at_the_end_of_its_time_is_told(files, authority, has_client_ca, now, said):
    """Callers refuse it without a word to us."""
    files.write(authority, trustme.CA(), not_before=day("2020-03-01"), not_after=day("2020-06-01"))
    more = {"tls_client_ca": files.ca} if has_client_ca else {}
    found = Tls(Listen.model_validate(files.listen(**more)), day(now).timestamp).complaint()

    assert said in found
    assert bool(said) == bool(found)


def test_a_certificate_for_a_day_is_told_on_its_last_third(files, authority):
    """Not from its first minute on."""
    files.write(authority, not_before=day("2020-03-01"), not_after=day("2020-03-02"))
    tls = Tls(Listen.model_validate(files.listen()), day("2020-03-01T12:00").timestamp)

    assert not tls.complaint()


def test_an_expired_certificate_is_warned_about_at_start(files, authority):
    """By check too."""
    files.write(authority, not_before=day("2020-03-01"), not_after=day("2020-06-01"))
    config = Config.model_validate({"listen": files.listen(), "apps": {"1": {}}})

    assert any("expired at 2020-06-01" in said for said in build.check(config))
    assert not any("expired" in said for said in build.check(config, serves=False))


def test_an_expired_certificate_is_logged_once_a_day(files, authority, caplog):
    """And at once when it comes with a renewal."""
    now_s = [day("2020-05-31").timestamp()]
    files.write(authority, not_before=day("2020-03-01"), not_after=day("2020-06-01"))
    tls = Tls(Listen.model_validate(files.listen()), lambda: now_s[0])
    for hours in range(72):
        now_s[0] = day("2020-05-31").timestamp() + hours * 3600
        tls.look()
    assert [record.levelname for record in caplog.records] == ["ERROR"] * 2

    caplog.clear()
    files.write(authority, not_before=day("2020-03-01"), not_after=day("2020-06-02"))
    tls.look()
    tls.look()
    assert "expired at 2020-06-02" in caplog.text


async def test_the_end_of_the_certificate_is_a_metric(tmp_path, files, authority):
    """That of the one in use; without TLS there is none."""
    name = "gateway_certificate_expiry_timestamp_seconds"
    files.write(authority, not_after=day("2050-06-01"))
    async with callback_port(tmp_path, files.listen()) as port:
        assert port.value(name, key="listen.tls_cert") == day("2050-06-01").timestamp()
        files.write(authority, not_after=day("2051-06-01"))
        port.look_at_files()
        assert port.value(name, key="listen.tls_cert") == day("2051-06-01").timestamp()
    async with callback_port(tmp_path) as port:
        assert port.value(name, key="listen.tls_cert") is None


def test_unchanged_files_are_not_read(files, monkeypatch):
    """A look at them costs three calls."""
    tls = Tls(Listen.model_validate(files.listen()))
    monkeypatch.setattr("gateway.tls.make_context", None)

    tls.look()
