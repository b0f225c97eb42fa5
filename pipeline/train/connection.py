"""The connection to a Ray cluster, with an error in one line for whatever prevents it."""

import logging
import os
import re
import socket
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipeline import artifacts
from pipeline.errors import ExternalError, UserError

DEADLINE = 10  # seconds in which the address of a cluster has to answer


class NoClusterError(ExternalError):
    """Nothing answers at an address; later, something may."""


def connect(address: str | None) -> Any:
    """Connect to a Ray cluster, or start one here; returns the module `ray`.

    Raises:
        UserError: Ray is not installed, the address is not that of a cluster, the cluster wants
            another token, or it has other versions of Ray and Python.
        NoClusterError: nothing answers at the address.
    """
    if not find_spec("ray"):
        raise UserError("Ray is not installed: `make train ENGINE=ray` installs it")
    check_address(address)
    import ray  # it reads RAY_AUTH_MODE when it is imported

    try:
        ray.init(
            address=address or "local",
            runtime_env=_runtime_env(),
            log_to_driver=False,
            logging_level=logging.ERROR,
            include_dashboard=None if address else False,
        )
    except ray.exceptions.AuthenticationError as error:
        raise UserError(_wants_token(address or "this machine")) from error
    except (ConnectionError, RuntimeError, ValueError) as error:
        if "Version mismatch" in str(error):
            versions = re.findall(r"(?:Ray|Python): \S+", str(error))
            raise UserError(
                f"the Ray cluster at {address} has {' and '.join(versions[:2])}, this environment "
                f"has {' and '.join(versions[2:])}; install the same versions on both"
            ) from error
        if found := re.search(r"cluster at (\S+:\d+)", str(error)):  # by "auto"
            check_address(found[1])
        cluster = f"no Ray cluster answers at {address}" if address else "Ray did not start"
        raise NoClusterError(f"{cluster}: {error}") from error
    return ray


def _runtime_env() -> dict[str, Any]:
    """The runtime_env of the tasks: this package, and what the file in RAY_RUNTIME_ENV adds.

    Raises:
        UserError: there is no such file, or it is not YAML with a mapping.
    """
    ours = {"py_modules": [str(Path(artifacts.__file__).parent)], "excludes": ["__pycache__"]}
    if not (name := os.environ.get("RAY_RUNTIME_ENV")):
        return ours
    import yaml  # comes with Ray

    try:
        theirs = yaml.safe_load(Path(name).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"RAY_RUNTIME_ENV: {name} cannot be read: {error}") from error
    if not isinstance(theirs, dict) or theirs.keys() & ours.keys():
        raise UserError(
            f"RAY_RUNTIME_ENV: {name} must be a mapping such as {{pip: requirements.lock}}, "
            f"without {' and '.join(ours)}"
        )
    return theirs | ours


def check_address(address: str | None) -> None:
    """Raise an error where no cluster answers: Ray itself would retry for minutes."""
    if not address or address in ("auto", "local"):
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "://" in address:
        raise UserError(
            f"{address} is not an address that works here: run the command on a node of the "
            "cluster, with the head's address, host:6379, or with auto (ray:// does not work)"
        )
    until = time.monotonic() + DEADLINE
    try:
        socket.create_connection((host, int(port)), timeout=DEADLINE).close()
    except OSError as error:
        raise NoClusterError(f"no Ray cluster answers at {address}: {error}") from error
    if "RAY_USE_TLS" in os.environ:
        return
    import grpc  # comes with TensorFlow

    token = _token()
    with grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]) as channel:
        check = channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")
        for metadata in ((), (("authorization", f"Bearer {token}"),)):
            try:
                check(b"", timeout=until - time.monotonic(), metadata=metadata)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                    raise NoClusterError(
                        f"no Ray cluster answers at {address} within {DEADLINE} s"
                    ) from error
                if error.code() != grpc.StatusCode.UNAUTHENTICATED:
                    raise UserError(
                        f"what answers at {address} is not the head of a Ray cluster "
                        f"({error.code().name}); give the head's address, host:6379, or auto"
                    ) from error
                if metadata or not token:
                    raise UserError(_wants_token(address)) from error
            else:
                if metadata:  # to an address, Ray sends its token only if it is told to
                    os.environ["RAY_AUTH_MODE"] = "token"
                return


def _token() -> str:
    """The token that Ray would send, from where Ray looks for it; "" without one."""
    if token := os.environ.get("RAY_AUTH_TOKEN", ""):
        return token
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or "~/.ray/auth_token").expanduser()
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _wants_token(address: str) -> str:
    has = "another one is" if _token() else "none is"
    return (
        f"the Ray cluster at {address} wants its token, and {has} here; copy ~/.ray/auth_token "
        "from its head to the same place here, or set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"
    )
