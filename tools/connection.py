"""How requests get to a chat endpoint and replies come back: address, key, proxy, limits of time and size.

What a reply says, and whether to try again, endpoint.py decides.
"""

import contextlib
import importlib
import ipaddress
import socket
import sys
import threading
import zlib
from email.utils import parsedate_to_datetime
from types import ModuleType
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from cli import UserError

LARGEST = 1 << 23  # bytes of a reply
TOO_LARGE = f"a reply of more than {LARGEST >> 20} MiB"
LONGEST_RETRY_AFTER = 600.0  # seconds
DETAIL = 300  # characters of what is said of a fault
SECRET = 8  # characters from which a key is hidden; "EMPTY", for a local server, may stand in answers


class Transient(Exception):
    """A try has failed. after: seconds the server wants us to wait. busy: 429. unreachable: no connection.

    unusable: the next reply would be no better.
    """

    def __init__(self, text: str, after: float = 0.0, **what: bool):
        super().__init__(text)
        self.after = after
        self.busy, self.unreachable = what.get("busy", False), what.get("unreachable", False)
        self.unusable = what.get("unusable", False)


def check_key(key: str | None) -> None:
    """Raises UserError for a key that a header cannot hold, or that servers would repeat in other letters."""
    if key and (not key.isascii() or not key.isprintable() or set(key) & set(' "\\')):
        raise UserError("the key in the environment holds what no key does, say a space; set it again")


def http_library() -> ModuleType:
    """The HTTP client that huggingface_hub brings: httpx2 with its version 2, httpx with version 1."""
    for name in ("httpx2", "httpx"):
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    raise UserError("asking an endpoint wants the package httpx2 or httpx; pip install httpx2")


def check_url(url: str) -> str:
    """The URL without a slash at its end. Raises UserError for what is no base URL."""
    secret = set(url) & set("@?#")
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        plain = url.isascii() and url.isprintable() and " " not in url and not secret
        if plain and parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            parts.hostname.encode("idna")  # ValueError for what is no name, as a..b
            if ":" in parts.hostname:
                ipaddress.ip_address(parts.hostname)
            return url.rstrip("/")
    got = "one with a user, a query or a fragment" if secret else f"{url!r:.100}"
    raise UserError(f"--base-url: got {got}, wanted http://HOST/v1 or https://HOST/v1; keys: environment")


