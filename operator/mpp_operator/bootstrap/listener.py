"""The listener and its connection manager: protocols, limits, what is believed of a client's headers."""

import ipaddress
from typing import Final

from envoy_data_plane.envoy.config.core import v3 as core
from envoy_data_plane.envoy.config.listener import v3 as listener
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager import v3 as hcm
from envoy_data_plane.envoy.extensions.http.early_header_mutation.header_mutation import v3 as early
from envoy_data_plane.envoy.extensions.transport_sockets.tls import v3 as tls
from envoy_data_plane.envoy.type.matcher import v3 as strings

from mpp_authz import wire
from mpp_operator import bootstrap
from mpp_operator.artifacts import routes
from mpp_operator.bootstrap import access_logs, filters, local_replies, messages

#: What only we may say to an upstream. `x-envoy-` would steer Envoy itself.
_OURS: Final = (wire.FACT_PREFIX, "x-envoy-")


def build(settings: bootstrap.BootstrapSettings, rds: core.ConfigSource) -> listener.Listener:
    """The listener. Peers that end TLS for us have a chain of their own, in which X-Forwarded-Proto counts."""
    chains = [_chain(settings, rds, terminated=False)]
    if settings.terminated_by:
        chains.insert(0, _chain(settings, rds, terminated=True))
        chains[0].filter_chain_match = listener.FilterChainMatch(
            direct_source_prefix_ranges=[_range(cidr) for cidr in settings.terminated_by]
        )
    return listener.Listener(
        name=bootstrap.LISTENER,
        address=core.Address(
            socket_address=core.SocketAddress(address=settings.address, port_value=settings.port)
        ),
        filter_chains=chains,
        per_connection_buffer_limit_bytes=64 * 1024,
    )


def _chain(
    settings: bootstrap.BootstrapSettings, rds: core.ConfigSource, *, terminated: bool
) -> listener.FilterChain:
    manager = messages.packed(_connection_manager(settings, rds, terminated=terminated))
    return listener.FilterChain(
        name="terminated" if terminated else "direct",
        filters=[listener.Filter(name="envoy.filters.network.http_connection_manager", typed_config=manager)],
        transport_socket=None if settings.tls is None else _tls(settings.tls),
    )


def _tls(certificate: bootstrap.Certificate) -> core.TransportSocket:
    pair = tls.TlsCertificate(
        certificate_chain=core.DataSource(filename=certificate.certificate),
        private_key=core.DataSource(filename=certificate.key),
    )
    context = tls.DownstreamTlsContext(
        common_tls_context=tls.CommonTlsContext(
            tls_params=tls.TlsParameters(tls_minimum_protocol_version=tls.TlsParametersTlsProtocol.TLSv1_2),
            tls_certificates=[pair],
            alpn_protocols=["h2", "http/1.1"],
        )
    )
    return core.TransportSocket(name="envoy.transport_sockets.tls", typed_config=messages.packed(context))


def _connection_manager(
    settings: bootstrap.BootstrapSettings, rds: core.ConfigSource, *, terminated: bool
) -> hcm.HttpConnectionManager:
    return hcm.HttpConnectionManager(
        stat_prefix=bootstrap.STAT_PREFIX,
        codec_type=hcm.HttpConnectionManagerCodecType.AUTO,
        rds=hcm.Rds(route_config_name=routes.ROUTE_CONFIGURATION, config_source=rds),
        http_filters=filters.chain(settings, terminated=terminated),
        access_log=access_logs.build(settings),
        access_log_options=hcm.HttpConnectionManagerHcmAccessLogOptions(
            access_log_flush_interval=messages.seconds(settings.log_interval)
        ),
        local_reply_config=local_replies.build(),
        # Two readings of one path would be a free ride (reference: path confusion, measured).
        normalize_path=True,
        merge_slashes=True,
        path_with_escaped_slashes_action=hcm.HttpConnectionManagerPathWithEscapedSlashesAction.REJECT_REQUEST,
        strip_any_host_port=True,
        # The peer is who connected to us: no hop is trusted, so X-Forwarded-For names nobody.
        use_remote_address=True,
        early_header_mutation_extensions=[
            messages.extension("envoy.http.early_header_mutation.header_mutation", _claims(terminated=terminated))
        ],
        # The connection's own: a client's `:scheme` or absolute URI would be believed otherwise.
        scheme_header_transformation=core.SchemeHeaderTransformation(
            scheme_to_overwrite="http" if settings.tls is None else "https"
        ),
        # A private address is no reason to believe a client's x-envoy-* headers.
        internal_address_config=hcm.HttpConnectionManagerInternalAddressConfig(
            # No client's: an empty list means the private addresses (measured), and their x-request-id would stay.
            cidr_ranges=[core.CidrRange(address_prefix="255.255.255.255", prefix_len=32)]
        ),
        server_header_transformation=hcm.HttpConnectionManagerServerHeaderTransformation.PASS_THROUGH,
        request_headers_timeout=messages.seconds(10),
        stream_idle_timeout=messages.seconds(300),
        max_request_headers_kb=bootstrap.MAX_HEADERS_KIB,
        common_http_protocol_options=core.HttpProtocolOptions(
            idle_timeout=messages.seconds(600),
            headers_with_underscores_action=core.HttpProtocolOptionsHeadersWithUnderscoresAction.REJECT_REQUEST,
            max_headers_count=bootstrap.MAX_HEADERS_COUNT,
        ),
        http2_protocol_options=core.Http2ProtocolOptions(
            max_concurrent_streams=100,
            initial_stream_window_size=65_536,
            initial_connection_window_size=1_048_576,
        ),
    )


def _claims(*, terminated: bool) -> early.HeaderMutation:
    """What a client says in our name is dropped before any route or filter is asked. Where a proxy ends TLS, its
    X-Forwarded-Proto is put aside for authz: right after this Envoy writes its own connection's scheme there."""
    mutations = [
        messages.Mutation(remove_on_match=messages.RemoveOnMatch(key_matcher=strings.StringMatcher(prefix=prefix)))
        for prefix in _OURS
    ]
    mutations += [messages.remove(wire.RECEIPT_HEADER), messages.remove(wire.FORWARDED_PROTO)]
    if terminated:
        mutations.append(messages.put(wire.FORWARDED_PROTO, "%REQ(x-forwarded-proto)%"))
    return early.HeaderMutation(mutations=mutations)


def _range(cidr: str) -> core.CidrRange:
    network = ipaddress.ip_network(cidr)
    return core.CidrRange(address_prefix=str(network.network_address), prefix_len=network.prefixlen)
