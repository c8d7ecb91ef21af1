"""nginx and HAProxy, as deploy/proxies configures them, in front of real gateways."""

import http.client
import json
import ssl
import subprocess
from pathlib import Path

import pytest
import trustme

from tests.gateway_process import Gateway, eventually
from tests.services.processes import HOST, free_ports
from tests.services.programs import HAPROXY, NGINX

FOLDER = Path(__file__).parent.parent / "deploy/proxies"
BODY = json.dumps({"CallbackCommand": "Group.CallbackAfterMemberExit", "GroupId": "g", "ExitType": "Quit"})
QUERY = "SdkAppid=1400000000&CallbackCommand=Group.CallbackAfterMemberExit&Sign=5ecret&RequestTime=1"
OK = b'{"ActionStatus":"OK","ErrorCode":0,"ErrorInfo":""}'
CALLER = "127.0.0.2"  # not the proxy's own address


def replaced(text, *pairs):
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    return text


class Proxy:
    """One of the two in front of *gateways*, in *folder*; the shipped file but for ports, paths and certificates."""

    def __init__(self, kind, folder, gateways):
        self.folder = folder
        folder.mkdir()
        (self.port,) = free_ports(1)
        self.ca = trustme.CA()
        certificate = self.ca.issue_cert("localhost")
        pem = folder / "both.pem"
        pem.write_bytes(certificate.private_key_and_cert_chain_pem.bytes())
        shipped = (FOLDER / {"nginx": "nginx.conf", "haproxy": "haproxy.cfg"}[kind]).read_text()
        command = getattr(self, f"_{kind}")(shipped, gateways, pem)
        with (folder / "out").open("wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        eventually(self._answers, "the proxy answers")

    def _nginx(self, shipped, gateways, pem):
        (line,) = [line for line in shipped.splitlines() if "server 127.0.0.1:8080" in line]
        lines = "\n".join(line.replace(":8080", f":{gateway.port}") for gateway in gateways)
        text = replaced(
            shipped, (line, lines), ("listen 443 ssl", f"listen {HOST}:{self.port} ssl"),
            ("/etc/im-gateway/fullchain.pem", str(pem)), ("/etc/im-gateway/privkey.pem", str(pem)),
            ("/var/log/nginx/im-gateway.log", str(self.folder / "log")),
        )  # fmt: skip
        temporary = "".join(
            f"{kind}_temp_path {self.folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        path = self.folder / "nginx.conf"
        path.write_text(
            f"daemon off; user root; pid {self.folder}/pid; error_log {self.folder}/errors;"
            f"events {{}} http {{ {temporary}\n{text} }}"
        )
        return [NGINX.path(), "-c", path, "-p", self.folder, "-e", self.folder / "errors"]

    def _haproxy(self, shipped, gateways, pem):
        (line,) = [line for line in shipped.splitlines() if line.startswith("    server ")]
        lines = "\n".join(
            replaced(
                line, ("one", f"r{at}"), (":8080", f":{gateway.port}"), ("8081", str(gateway.admin_port))
            )
            for at, gateway in enumerate(gateways)
        )
        path = self.folder / "haproxy.cfg"
        path.write_text(
            replaced(
                shipped, (line, lines), ("bind :443", f"bind {HOST}:{self.port}"),
                ("/etc/haproxy/im-gateway.pem", str(pem)), ("log /dev/log local0", "log stdout format raw local0"),
            ) + "\n"
        )  # fmt: skip
        return [HAPROXY.path(), "-db", "-f", path]

    def _answers(self):
        assert self.process.poll() is None, (self.folder / "out").read_text()
        try:
            return self.post() != 0
        except OSError:
            return False

    def post(self, body=BODY, **headers):
        """Send one callback from CALLER over TLS; return status and answer."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        connection = http.client.HTTPSConnection(
            "localhost", self.port, context=context, timeout=5, source_address=(CALLER, 0)
        )
        try:
            connection.request("POST", f"/callback?{QUERY}", body, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def said(self):
        return "".join(
            path.read_text() for path in (self.folder / "log", self.folder / "out") if path.exists()
        )

    def close(self):
        self.process.terminate()
        self.process.wait(30)


@pytest.fixture
def gateways(tmp_path):
    started = [
        Gateway(tmp_path / f"gateway{at}", listen={"trusted_proxies": ["127.0.0.1/32"]}) for at in range(2)
    ]
    for one in started:
        one.start()
    yield started
    for one in started:
        one.close()


@pytest.fixture(params=["nginx", "haproxy"])
def proxy(request, tmp_path, gateways):
    {"nginx": NGINX, "haproxy": HAPROXY}[request.param].path()
    started = Proxy(request.param, tmp_path / request.param, gateways)
    yield started
    started.close()


def peers(gateways):
    """Return the callers' addresses in the journals."""
    lines = [line for one in gateways for line in one.command("journal", "list", "--json").splitlines()]
    return {json.loads(line)["peer"] for line in lines}


def test_the_caller_is_who_called_the_proxy(proxy, gateways):
    """A callback comes through with TLS; its caller is the proxy's, whatever address the request itself names."""
    answers = [proxy.post(), proxy.post(**{"X-Forwarded-For": "192.0.2.9"})]

    assert answers == [(200, OK)] * 2
    assert peers(gateways) == {CALLER}


def test_no_sign_stands_in_the_log(proxy):
    """What is logged names the path, not the query."""
    assert proxy.post()[0] == 200

    said = eventually(lambda: "/callback" in proxy.said() and proxy.said(), "a line in the log")
    assert "5ecret" not in said
    assert CALLER in said


def test_one_receiver_may_be_away(proxy, gateways):
    """Each callback is answered 200 while one of two receivers is gone, at once and without being refused."""
    for process in gateways[0].processes:
        process.kill()
        process.wait()

    assert [proxy.post()[0] for _ in range(6)] == [200] * 6


def test_without_receivers_the_answer_is_a_failure_in_time(proxy, gateways):
    """The answer is a 503 that Tencent can read, and 200 again once a receiver is back."""
    for gateway in gateways:
        gateway.stop(gateway.processes[0])
    status, answer = proxy.post()

    assert (status, json.loads(answer)["ActionStatus"]) == (503, "FAIL")
    gateways[0].start()
    eventually(lambda: proxy.post()[0] == 200, "the receiver is used again")


def test_a_body_that_is_too_large_is_refused(proxy):
    """More than 1 MiB: 413, by the proxy or the gateway."""
    assert proxy.post(body="x" * 1_100_000)[0] == 413
