/*
 * gatewayd: the client side of a member. It speaks protocols and stores nothing: gRPC and
 * HTTP/1.1 on the sockets the supervisor opened, proposals to raftd, reads to stored.
 */
#ifndef CONCLAVE_GATEWAYD_GATEWAYD_H
#define CONCLAVE_GATEWAYD_GATEWAYD_H

#include <stdbool.h>
#include <stdint.h>
#include "lib/conf/conf.h"
#include "lib/util/list.h"

struct auth_cache;
struct backend;
struct daemon;
struct grpc_service;
struct http_server;
struct loop;
struct tls_context;
struct watches;

struct gatewayd_conf {
    uint64_t gateway_index;
    uint64_t max_request_bytes;
    uint64_t max_txn_ops;
    uint64_t max_concurrent_streams;
    uint64_t keepalive_min_time_ns;
    uint64_t keepalive_interval_ns;
    uint64_t keepalive_timeout_ns;
    uint64_t watch_progress_interval_ns;
    char *host_whitelist; /* comma list, "*": any */
    char *cors;           /* comma list of origins, "*": any */
    bool enable_grpc_gateway;
    bool stop_grpc_on_defrag;
    char *feature_gates; /* A=true,B=false */
    char *metrics;        /* "basic" or "extensive" */
    char *cert_file, *key_file, *trusted_ca_file, *client_crl_file;
    bool client_cert_auth;
    char *client_cert_allowed_cn, *client_cert_allowed_hostname; /* comma lists */
    char *cipher_suites, *tls_min_version, *tls_max_version;
};

struct gatewayd {
    struct daemon *daemon;
    struct loop *loop;
    const struct gatewayd_conf *conf;
    struct backend *backend;
    struct watches *watches;
    struct grpc_service *grpc;
    struct auth_cache *auth_cache;
    struct http_server *server;       /* client listeners */
    struct http_server *metrics_only; /* listen-metrics-urls: no gRPC; NULL when there are none */
    struct tls_context *tls;          /* of https:// listeners; NULL when there are none */
    uint64_t rejected_log_ms, rejected_unlogged; /* failed handshakes in the log */
    struct list withdrawals; /* v3/contest.c */
    struct list health_watches; /* v3/health.c */
    unsigned int defragments; /* under way, while health tells of them */
    bool stop_on_defragment;
    uint64_t lease_id_last; /* chosen for a client; 0: none yet */
    uint64_t health_success, health_failures;
    bool ready;
    bool stopping;
    unsigned int draining; /* servers that have not finished draining */
};

extern const struct conf_field gatewayd_conf_fields[];

int gatewayd_init(void *state, struct daemon *d);
int gatewayd_start(void *state, struct daemon *d);
void gatewayd_stop(void *state);
void gatewayd_fini(void *state);

#endif
