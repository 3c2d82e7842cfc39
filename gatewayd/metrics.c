/*
 * See metrics.h. The text is written in the order of the family names. A scrape asks raftd, then
 * stored, and renders what answered.
 */
#include "gatewayd/metrics.h"

#include <dirent.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "config.h"
#include "gatewayd/gatewayd.h"
#include "gatewayd/grpc.h"
#include "gatewayd/http_mux.h"
#include "gatewayd/probe.h"
#include "lib/http/http_server.h"
#include "lib/loop/loop.h"
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

static void family(struct buf *b, const char *name, const char *type, const char *help)
{
    buf_appendf(b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

static void put_u64(struct buf *b, const char *name, const char *type, const char *help, uint64_t v)
{
    family(b, name, type, help);
    buf_appendf(b, "%s %" PRIu64 "\n", name, v);
}

static void put_label(struct buf *b, const char *name, const char *help, const char *label,
                      const char *value)
{
    family(b, name, "gauge", help);
    buf_appendf(b, "%s{%s=\"%s\"} 1\n", name, label, value);
}

/* Sum in nanoseconds and count, shown in seconds. */
static void put_summary(struct buf *b, const char *name, const char *help, uint64_t sum_ns,
                        uint64_t count)
{
    family(b, name, "summary", help);
    buf_appendf(b, "%s_sum %.9f\n%s_count %" PRIu64 "\n", name, (double)sum_ns / 1e9, name, count);
}

/* ---- gRPC: each family visits all methods ---- */

static const char *type_name(enum grpc_type type)
{
    static const char *const names[] = {"unary", "server_stream", "bidi_stream"};

    return names[type];
}

static void method_line(struct buf *b, const char *name, const struct grpc_method *m,
                        const char *more, uint64_t v)
{
    buf_appendf(b, "%s{%sgrpc_method=\"%s\",grpc_service=\"%s\",grpc_type=\"%s\"} %" PRIu64 "\n",
                name, more, m->name, m->service, type_name(m->type), v);
}

static void visit_handled(void *user, const struct grpc_method *m)
{
    for (int code = 0; code < GRPC_CODE_COUNT; code++) {
        char more[48];

        snprintf(more, sizeof(more), "grpc_code=\"%s\",", grpc_code_name((enum grpc_code)code));
        method_line(user, "grpc_server_handled_total", m, more, m->stats.handled[code]);
    }
}

static void visit_started(void *user, const struct grpc_method *m)
{
    method_line(user, "grpc_server_started_total", m, "", m->stats.started);
}

static void visit_received(void *user, const struct grpc_method *m)
{
    method_line(user, "grpc_server_msg_received_total", m, "", m->stats.messages_received);
}

static void visit_sent(void *user, const struct grpc_method *m)
{
    method_line(user, "grpc_server_msg_sent_total", m, "", m->stats.messages_sent);
}

static void visit_handling(void *user, const struct grpc_method *m)
{
    struct buf *b = user;
    uint64_t cumulative = 0;

    if (m->stats.handling_count == 0)
        return;
    for (size_t i = 0; i < ARRAY_LEN(grpc_handling_bounds); i++) {
        char more[32];

        cumulative += m->stats.handling_bucket[i];
        snprintf(more, sizeof(more), "le=\"%g\",", grpc_handling_bounds[i]);
        method_line(b, "grpc_server_handling_seconds_bucket", m, more, cumulative);
    }
    method_line(b, "grpc_server_handling_seconds_bucket", m, "le=\"+Inf\",",
                m->stats.handling_count);
    buf_appendf(b,
                "grpc_server_handling_seconds_sum{grpc_method=\"%s\",grpc_service=\"%s\",grpc_type="
                "\"%s\"} %.9f\n",
                m->name, m->service, type_name(m->type), (double)m->stats.handling_ns_sum / 1e9);
    method_line(b, "grpc_server_handling_seconds_count", m, "", m->stats.handling_count);
}

static void put_grpc(struct buf *b, const struct gatewayd *gw)
{
    family(b, "grpc_server_handled_total", "counter",
           "Total number of RPCs completed on the server, regardless of success or failure.");
    grpc_each_method(gw->grpc, visit_handled, b);
    if (strcmp(gw->conf->metrics, "extensive") == 0) {
        family(b, "grpc_server_handling_seconds", "histogram",
               "Response latency in seconds of RPCs handled by the server.");
        grpc_each_method(gw->grpc, visit_handling, b);
    }
    family(b, "grpc_server_msg_received_total", "counter",
           "Total number of RPC stream messages received on the server.");
    grpc_each_method(gw->grpc, visit_received, b);
    family(b, "grpc_server_msg_sent_total", "counter",
           "Total number of gRPC stream messages sent by the server.");
    grpc_each_method(gw->grpc, visit_sent, b);
    family(b, "grpc_server_started_total", "counter",
           "Total number of RPCs started on the server.");
    grpc_each_method(gw->grpc, visit_started, b);
}

/* ---- the process ---- */

static uint64_t open_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    uint64_t count = 0;

    if (dir == NULL)
        return 0;
    while (readdir(dir) != NULL)
        count++;
    closedir(dir);
    return count > 3 ? count - 3 : 0; /* ".", "..", and the directory itself */
}

static void put_process(struct buf *b)
{
    struct rlimit limit = {0};
    struct rusage usage = {0};
    unsigned long pages_total = 0, pages_resident = 0;
    uint64_t page = (uint64_t)sysconf(_SC_PAGESIZE);
    FILE *f = fopen("/proc/self/statm", "re");

    if (f != NULL) {
        if (fscanf(f, "%lu %lu", &pages_total, &pages_resident) != 2)
            pages_total = pages_resident = 0;
        fclose(f);
    }
    getrlimit(RLIMIT_NOFILE, &limit);
    getrusage(RUSAGE_SELF, &usage);
    family(b, "process_cpu_seconds_total", "counter",
           "Total user and system CPU time spent in seconds (gatewayd).");
    buf_appendf(b, "process_cpu_seconds_total %.3f\n",
                (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                    (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6);
    put_u64(b, "process_max_fds", "gauge", "Maximum number of open file descriptors.",
            limit.rlim_cur);
    put_u64(b, "process_open_fds", "gauge", "Number of open file descriptors.", open_descriptors());
    put_u64(b, "process_resident_memory_bytes", "gauge", "Resident memory size in bytes.",
            pages_resident * page);
    put_u64(b, "process_virtual_memory_bytes", "gauge", "Virtual memory size in bytes.",
            pages_total * page);
}

/* ---- the member ---- */

static void put_conclave(struct buf *b, const struct scrape *s)
{
    const struct http_counters *http = http_server_counters(s->base.gw->server);

    put_u64(b, "conclave_gateway_backend_calls", "gauge",
            "Requests to raftd and stored that are under way.",
            backend_call_count(s->base.gw->backend));
    put_u64(b, "conclave_gateway_connections", "gauge", "Open client connections.",
            http->connections);
    put_u64(b, "conclave_gateway_protocol_errors_total", "counter",
            "Malformed input that ended a connection or a request.", http->protocol_errors);
    if (s->have_raft) {
        put_u64(b, "conclave_raftd_wal_bytes", "gauge", "Size of the write-ahead log.",
                s->raft.wal_bytes);
        put_summary(b, "conclave_raftd_wal_sync_seconds", "Time in fdatasync of the log.",
                    s->raft.wal_sync_ns_sum, s->raft.wal_sync_count);
    }
    if (!s->have_store)
        return;
    put_u64(b, "conclave_stored_cache_bytes", "gauge", "Values held in memory.",
            s->store.cache_bytes);
    put_u64(b, "conclave_stored_durable_index", "gauge",
            "Raft index up to which the keyspace is synced.", s->store.durable_index);
    put_u64(b, "conclave_stored_index_bytes", "gauge", "Memory of the key index.",
            s->store.index_bytes);
    put_summary(b, "conclave_stored_write_batch_seconds", "Time in LevelDB batch writes.",
                s->store.write_batch_ns_sum, s->store.write_batch_count);
}

static void put_debugging(struct buf *b, const struct proto_store_status *store)
{
    put_u64(b, "etcd_debugging_mvcc_compact_revision", "gauge",
            "The revision of the last compaction in store.",
            store->compact_revision > 0 ? (uint64_t)store->compact_revision : 0);
    put_u64(b, "etcd_debugging_mvcc_current_revision", "gauge", "The current revision of store.",
            (uint64_t)store->revision);
    put_u64(b, "etcd_debugging_mvcc_keys_total", "gauge", "Total number of keys.",
            store->key_count);
}

static void put_mvcc(struct buf *b, const struct proto_store_status *store)
{
    put_u64(b, "etcd_mvcc_db_total_size_in_bytes", "gauge",
            "Total size of the underlying database physically allocated in bytes.",
            store->db_bytes);
    put_u64(b, "etcd_mvcc_db_total_size_in_use_in_bytes", "gauge",
            "Total size of the underlying database logically in use in bytes.",
            store->db_bytes_in_use);
    put_u64(b, "etcd_mvcc_delete_total", "counter", "Total number of deletes seen by this member.",
            store->delete_total);
    put_u64(b, "etcd_mvcc_put_total", "counter", "Total number of puts seen by this member.",
            store->put_total);
    put_u64(b, "etcd_mvcc_range_total", "counter", "Total number of ranges seen by this member.",
            store->range_total);
    put_u64(b, "etcd_mvcc_txn_total", "counter", "Total number of txns seen by this member.",
            store->txn_total);
}

static void put_network(struct buf *b, const struct gatewayd *gw)
{
    put_u64(b, "etcd_network_client_grpc_received_bytes_total", "counter",
            "The total number of bytes received from grpc clients.",
            grpc_bytes_received(gw->grpc));
    put_u64(b, "etcd_network_client_grpc_sent_bytes_total", "counter",
            "The total number of bytes sent to grpc clients.", grpc_bytes_sent(gw->grpc));
}

static void put_server(struct buf *b, const struct scrape *s)
{
    const struct proto_raft_status *raft = &s->raft;
    char id[17];

    put_u64(b, "etcd_server_has_leader", "gauge",
            "Whether or not a leader exists. 1 is existence, 0 is not.",
            s->have_raft && raft->leader_id != 0);
    put_u64(b, "etcd_server_health_failures", "counter", "The total number of failed health checks.",
            s->base.gw->health_failures);
    put_u64(b, "etcd_server_health_success", "counter",
            "The total number of successful health checks.", s->base.gw->health_success);
    if (s->have_raft) {
        snprintf(id, sizeof(id), "%" PRIx64, raft->member_id);
        put_label(b, "etcd_server_id", "Server or member ID in hexadecimal format. 1 for 'server_id' label with current ID.",
                  "server_id", id);
        put_u64(b, "etcd_server_is_leader", "gauge",
                "Whether or not this member is a leader. 1 if is, 0 otherwise.",
                raft->state == PROTO_RAFT_LEADER);
        put_u64(b, "etcd_server_is_learner", "gauge",
                "Whether or not this member is a learner. 1 if is, 0 otherwise.",
                raft->is_learner);
        put_u64(b, "etcd_server_leader_changes_seen_total", "counter",
                "The number of leader changes seen.", raft->leader_changes);
    }
    if (s->have_store)
        put_u64(b, "etcd_server_proposals_applied_total", "gauge",
                "The total number of consensus proposals applied.", s->store.applied_index);
    if (s->have_raft) {
        put_u64(b, "etcd_server_proposals_committed_total", "gauge",
                "The total number of consensus proposals committed.", raft->commit_index);
        put_u64(b, "etcd_server_proposals_failed_total", "counter",
                "The total number of failed proposals seen.", raft->proposals_failed);
        put_u64(b, "etcd_server_proposals_pending", "gauge",
                "The current number of pending proposals to commit.", raft->proposals_pending);
    }
    if (s->have_store)
        put_u64(b, "etcd_server_quota_backend_bytes", "gauge",
                "Current backend storage quota size in bytes.", s->store.quota_bytes);
    if (s->have_raft)
        put_u64(b, "etcd_server_read_indexes_failed_total", "counter",
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
        put_debugging(b, &s->store);
        put_mvcc(b, &s->store);
    }
    put_network(b, s->base.gw);
    put_server(b, s);
    put_grpc(b, s->base.gw);
    put_process(b);
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

static void on_raft(struct backend_call *backend, int outcome, struct bytes part,
                    uint64_t total_bytes)
{
    struct scrape *s = CONTAINER_OF(backend, struct scrape, base.backend);

    s->have_raft = outcome == OUT_OK && proto_raft_status_decode(part, &s->raft) == 0;
    backend->done = on_store;
    backend_read(s->base.gw->backend, backend, PROTO_READ_STATUS, false);
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
