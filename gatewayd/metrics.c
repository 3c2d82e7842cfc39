/*
 * See metrics.h. A scrape asks raftd, then stored, each for its figures and for the families it
 * writes itself, and renders what answered.
 */
#include "gatewayd/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config.h"
#include "gatewayd/gatewayd.h"
#include "gatewayd/grpc.h"
#include "gatewayd/http_mux.h"
#include "gatewayd/probe.h"
#include "gatewayd/watches.h"
#include "lib/http/http_server.h"
#include "lib/loop/loop.h"
#include "lib/metrics/metrics.h"
#include "lib/proto/outcome.h"
#include "lib/util/xmalloc.h"

struct scrape {
    struct probe base;
    bool have_raft, have_store;
    struct proto_raft_status raft;
    struct proto_store_status store;
    struct buf out;
};

static void scrape_free(struct probe *base)
{
    struct scrape *s = CONTAINER_OF(base, struct scrape, base);

    buf_fini(&s->out);
    free(s);
}

/* ---- writing families ---- */

static void put_label(struct buf *b, const char *name, const char *help, const char *label,
                      const char *value)
{
    metrics_family(b, name, "gauge", help);
    buf_appendf(b, "%s{%s=\"%s\"} 1\n", name, label, value);
}

/* Sum in nanoseconds and count, shown in seconds. */
static void put_summary(struct buf *b, const char *name, const char *help, uint64_t sum_ns,
                        uint64_t count)
{
    metrics_family(b, name, "summary", help);
    buf_appendf(b, "%s_sum %.9f\n%s_count %" PRIu64 "\n", name, (double)sum_ns / 1e9, name, count);
}

/* ---- gRPC: each family visits all methods ---- */

static const char *type_name(enum grpc_type type)
{
    static const char *const names[] = {"unary", "server_stream", "bidi_stream"};

    return names[type];
}

/* Room for the longest names and a code; what were longer would be cut short. */
enum { LABELS_BYTES = 192 };

static void method_labels(char labels[LABELS_BYTES], const struct grpc_method *m)
{
    snprintf(labels, LABELS_BYTES, "grpc_method=\"%s\",grpc_service=\"%s\",grpc_type=\"%s\"",
             m->name, m->service, type_name(m->type));
}

static void put_method(struct buf *b, const char *name, const struct grpc_method *m, uint64_t v)
{
    char labels[LABELS_BYTES];

    method_labels(labels, m);
    metrics_sample(b, name, labels, v);
}

static void visit_handled(void *user, const struct grpc_method *m)
{
    char method[LABELS_BYTES], labels[LABELS_BYTES + 48];

    method_labels(method, m);
    for (int code = 0; code < GRPC_CODE_COUNT; code++) {
        snprintf(labels, sizeof(labels), "grpc_code=\"%s\",%s",
                 grpc_code_name((enum grpc_code)code), method);
        metrics_sample(user, "grpc_server_handled_total", labels, m->stats.handled[code]);
    }
}

static void visit_started(void *user, const struct grpc_method *m)
{
    put_method(user, "grpc_server_started_total", m, m->stats.started);
}

static void visit_received(void *user, const struct grpc_method *m)
{
    put_method(user, "grpc_server_msg_received_total", m, m->stats.messages_received);
}

static void visit_sent(void *user, const struct grpc_method *m)
{
    put_method(user, "grpc_server_msg_sent_total", m, m->stats.messages_sent);
}

static void visit_handling(void *user, const struct grpc_method *m)
{
    char labels[LABELS_BYTES];

    if (m->stats.handling.count == 0)
        return;
    method_labels(labels, m);
    metrics_histogram_samples(user, "grpc_server_handling_seconds", labels, &m->stats.handling);
}

static void put_grpc(struct buf *b, const struct gatewayd *gw)
{
    metrics_family(b, "grpc_server_handled_total", "counter",
           "Total number of RPCs completed on the server, regardless of success or failure.");
    grpc_each_method(gw->grpc, visit_handled, b);
    if (strcmp(gw->conf->metrics, "extensive") == 0) {
        metrics_family(b, "grpc_server_handling_seconds", "histogram",
               "Response latency in seconds of RPCs handled by the server.");
        grpc_each_method(gw->grpc, visit_handling, b);
    }
    metrics_family(b, "grpc_server_msg_received_total", "counter",
           "Total number of RPC stream messages received on the server.");
    grpc_each_method(gw->grpc, visit_received, b);
    metrics_family(b, "grpc_server_msg_sent_total", "counter",
           "Total number of gRPC stream messages sent by the server.");
    grpc_each_method(gw->grpc, visit_sent, b);
    metrics_family(b, "grpc_server_started_total", "counter",
           "Total number of RPCs started on the server.");
    grpc_each_method(gw->grpc, visit_started, b);
}