def is_local(host: str) -> bool:
    """Whether a host of a URL is this machine."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    with contextlib.suppress(ValueError):
        return ipaddress.ip_address(host).is_loopback
    return False


def proxy_of(url: str) -> str:
    """Host and port of the proxy that the environment names for a URL; "" for none."""
    parts, proxies = urlsplit(url), getproxies()
    address = proxies.get(parts.scheme) or proxies.get("all") or ""
    if is_local(parts.hostname) or proxy_bypass(parts.hostname):
        return ""
    return address.rpartition("@")[2].rpartition("//")[2].rstrip("/")


class HangUp(contextlib.AbstractContextManager):
    """Ends an exchange some seconds after its beginning, whatever the server sends; then it is `late`.

    trace: to be httpx's extension of that name, which hears of each new connection.
    """

    def __init__(self, seconds: float):
        self.late, self._socket = False, None
        self._timer = threading.Timer(seconds, self._hang_up)
        self._timer.daemon = True
        self._timer.start()

    def __exit__(self, *_) -> None:
        self._timer.cancel()
        if self._socket:
            self._socket.close()

    def trace(self, event: str, info: dict) -> None:
        if event.endswith("connect_tcp.complete"):
            self._socket = info["return_value"].get_extra_info("socket").dup()  # TLS takes the first one
            if self.late:
                self._hang_up()

    def _hang_up(self) -> None:
        self.late = True
        if self._socket:
            with contextlib.suppress(OSError):  # it has just ended
                self._socket.shutdown(socket.SHUT_RDWR)


class Connection:
    """The way to one endpoint, for any number of threads. Each try has a connection of its own to be ended.

    Arguments are those of endpoint.Endpoint. A server on this machine is asked without a proxy. Raises
    UserError for a bad URL, key or proxy, or no HTTP client.
    """

    def __init__(
        self, base_url: str, key: str | None, *, workers: int, connect: float, read: float, total: float
    ):
        check_key(key)
        self._key = key if key and len(key) >= SECRET else None  # to be hidden
        self.url, self._total = f"{check_url(base_url)}/chat/completions", total
        self.base_url = self.clean(base_url)
        http = self._http = http_library()
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        url = urlsplit(self.url)
        local = is_local(url.hostname)
        if key:
            headers["Authorization"] = f"Bearer {key}"
            if url.scheme == "http" and not local:
                warning = f"{self.base_url}: the key goes there unencrypted; wanted https://"
                print(f"warning: {warning}", file=sys.stderr)
        timeout = http.Timeout(connect=connect, read=read, write=read, pool=None)
        limits = http.Limits(max_connections=workers, max_keepalive_connections=0)
        options = {"headers": headers, "timeout": timeout, "limits": limits, "follow_redirects": False}
        try:
            http.URL(self.url)
        except http.InvalidURL as error:
            raise UserError(f"--base-url: got {base_url!r:.100} ({error}); wanted http://HOST/v1") from None
        try:
            self._client = http.Client(trust_env=not (local and url.scheme == "http"), **options)
        except OSError as error:  # ssl's as well
            fault = (
                f"the certificates of the environment (SSL_CERT_FILE, SSL_CERT_DIR) cannot be read ({error})"
            )
            raise UserError(f"{fault}; unset them, or name the right file") from None
        except (ValueError, ImportError, http.InvalidURL):  # their texts may hold the proxy's password
            raise UserError(
                "a proxy of the environment (all_proxy, http_proxy, https_proxy) cannot be used; "
                "unset it, or set it to http://HOST:PORT"
            ) from None

    def close(self) -> None:
        self._client.close()

    def clean(self, text: str) -> str:
        """The text without the key."""
        return text.replace(self._key, "[key]") if self._key else text

    def post(self, data: bytes) -> tuple[int, dict, bytes]:
        """The reply's status, headers and body. Raises Transient."""
        http, body = self._http, bytearray()
        with HangUp(self._total) as line:
            try:
                extensions = {"trace": line.trace}
                with self._client.stream("POST", self.url, content=data, extensions=extensions) as response:
                    for part in response.iter_raw():
                        body += part
                        if len(body) > LARGEST:
                            raise Transient(TOO_LARGE, unusable=True)
            except http.RequestError as error:
                if not line.late:
                    unreachable = isinstance(error, (http.ConnectError, http.ConnectTimeout, http.ProxyError))
                    text = self.clean(f"{type(error).__name__}: {error}".rstrip(": "))[:DETAIL]
                    raise Transient(text, unreachable=unreachable) from None
        if line.late:
            raise Transient(f"no whole reply in {self._total:g} s")
        return response.status_code, response.headers, decompressed(bytes(body), response.headers)


def decompressed(body: bytes, headers: dict) -> bytes:
    """The body of a server that compresses though it was not asked to, up to LARGEST. Raises Transient."""
    encoding = headers.get("content-encoding", "identity").strip().lower()
    if encoding in ("identity", ""):
        return body
    if encoding not in ("gzip", "deflate"):
        what = f"a reply in the encoding {encoding!r:.40}, which was not asked for"
        raise Transient(what, unusable=True)
    try:
        text = zlib.decompressobj(47).decompress(body, LARGEST + 1)  # 47: either of the two
    except zlib.error:
        raise Transient("a reply whose compression is broken", unusable=True) from None
    if len(text) > LARGEST:
        raise Transient(TOO_LARGE, unusable=True)
    return text


def seconds_after(header: str | None, now: float) -> float:
    """What a Retry-After asks for, in seconds or as a date; 0 for nonsense. now: seconds since 1970."""
    for read in (float, lambda text: parsedate_to_datetime(text).timestamp() - now):
        with contextlib.suppress(ValueError, TypeError, OverflowError):
            return min(max(0.0, read(header)), LONGEST_RETRY_AFTER)
    return 0.0
