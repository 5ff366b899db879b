"""pricing.json: what each route costs, for authz. The contract is mpp_authz.pricing's; this fills it in."""

from mpp_authz import pricing
from mpp_operator import ir
from mpp_operator.artifacts import Files


def render(gateway: ir.Gateway, revision: str = "") -> Files:
    """The pricing file. `revision` is the content hash of the artifacts it is published with."""
    routes = {route.key: route.price for service in gateway.services for route in service.routes if route.price}
    networks = {network.name: network for network in gateway.networks}
    return {
        pricing.FILE_NAME: pricing.dump(
            pricing.Pricing(pricing.VERSION, revision, routes, networks, gateway.transport)
        )
    }