/* ---- the member ---- */

static void put_conclave(struct buf *b, const struct scrape *s)
{
    const struct http_counters *http = http_server_counters(s->base.gw->server);

    metrics_u64(b, "conclave_gateway_backend_calls", "gauge",
            "Requests to raftd and stored that are under way.",
            backend_call_count(s->base.gw->backend));
    metrics_u64(b, "conclave_gateway_connections", "gauge", "Open client connections.",
            http->connections);
    metrics_u64(b, "conclave_gateway_protocol_errors_total", "counter",
            "Malformed input that ended a connection or a request.", http->protocol_errors);
    if (!s->have_store)
        return;
    metrics_u64(b, "conclave_stored_cache_bytes", "gauge", "Values held in memory.",
            s->store.cache_bytes);
    metrics_u64(b, "conclave_stored_durable_index", "gauge",
            "Raft index up to which the keyspace is synced.", s->store.durable_index);
    metrics_u64(b, "conclave_stored_index_bytes", "gauge", "Memory of the key index.",
            s->store.index_bytes);
    put_summary(b, "conclave_stored_write_batch_seconds", "Time in LevelDB batch writes.",
                s->store.write_batch_ns_sum, s->store.write_batch_count);
}

static void put_debugging(struct buf *b, const struct gatewayd *gw,
                          const struct proto_store_status *store)
{
    struct watches_stats watches;

    metrics_u64(b, "etcd_debugging_mvcc_compact_revision", "gauge",
            "The revision of the last compaction in store.",
            store->compact_revision > 0 ? (uint64_t)store->compact_revision : 0);
    metrics_u64(b, "etcd_debugging_mvcc_current_revision", "gauge", "The current revision of store.",
            (uint64_t)store->revision);
    watches_get_stats(gw->watches, &watches);
    metrics_u64(b, "etcd_debugging_mvcc_events_total", "counter",
            "Total number of events sent by this member.", watches.events_total);
    metrics_u64(b, "etcd_debugging_mvcc_keys_total", "gauge", "Total number of keys.",
            store->key_count);
}

static void put_mvcc(struct buf *b, const struct proto_store_status *store)
{
    metrics_u64(b, "etcd_mvcc_db_total_size_in_bytes", "gauge",
            "Total size of the underlying database physically allocated in bytes.",
            store->db_bytes);
    metrics_u64(b, "etcd_mvcc_db_total_size_in_use_in_bytes", "gauge",
            "Total size of the underlying database logically in use in bytes.",
            store->db_bytes_in_use);
    metrics_u64(b, "etcd_mvcc_delete_total", "counter", "Total number of deletes seen by this member.",
            store->delete_total);
    metrics_u64(b, "etcd_mvcc_put_total", "counter", "Total number of puts seen by this member.",
            store->put_total);
    metrics_u64(b, "etcd_mvcc_range_total", "counter", "Total number of ranges seen by this member.",
            store->range_total);
    metrics_u64(b, "etcd_mvcc_txn_total", "counter", "Total number of txns seen by this member.",
            store->txn_total);
}

static void put_network(struct buf *b, const struct gatewayd *gw)
{
    metrics_u64(b, "etcd_network_client_grpc_received_bytes_total", "counter",
            "The total number of bytes received from grpc clients.",
            grpc_bytes_received(gw->grpc));
    metrics_u64(b, "etcd_network_client_grpc_sent_bytes_total", "counter",
            "The total number of bytes sent to grpc clients.", grpc_bytes_sent(gw->grpc));
}

