#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <string.h>
#include "lib/log/log.h"
#include "raftd/raftd.h"

#define FIELD(member_) offsetof(struct raftd_conf, member_)
const struct conf_field raftd_conf_fields[] = {
    {.name = "data-dir", .type = CONF_STRING, .offset = FIELD(data_dir), .def = "default.etcd",
     .help = "directory of this member's data"},
    {.name = "wal-dir", .type = CONF_STRING, .offset = FIELD(wal_dir), .def = "",
     .help = "directory of the log; empty: member/wal in data-dir"},
    {.name = "initial-cluster", .type = CONF_STRING, .offset = FIELD(initial_cluster),
     .def = "default=http://localhost:2380", .help = "name=url,... of all first members"},
    {.name = "initial-cluster-state", .type = CONF_STRING, .offset = FIELD(initial_cluster_state),
     .def = "new", .help = "new or existing"},
    {.name = "initial-cluster-token", .type = CONF_STRING, .offset = FIELD(initial_cluster_token),
     .def = "etcd-cluster", .help = "part of the derivation of ids"},
    {.name = "initial-advertise-peer-urls", .type = CONF_STRING,
     .offset = FIELD(initial_advertise_peer_urls), .def = "http://localhost:2380",
     .help = "where the other members reach this one"},
    {.name = "advertise-client-urls", .type = CONF_STRING, .offset = FIELD(advertise_client_urls),
     .def = "http://localhost:2379", .help = "published to clients"},
    {.name = "listen-peer-urls", .type = CONF_STRING, .offset = FIELD(listen_peer_urls),
     .def = "http://localhost:2380", .help = "where to listen for the other members"},
    {.name = "heartbeat-interval", .type = CONF_U64, .offset = FIELD(heartbeat_ms), .def = "100",
     .min = 1, .max = 50000, .help = "milliseconds"},
    {.name = "election-timeout", .type = CONF_U64, .offset = FIELD(election_ms), .def = "1000",
     .min = 1, .max = 50000, .help = "milliseconds"},
    {.name = "snapshot-count", .type = CONF_U64, .offset = FIELD(snapshot_count), .def = "10000",
     .help = "entries between two shortenings of the log; 0: default"},
    {.name = "snapshot-catchup-entries", .type = CONF_U64,
     .offset = FIELD(snapshot_catchup_entries), .def = "5000",
     .help = "entries kept for slow followers; 0: default"},
    {.name = "pre-vote", .type = CONF_BOOL, .offset = FIELD(pre_vote), .def = "true",
     .help = "ask before raising the term"},
    {.name = "initial-election-tick-advance", .type = CONF_BOOL,
     .offset = FIELD(initial_election_tick_advance), .def = "true",
     .help = "wait less for a leader after the start"},
    {.name = "force-new-cluster", .type = CONF_BOOL, .offset = FIELD(force_new_cluster),
     .def = "false", .help = "drop all other members"},
    {.name = "unsafe-no-fsync", .type = CONF_BOOL, .offset = FIELD(unsafe_no_fsync),
     .def = "false", .help = "never sync; loses data"},
    {.name = "max-request-bytes", .type = CONF_U64, .offset = FIELD(max_request_bytes),
     .def = "1572864", .min = 1, .max = 60 << 20, .help = "largest client request"},
    {.name = "gateway-count", .type = CONF_U64, .offset = FIELD(gateway_count), .def = "1",
     .max = RAFTD_GATEWAYS_MAX, .help = "how many gatewayd there are"},
    {.name = "peer-cert-file", .type = CONF_STRING, .offset = FIELD(tls.cert_file), .def = "",
     .help = "certificate of https peer URLs"},
    {.name = "peer-key-file", .type = CONF_STRING, .offset = FIELD(tls.key_file), .def = "",
     .help = "its key"},
    {.name = "peer-client-cert-file", .type = CONF_STRING, .offset = FIELD(tls.client_cert_file), .def = "",
     .help = "certificate for dialling; empty: the same"},
    {.name = "peer-client-key-file", .type = CONF_STRING, .offset = FIELD(tls.client_key_file), .def = "",
     .help = "its key"},
    {.name = "peer-trusted-ca-file", .type = CONF_STRING, .offset = FIELD(tls.ca_file), .def = "",
     .help = "authorities of the other members' certificates"},
    {.name = "peer-crl-file", .type = CONF_STRING, .offset = FIELD(tls.crl_file), .def = "",
     .help = "revoked certificates"},
    {.name = "peer-client-cert-auth", .type = CONF_BOOL, .offset = FIELD(tls.require_cert), .def = "false",
     .help = "require certificates of members that dial"},
    {.name = "peer-auto-tls", .type = CONF_BOOL, .offset = FIELD(tls.auto_tls), .def = "false",
     .help = "certificates sign themselves: none is verified"},
    {.name = "peer-skip-client-san-verification", .type = CONF_BOOL, .offset = FIELD(tls.skip_san), .def = "false",
     .help = "do not compare a certificate's names with the address it comes from"},
    {.name = "peer-cert-allowed-cn", .type = CONF_STRING, .offset = FIELD(tls.allowed_cn), .def = "",
     .help = "comma list; empty: any"},
    {.name = "peer-cert-allowed-hostname", .type = CONF_STRING, .offset = FIELD(tls.allowed_hostname), .def = "",
     .help = "comma list; empty: any"},
    {.name = "cipher-suites", .type = CONF_STRING, .offset = FIELD(tls.cipher_suites), .def = "",
     .help = "comma list of Go's names; empty: OpenSSL's choice"},
    {.name = "tls-min-version", .type = CONF_STRING, .offset = FIELD(tls.min_version), .def = "TLS1.2",
     .help = "TLS1.2 or TLS1.3"},
    {.name = "tls-max-version", .type = CONF_STRING, .offset = FIELD(tls.max_version), .def = "",
     .help = "TLS1.2 or TLS1.3; empty: highest"},
    {.name = "strict-reconfig-check", .type = CONF_BOOL, .offset = FIELD(strict_reconfig_check),
     .def = "true", .help = "refuse membership changes that would cost the quorum"},
    {.name = "max-learners", .type = CONF_U64, .offset = FIELD(max_learners), .def = "1",
     .help = "learners at a time"},
    {.name = "experimental-initial-corrupt-check", .type = CONF_BOOL,
     .offset = FIELD(initial_corrupt_check), .def = "false",
     .help = "end when the keyspace differs from the other members' at the start"},
    {.name = "corrupt-check-time", .type = CONF_DURATION, .offset = FIELD(corrupt_check_ns),
     .def = "0s", .help = "between alarms for members whose keyspace differs; 0: none"},
    CONF_END,
};

int raftd_conf_check(const struct raftd_conf *c)
{
    if (c->heartbeat_ms * 5 > c->election_ms) {
        log_error("--election-timeout[%" PRIu64 "ms] should be at least as 5 times as "
                  "--heartbeat-interval[%" PRIu64 "ms]",
                  c->election_ms, c->heartbeat_ms);
        return -EINVAL;
    }
    if (strcmp(c->initial_cluster_state, "new") != 0 &&
        strcmp(c->initial_cluster_state, "existing") != 0) {
        log_error("unexpected clusterState \"%s\"", c->initial_cluster_state);
        return -EINVAL;
    }
    return 0;
}
