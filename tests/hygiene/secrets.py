"""Looks for secrets in the files under version control: `python -m tests.hygiene.secrets`.

Only what has a shape of its own, so that each finding is one. Passwords in code are ruff's (S105 to S107).
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
SHAPES = {
    "private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY(?: BLOCK)?-----",
    "Tencent Cloud SecretId": r"\bAKID[A-Za-z0-9]{32}\b",
    "AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "Alibaba Cloud access key": r"\bLTAI[A-Za-z0-9]{16,20}\b",
    "Google API key": r"\bAIza[0-9A-Za-z_-]{35}\b",
    "GitHub token": r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{50,})\b",
    "GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "Slack token": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "Stripe key": r"\b[rs]k_live_[A-Za-z0-9]{20,}",
    "package registry token": r"\b(?:npm_[A-Za-z0-9]{36}|pypi-AgEI[A-Za-z0-9_-]{50,})",
    "model provider key": r"\b(?:sk-(?:ant|proj)-[A-Za-z0-9_-]{20,}|hf_[A-Za-z]{34})",
    "JSON web token": r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
}
MADE_UP = b"not a secret"
"""What a line says that only looks like one."""
_ANY = re.compile("|".join(f"(?P<s{at}>{shape})" for at, shape in enumerate(SHAPES.values())).encode())


def secrets_in(content: bytes) -> Iterator[tuple[int, str]]:
    """Yield line number and kind of each secret; never the secret."""
    for found in _ANY.finditer(content):
        begin = content.rfind(b"\n", 0, found.start()) + 1
        end = content.find(b"\n", found.end())
        if MADE_UP not in content[begin : end if end >= 0 else None]:
            kind = list(SHAPES)[int((found.lastgroup or "s0")[1:])]
            yield content.count(b"\n", 0, found.start()) + 1, kind


def main() -> int:
    """Print each finding; return 1 when there is one."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    names = [name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]
    found = [(name, *one) for name in names for one in secrets_in((ROOT / name).read_bytes())]
    for name, line, kind in found:
        print(f"{name}:{line}: {kind}: take it out of the history and renew it", file=sys.stderr)
    return 1 if found or not names else 0


if __name__ == "__main__":
    sys.exit(main())
