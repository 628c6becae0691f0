"""Starts a classic Letta server that may speak to MCP servers on this machine. Test tool only.

In: the arguments of `letta`. Releases from 0.16.7 on refuse MCP servers with loopback and private addresses and have no
setting for it; the tests' Chargehand listens on loopback, so here, and only here, that check is taken out. Earlier releases
do not have it and are started as they are.
"""

import sys

try:
    from letta.helpers import url_validation
except ImportError:
    pass
else:

    def accept(url, *_arguments, **_options):
        return url

    url_validation.validate_mcp_server_url = accept

from letta.main import app  # noqa: E402  after the check was replaced, because others import it by name

app()
