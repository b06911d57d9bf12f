"""Who this process is in a tuning of several machines, by the environment variables of keras-tuner."""

import dataclasses
import re
import socket
from collections.abc import Mapping

from kopt.core.errors import ConfigError

TUNER_ID, IP, PORT = NAMES = ("KERASTUNER_TUNER_ID", "KERASTUNER_ORACLE_IP", "KERASTUNER_ORACLE_PORT")
_CHIEF = "chief"
_NAME = re.compile(r"[\w.-]+")


@dataclasses.dataclass(frozen=True)
class Role:
    """A process of a tuning.

    Attributes:
        name: unique among all of them.
        host, port: of the chief.
    """

    name: str
    host: str
    port: int

    @property
    def is_chief(self) -> bool:
        """Whether it proposes, and others work; keras-tuner goes by the name."""
        return _CHIEF in self.name

    @property
    def address(self) -> str:
        """Of the chief."""
        return f"{self.host}:{self.port}"

    @property
    def variables(self) -> dict[str, str]:
        """What says so to a process."""
        return {TUNER_ID: self.name, IP: self.host, PORT: str(self.port)}


def check_free(role: Role) -> None:
    """Make sure that a chief can listen, before any work begins.

    Raises:
        ConfigError: something else listens there, or the address is none of this machine.
    """
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what a chief that was killed has left
        try:
            one.bind((role.host, role.port))
        except OSError as error:
            raise cannot_listen(role.address) from error


def cannot_listen(address: str) -> ConfigError:
    """Return the error of a chief that gets no port."""
    return ConfigError(
        f"The chief cannot listen at {address}: the port is in use, or the address is not of this machine. Choose "
        f"another {PORT}, or end what listens there."
    )


def role_of(variables: Mapping[str, str]) -> Role | None:
    """Return the role that the environment gives, or `None` if it gives none.

    Raises:
        ConfigError: only some of the variables are set, or the port is none.
    """
    there = [name for name in NAMES if variables.get(name)]
    if not there:
        return None
    if missing := [name for name in NAMES if name not in there]:
        raise ConfigError(
            f"{' and '.join(there)} {'is' if len(there) == 1 else 'are'} set, and {' and '.join(missing)} "
            f"{'is' if len(missing) == 1 else 'are'} not. Set all three, the name of this process ('chief' or another) "
            f"and address and port of the chief, or none of them."
        )
    if not _NAME.fullmatch(variables[TUNER_ID]):
        raise ConfigError(
            f"{TUNER_ID} is part of the names of files: letters, digits, '.', '-' and '_'. Received: "
            f"{variables[TUNER_ID]!r}."
        )
    text = variables[PORT]
    if not text.isdigit() or not 0 < int(text) < 65536:
        raise ConfigError(f"{PORT} must be a port, from 1 to 65535. Received: {text!r}.")
    return Role(variables[TUNER_ID], variables[IP], int(text))
