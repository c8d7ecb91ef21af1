"""Programs of the distribution that tests run without a server of their own class."""

import os
import shutil
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Program:
    """What one *package* brings."""

    package: str
    name: str

    def is_installed(self) -> bool:
        return self.find() is not None

    def find(self) -> str | None:
        return shutil.which(self.name, path="/usr/local/sbin:/usr/sbin:/usr/bin:/bin")

    def path(self) -> str:
        """Return where it is; where it is missing skip the test here, fail it on CI."""
        if found := self.find():
            return found
        reason = f"{self.package} is not installed; `make test` installs it where it may use apt-get."
        if os.environ.get("CI") == "true":
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)


PROMTOOL = Program("prometheus", "promtool")
SYSTEMD_ANALYZE = Program("systemd", "systemd-analyze")
CHROMIUM = Program("chromium", "chromium")
NGINX = Program("nginx-light", "nginx")
HAPROXY = Program("haproxy", "haproxy")
OPENSSL = Program("openssl", "openssl")
PROGRAMS = (PROMTOOL, SYSTEMD_ANALYZE, NGINX, HAPROXY, CHROMIUM, OPENSSL)
