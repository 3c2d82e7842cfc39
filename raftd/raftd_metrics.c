/* raftd's metrics: etcd's names where it has them (etcd server/etcdserver, server/storage/wal,
 * server/etcdserver/api/rafthttp metrics.go), else conclave_raftd_... */
#include <inttypes.h>
#include <stdio.h>
#include "lib/metrics/metrics.h"
#include "raftd/raftd.h"

static void put_wal(struct raftd *r, struct buf *b)
{
    struct metrics_histogram syncs = {.first_ns = 1000000, .buckets = WAL_SYNC_BUCKETS};
    struct wal_thread_stats wal = {0};

    static_assert((int)WAL_SYNC_BUCKETS <= (int)METRICS_BUCKETS_MAX, "fits");
    if (r->wal_thread != NULL)
        wal_thread_get_stats(r->wal_thread, &wal);
    for (int i = 0; i <= WAL_SYNC_BUCKETS; i++)
        syncs.bucket[i] = wal.sync_buckets[i];
    syncs.count = wal.sync_count;
    syncs.sum_ns = wal.sync_ns_sum;
    metrics_family(b, "etcd_disk_wal_fsync_duration_seconds", "histogram",
                   "The latency distributions of fsync called by WAL.");
    metrics_histogram_samples(b, "etcd_disk_wal_fsync_duration_seconds", "", &syncs);
    metrics_u64(b, "etcd_disk_wal_write_bytes_total", "gauge",
                "Total number of bytes written in WAL.", wal.bytes_written);
    metrics_u64(b, "conclave_raftd_wal_queued_bytes", "gauge",
                "Bytes that wait to be written to the log.", wal.queued_bytes);
    metrics_u64(b, "conclave_raftd_wal_segments_cut_total", "counter",
                "Segments begun since the start.", wal.segments_cut);
    metrics_u64(b, "conclave_raftd_disk_resignations_total", "counter",
                "Times this leader resigned because its disk was stuck.",
                r->counters.disk_resignations);
}

struct per_peer {
    uint64_t id;
    struct peer_stats stats;
};

static size_t collect_peers(struct raftd *r, struct per_peer list[PEERS_MAX])
{
    size_t n = 0;

    for (size_t i = 0; i < r->members.count && n < PEERS_MAX; i++) {
        uint64_t id = r->members.list[i].id;

        if (id != r->member_id && peers_get_stats(r->peers, id, &list[n].stats))
            list[n++].id = id;
    }
    return n;
}

static const char *label(char text[96], const char *name, uint64_t id)
{
    snprintf(text, 96, "%s=\"%" PRIx64 "\"", name, id);
    return text;
}

static const char *local_remote(char text[96], uint64_t local, uint64_t remote)
{
    snprintf(text, 96, "Local=\"%" PRIx64 "\",Remote=\"%" PRIx64 "\"", local, remote);
    return text;
}

static void put_peers(struct raftd *r, struct buf *b)
{
    struct per_peer list[PEERS_MAX];
    size_t n = r->peers != NULL ? collect_peers(r, list) : 0;
    char text[96];

    if (n == 0)
        return;
    metrics_family(b, "etcd_network_active_peers", "gauge",
                   "The current number of active peer connections.");
    for (size_t i = 0; i < n; i++)
        metrics_sample(b, "etcd_network_active_peers",
                       local_remote(text, r->member_id, list[i].id), list[i].stats.up);
    metrics_family(b, "etcd_network_disconnected_peers_total", "counter",
                   "The total number of disconnected peers.");
    for (size_t i = 0; i < n; i++)
        metrics_sample(b, "etcd_network_disconnected_peers_total",
                       local_remote(text, r->member_id, list[i].id), list[i].stats.disconnects);
    metrics_family(b, "etcd_network_peer_received_bytes_total", "counter",
                   "The total number of bytes received from peers.");
    for (size_t i = 0; i < n; i++)
        metrics_sample(b, "etcd_network_peer_received_bytes_total",
                       label(text, "From", list[i].id), list[i].stats.bytes_received);
    metrics_family(b, "etcd_network_peer_round_trip_time_seconds", "histogram",
                   "Round-Trip-Time histogram between peers");
    for (size_t i = 0; i < n; i++)
        metrics_histogram_samples(b, "etcd_network_peer_round_trip_time_seconds",
                                  label(text, "To", list[i].id), &list[i].stats.round_trips);
    metrics_family(b, "etcd_network_peer_sent_bytes_total", "counter",
                   "The total number of bytes sent to peers.");
    for (size_t i = 0; i < n; i++)
        metrics_sample(b, "etcd_network_peer_sent_bytes_total", label(text, "To", list[i].id),
                       list[i].stats.bytes_sent);
    metrics_family(b, "etcd_network_peer_sent_failures_total", "counter",
                   "The total number of send failures from peers.");
    for (size_t i = 0; i < n; i++)
        metrics_sample(b, "etcd_network_peer_sent_failures_total", label(text, "To", list[i].id),
                       list[i].stats.frames_dropped);
}

void raftd_metrics(struct raftd *r, struct buf *b)
{
    put_wal(r, b);
    put_peers(r, b);
    metrics_u64(b, "conclave_raftd_hash_mismatches_total", "counter",
                "Times a member's keyspace hash differed from the leader's.",
                r->counters.hash_mismatches);
    metrics_u64(b, "conclave_raftd_nonsense_total", "counter",
                "Messages of other daemons or members that made no sense.", r->counters.nonsense);
    metrics_u64(b, "conclave_raftd_snapshots_received_total", "counter",
                "Snapshots taken over from a leader.", r->counters.snapshots_received);
    metrics_u64(b, "conclave_raftd_snapshots_sent_total", "counter",
                "Snapshots sent to followers.", r->counters.snapshots_sent);
    metrics_process(b, "raftd");
}
