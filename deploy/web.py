"""Talk to her in a browser: python -m deploy.web [folder or experiment] [--port 8000]

The page is part of the endpoint, one file without a framework: it works offline, on a phone and in Chinese and
English. For a phone in the same network: --host 0.0.0.0 --api-key WORD, and open the address with the key in it.
"""

import ipaddress
import socket
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlsplit

from deploy.adapters import find_adapter
from deploy.serve import parse, serve
from stages.cli import run


def page_address(url: str, key: str | None) -> str:
    """Where to point a browser; the key travels in the part of an address that browsers never send."""
    parts = urlsplit(url)
    host, fragment = own_address(parts.hostname or ""), f"#key={quote(key)}" if key else ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port}/{fragment}"


def own_address(host: str) -> str:
    """The host itself, or for `all addresses` the one by which others reach this machine."""
    try:
        if not ipaddress.ip_address(host).is_unspecified:
            return host
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as way:  # nothing is sent: only the route is looked up
            way.connect(("2001:db8::1" if ":" in host else "192.0.2.1", 9))
            return way.getsockname()[0]
    except (ValueError, OSError):
        return host if host not in ("0.0.0.0", "::") else "localhost"


def main() -> None:
    options = parse(__doc__.splitlines()[0])

    def announce(url: str, card: Mapping[str, Any]) -> str:
        return f"open {page_address(url, options.api_key)} to talk to {card['character']} (Ctrl-C ends)"

    serve(find_adapter(options.adapter), options.host, options.port, options.api_key, announce)


if __name__ == "__main__":
    run(main)
