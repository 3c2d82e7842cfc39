#include "gatewayd/gatewayd.h"

#include <stddef.h>

#define FIELD(member) offsetof(struct gatewayd_conf, member)

const struct conf_field gatewayd_conf_fields[] = {
    {.name = "gateway-index", .type = CONF_U64, .offset = FIELD(gateway_index), .def = "0",
     .max = 63, .help = "which gateway of this member, from 0"},
    {.name = "max-request-bytes", .type = CONF_U64, .offset = FIELD(max_request_bytes),
     .def = "1572864", .min = 1, .max = 48 << 20, .help = "largest request a client may send, bytes"},
    {.name = "max-txn-ops", .type = CONF_U64, .offset = FIELD(max_txn_ops), .def = "128", .min = 1,
     .help = "operations per transaction level"},
    {.name = "max-concurrent-streams", .type = CONF_U64, .offset = FIELD(max_concurrent_streams),
     .def = "4294967295", .min = 1, .max = UINT32_MAX, .help = "HTTP/2 streams per connection"},
    {.name = "grpc-keepalive-min-time", .type = CONF_DURATION, .offset = FIELD(keepalive_min_time_ns),
     .def = "5s", .help = "a client that pings more often is sent away"},
    {.name = "grpc-keepalive-interval", .type = CONF_DURATION,
     .offset = FIELD(keepalive_interval_ns), .def = "2h", .help = "ping an idle client; 0: never"},
    {.name = "grpc-keepalive-timeout", .type = CONF_DURATION, .offset = FIELD(keepalive_timeout_ns),
     .def = "20s", .help = "close when the ping is not answered"},
    {.name = "host-whitelist", .type = CONF_STRING, .offset = FIELD(host_whitelist), .def = "*",
     .help = "acceptable Host headers on cleartext, comma list; * any"},
    {.name = "cors", .type = CONF_STRING, .offset = FIELD(cors), .def = "*",
     .help = "origins allowed by CORS, comma list; * any"},
    {.name = "metrics", .type = CONF_STRING, .offset = FIELD(metrics), .def = "basic",
     .help = "basic, or extensive for request duration histograms"},
    CONF_END,
};
