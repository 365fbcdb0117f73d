"""ViewSpec: where the viewer listens, and who may come in."""

from __future__ import annotations

from pathlib import Path

from pathotune_pipeline.errors import UsageError
from pathotune_pipeline.execution.reach import is_loopback
from pathotune_pipeline.spec import Spec, setting

LEAST_TOKEN = 16
"""Letters of a token."""


class ViewSpec(Spec):
    """Where the viewer listens, and who may come in."""

    host: str = setting(
        "127.0.0.1", "Address to listen at; any but this machine's own loopback needs a token.", hashed=False
    )
    port: int = setting(8642, "Port to listen at; 0 takes a free one.", hashed=False, ge=0, le=65535)
    token_file: str | None = setting(
        None, "File that holds the token which browsers must show; at least 16 letters.", hashed=False
    )


def read_token(spec: ViewSpec) -> str | None:
    """The token of the settings; None where none is asked for.

    Raises:
        UsageError: the file cannot be read, the token is too short, or none is given for an address that others reach.
    """
    if spec.token_file is None:
        if not is_loopback(spec.host):
            raise UsageError(
                f"--host {spec.host}: other machines can reach it, and no token is asked for. Give --token-file FILE; "
                "make one with: head -c 24 /dev/urandom | base64 > view.token; chmod 600 view.token"
            )
        return None
    try:
        token = Path(spec.token_file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or type(error).__name__
        raise UsageError(f"--token-file {spec.token_file}: cannot be read ({told}). Check the path.") from None
    if len(token) < LEAST_TOKEN:
        raise UsageError(f"--token-file {spec.token_file}: {len(token)} letters; at least {LEAST_TOKEN} are needed.")
    return token