static void put_server(struct buf *b, const struct scrape *s)
{
    const struct proto_raft_status *raft = &s->raft;
    char id[17];

    metrics_u64(b, "etcd_server_has_leader", "gauge",
            "Whether or not a leader exists. 1 is existence, 0 is not.",
            s->have_raft && raft->leader_id != 0);
    metrics_u64(b, "etcd_server_health_failures", "counter", "The total number of failed health checks.",
            s->base.gw->health_failures);
    metrics_u64(b, "etcd_server_health_success", "counter",
            "The total number of successful health checks.", s->base.gw->health_success);
    if (s->have_raft) {
        snprintf(id, sizeof(id), "%" PRIx64, raft->member_id);
        put_label(b, "etcd_server_id", "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
                  "server_id", id);
        metrics_u64(b, "etcd_server_is_leader", "gauge",
                "Whether or not this member is a leader. 1 if is, 0 otherwise.",
                raft->state == PROTO_RAFT_LEADER);
        metrics_u64(b, "etcd_server_is_learner", "gauge",
                "Whether or not this member is a learner. 1 if is, 0 otherwise.",
                raft->is_learner);
        metrics_u64(b, "etcd_server_leader_changes_seen_total", "counter",
                "The number of leader changes seen.", raft->leader_changes);
    }
    if (s->have_store)
        metrics_u64(b, "etcd_server_proposals_applied_total", "gauge",
                "The total number of consensus proposals applied.", s->store.applied_index);
    if (s->have_raft) {
        metrics_u64(b, "etcd_server_proposals_committed_total", "gauge",
                "The total number of consensus proposals committed.", raft->commit_index);
        metrics_u64(b, "etcd_server_proposals_failed_total", "counter",
                "The total number of failed proposals seen.", raft->proposals_failed);
        metrics_u64(b, "etcd_server_proposals_pending", "gauge",
                "The current number of pending proposals to commit.", raft->proposals_pending);
    }
    if (s->have_store)
        metrics_u64(b, "etcd_server_quota_backend_bytes", "gauge",
                "Current backend storage quota size in bytes.", s->store.quota_bytes);
    if (s->have_raft)
        metrics_u64(b, "etcd_server_read_indexes_failed_total", "counter",
                "The total number of failed read indexes seen.", raft->read_indexes_failed);
    put_label(b, "etcd_server_version", "Which version is running. 1 for 'server_version' label with current version.",
              "server_version", ETCD_API_VERSION);
}

static void render(struct scrape *s)
{
    struct buf *b = &s->out;

    put_conclave(b, s);
    if (s->have_store && s->store.cluster_version.len != 0) {
        CLEANUP(freep) char *version =
            xstrndup((const char *)s->store.cluster_version.data, s->store.cluster_version.len);

        put_label(b, "etcd_cluster_version", "Which version is running. 1 for 'cluster_version' label with current cluster version",
                  "cluster_version", version);
    }
    if (s->have_store) {
        put_debugging(b, s->base.gw, &s->store);
        put_mvcc(b, &s->store);
    }
    put_network(b, s->base.gw);
    put_server(b, s);
    put_grpc(b, s->base.gw);
    metrics_process(b, "");
    http_mux_respond(s->base.req, s->base.gw, 200, "text/plain; version=0.0.4; charset=utf-8",
                     buf_bytes(b));
}

/* ---- the scrape ---- */

static void on_store(struct backend_call *backend, int outcome, struct bytes part,
                     uint64_t total_bytes)
{
    struct scrape *s = CONTAINER_OF(backend, struct scrape, base.backend);

    s->have_store = outcome == OUT_OK && proto_store_status_decode(part, &s->store) == 0;
    render(s);
}

/* A scrape's text of families, from a daemon that has written them itself. */
static void on_store_text(struct backend_call *backend, int outcome, struct bytes part,
                          uint64_t total_bytes)
{
    struct scrape *s = CONTAINER_OF(backend, struct scrape, base.backend);

    buf_append_bytes(&s->out, part); /* empty with any other outcome than OK */
    if (outcome == OUT_OK && backend->received_bytes < total_bytes) {
        backend_consumed(s->base.gw->backend, backend);
        return;
    }
    backend->done = on_store;
    backend_read(s->base.gw->backend, backend, PROTO_READ_STATUS, false);
}

static void on_raft_text(struct backend_call *backend, int outcome, struct bytes part,
                         uint64_t total_bytes)
{
    struct scrape *s = CONTAINER_OF(backend, struct scrape, base.backend);

    buf_append_bytes(&s->out, part);
    backend->done = on_store_text;
    backend_read(s->base.gw->backend, backend, PROTO_READ_METRICS, false);
}

static void on_raft(struct backend_call *backend, int outcome, struct bytes part,
                    uint64_t total_bytes)
{
    struct scrape *s = CONTAINER_OF(backend, struct scrape, base.backend);

    s->have_raft = outcome == OUT_OK && proto_raft_status_decode(part, &s->raft) == 0;
    backend->done = on_raft_text;
    backend_raft_metrics(s->base.gw->backend, backend);
}

enum { SCRAPE_WAIT_MS = 1000 }; /* for each daemon: a scrape must not hang on one that is away */

void metrics_serve(struct gatewayd *gw, struct http_req *req)
{
    struct scrape *s = xcalloc(1, sizeof(*s));

    probe_begin(&s->base, gw, req, scrape_free);
    s->base.backend.done = on_raft;
    s->base.backend.deadline_ns = loop_now_ns(gw->loop) + SCRAPE_WAIT_MS * 1000000ULL;
    backend_raft_status(gw->backend, &s->base.backend);
}
