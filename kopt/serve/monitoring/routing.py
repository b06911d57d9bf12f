"""Which requests go to another version. Pure: the same id goes the same way, on any server and after a restart."""

import hashlib
import re
import secrets

_ID = re.compile(r"[A-Za-z0-9_.:-]{1,64}")


def request_id(received: str | None) -> str:
    """Return the id that a request brought if it is one (at most 64 of letters, digits, `_.:-`), or a new one."""
    return received if received is not None and _ID.fullmatch(received) else secrets.token_hex(8)


def is_chosen(identity: str, purpose: str, share: float) -> bool:
    """Return whether a request is among a share of all, independently for each purpose.

    Args:
        identity: of the request.
        purpose: e.g. `"canary"`.
        share: in [0, 1].
    """
    if share <= 0.0:
        return False
    digest = hashlib.blake2b(f"{purpose}/{identity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") < share * 2**64
