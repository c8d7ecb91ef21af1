"""``python -m tests.services install``: install the servers that the tests need."""

import sys

from tests.services.install import install

if sys.argv[1:] != ["install"]:
    sys.exit("usage: python -m tests.services install")
sys.exit(install())
