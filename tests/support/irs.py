"""Gateways as the compiler lowers them, built by hand: input of the tests of `artifacts` and of the data plane."""

from dataclasses import replace

from mpp_authz.pricing import Offer, RoutePrice, Transport
from mpp_operator import ir

ANYTHING = ir.PathPattern((), rest=True)
ROOT = ir.PathPattern(())
GET = ("GET", "HEAD")
POST = ("POST",)
TIMEOUTS = ir.Timeouts(connect=2, request=30, upload=60, idle=300)
RETRIES = ir.Retries(2, ("connect-failure", "refused-stream", "reset-before-request"), 20)
NO_RETRIES = ir.Retries(0, (), None)
PRICE = RoutePrice(
    offers=(Offer("usdc", "tempo", "moderato", "0x20c0", "0xabc", "50000"),), expires_in=300, lease=110
)


def literal(path: str) -> ir.PathPattern:
    """`/v1/models/` as a pattern."""
    segments = tuple(segment for segment in path.split("/") if segment)
    return ir.PathPattern(segments, trailing_slash=bool(segments) and path.endswith("/"))


def priced(name: str, path: ir.PathPattern, methods: tuple[str, ...] = GET, **fields: object) -> ir.Route:
    price = replace(PRICE, **{key: value for key, value in fields.items() if key != "streaming"})  # type: ignore[arg-type]  # fields of RoutePrice by name
    return ir.Route(name, methods, path, price, streaming=bool(fields.get("streaming")))


def free(name: str, path: ir.PathPattern, methods: tuple[str, ...] = GET) -> ir.Route:
    return ir.Route(name, methods, path, None)


def service(*routes: ir.Route, **fields: object) -> ir.Service:
    """A service whose route keys are `shop/<name>/<route>`."""
    plain = ir.Service(
        namespace="shop",
        name="llm",
        hosts=("127.0.0.1",),
        base_path="/llm",
        cluster="up",
        upstream_host="api.example.com",
        upstream_path="",
        headers_set=(),
        headers_remove=(),
        timeouts=TIMEOUTS,
        retries=NO_RETRIES,
        cors_origins=("*",),
        routes=(),
    )
    made = replace(plain, **fields)  # type: ignore[arg-type]  # fields of ir.Service by name
    prefix = f"{made.namespace}/{made.name}/"
    return replace(made, routes=tuple(replace(route, key=prefix + route.key) for route in routes))


def cluster(host: str = "127.0.0.1", port: int = 80, **fields: object) -> ir.Cluster:
    plain = ir.Cluster("up", host, port, None, None, 1.0, 64, 64, 64, None)
    return replace(plain, **fields)  # type: ignore[arg-type]  # fields of ir.Cluster by name


def gateway(*services: ir.Service, clusters: tuple[ir.Cluster, ...] = ()) -> ir.Gateway:
    return ir.Gateway(services, clusters or (cluster(),), (), Transport())


def examples() -> dict[str, ir.Gateway]:
    """What the golden files show, by folder name."""
    secrets = (
        ir.UpstreamSecret("ca", ir.SecretSource("shop", "ca", "ca.crt"), "ca"),
        ir.UpstreamSecret("key", ir.SecretSource("shop", "openai", "api-key"), "bearer"),
    )
    tls = cluster(
        "api.example.com", 443, tls_server_name="api.example.com", injected=ir.Injected("authorization", "key")
    )
    private = cluster("10.0.0.7", 8443, name="private", tls_server_name="db.internal", tls_ca_secret="ca")
    return {
        "priced-and-free-routes": gateway(
            service(
                priced("complete", literal("/v1/chat/completions"), POST),
                free("models", literal("/v1/models")),
                upstream_path="/api",
                retries=RETRIES,
            )
        ),
        "patterns-streaming-digest": gateway(
            service(
                priced("events", ir.PathPattern(("v1", None, "events")), streaming=True),
                priced("upload", literal("/files/"), POST, digest_max_bytes=65536),
                free("files", ir.PathPattern(("files",), rest=True)),
                priced("home", ROOT),
                headers_set=(("x-tenant", "50%"),),
                headers_remove=("OpenAI-Organization",),
            )
        ),
        "nested-base-paths-and-root": gateway(
            service(priced("all", ANYTHING), name="a", base_path="/a"),
            service(priced("all", ANYTHING), name="ab", base_path="/a/b", cors_origins=("https://shop.example",)),
            service(free("all", ANYTHING), name="root", base_path="/", hosts=("127.0.0.1", "localhost")),
        ),
        "tls-and-injected-credentials": replace(
            gateway(service(priced("all", ANYTHING)), clusters=(private, tls)), upstream_secrets=secrets
        ),
        "nothing-to-serve": ir.Gateway((), (), (), Transport()),
    }
