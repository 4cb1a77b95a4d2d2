"""A network as settings and policies write it. A file of its own, so that a collector needs not load all of the policy."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_interface
from typing import Annotated, Any

from pydantic import BeforeValidator, Field


def _network(value: Any) -> Any:
    """A network or a single address. Raises with the network that was probably meant."""
    if not isinstance(value, str):
        return value
    # Loaded when it is needed: what explains faults takes longer to load than all else here.
    from agent.policy.faults import wrong

    text = value.strip()
    try:
        interface = ip_interface(text)
    except ValueError:
        example = "write it as 192.0.2.0/24, 192.0.2.7 or 2001:db8::/32"
        raise wrong(f"`{text}` is no network or address", example) from None
    if interface.ip != interface.network.network_address:
        raise wrong(
            f"`{text}` has host bits set",
            f"the network is {interface.network}; the one address is {interface.ip}",
        )
    return interface.network


NetworkField = Annotated[
    IPv4Network | IPv6Network,
    BeforeValidator(_network, json_schema_input_type=str),
    Field(description="A network such as 192.0.2.0/24, or one address"),
]
