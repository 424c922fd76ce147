"""TLS settings of an uplink: authorities, client certificate, the name to expect."""

from __future__ import annotations

import ssl
from pathlib import Path

from fluxedge.config.structs import TlsCfg, UplinkCfg
from fluxedge.problems import LinkProblem

# Reading the system's authorities takes 20 ms (measured, OpenSSL 3.0): once per set of files, not once per attempt.
_made: dict[tuple[object, ...], ssl.SSLContext] = {}
_KEPT = 16


class _Named(ssl.SSLContext):
    """A context that expects another name than the host which is connected to."""

    server_name = ""

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,
    ) -> ssl.SSLObject:
        return super().wrap_bio(incoming, outgoing, server_side, self.server_name or server_hostname, session)


def tls_context(cfg: UplinkCfg, url: str, credentials_dir: Path) -> ssl.SSLContext | None:
    """Return the TLS settings for one of an uplink's brokers; None for mqtt://.

    Relative names are below `credentials_dir`. A file that was replaced is read again.

    Raises:
        LinkProblem: "uplink-tls": a certificate or key cannot be used; names the file.
    """
    if not url.startswith("mqtts:"):
        return None
    tls = cfg.tls or TlsCfg()
    ca, certificate, key = (str(credentials_dir / name) if name else "" for name in (tls.ca, tls.certificate, tls.key))
    known = (tls, ca, *(_state(path) for path in (ca, certificate, key)))
    context = _made.get(known)
    if context is None:
        context = _make(tls, ca, certificate, key)
        while len(_made) >= _KEPT:
            del _made[next(iter(_made))]
        _made[known] = context
    return context


def _make(tls: TlsCfg, ca: str, certificate: str, key: str) -> ssl.SSLContext:
    context = _Named(ssl.PROTOCOL_TLS_CLIENT)
    context.server_name = tls.server_name
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if tls.verify == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        if ca:
            context.load_verify_locations(cafile=ca)
        elif tls.verify == "full":
            context.load_default_certs()
    except (OSError, ssl.SSLError) as exc:
        raise _unusable(ca, exc) from exc
    if certificate:
        try:
            if b"ENCRYPTED" in Path(key).read_bytes():  # OpenSSL would ask for the passphrase on the terminal
                hint = "Store it without a passphrase, readable by the user fluxedge only."
                raise LinkProblem("uplink-tls", f"{key}: the key is encrypted", hint)
            context.load_cert_chain(certificate, key)
        except (OSError, ssl.SSLError) as exc:
            raise _unusable(f"{certificate} with {key}", exc) from exc
    return context


def _state(path: str) -> tuple[int, int]:
    """Return what changes when a file is replaced."""
    if not path:
        return 0, 0
    try:
        found = Path(path).stat()
    except OSError as exc:
        raise _unusable(path, exc) from exc
    return found.st_mtime_ns, found.st_ino


def _unusable(name: str, error: OSError) -> LinkProblem:
    if not isinstance(error, ssl.SSLError):
        return LinkProblem("uplink-tls", f"{name}: {error.strerror or error}", "Is it readable by the user fluxedge?")
    mismatch = error.reason == "KEY_VALUES_MISMATCH"
    hint = "The key is another certificate's." if mismatch else "It must be PEM: text that begins with -----BEGIN."
    text = (error.reason or str(error)).lower().replace("_", " ")
    return LinkProblem("uplink-tls", f"{name}: {text}", hint)
