/* stored's metrics: etcd's names where it has them (etcd server/storage/mvcc, server/lease,
 * server/auth metrics.go), else conclave_stored_... What READ_STATUS tells is written by gatewayd. */
#include "lib/metrics/metrics.h"
#include "stored/engine/engine_leveldb.h"
#include "stored/kv/kv.h"
#include "stored/stored.h"
#include "stored/watch/watch.h"

static void put_leases(const struct stored *s, struct buf *b, const struct kv_stats *kv)
{
    struct stored_lease_stats leases;

    stored_leases_get_stats(s, &leases);
    metrics_u64(b, "etcd_debugging_lease_granted_total", "counter",
                "The total number of granted leases.", kv->lease_granted_total);
    metrics_u64(b, "etcd_debugging_lease_renewed_total", "counter",
                "The number of renewed leases seen by the leader.", leases.renewed_total);
    metrics_u64(b, "etcd_debugging_lease_revoked_total", "counter",
                "The total number of revoked leases.", kv->lease_revoked_total);
    metrics_u64(b, "etcd_debugging_server_lease_expired_total", "counter",
                "The total number of expired leases.", kv->lease_expired_total);
    metrics_u64(b, "conclave_stored_leases", "gauge", "Leases that exist.", kv->lease_count);
}

static void put_watches(struct stored *s, struct buf *b)
{
    struct watch_hub_stats sum = {0};

    for (uint64_t i = 0; i < s->conf->gateway_count; i++) {
        struct watch_hub_stats stats;

        if (s->gateways[i].watches == NULL)
            continue;
        watch_hub_get_stats(s->gateways[i].watches, &stats);
        sum.watcher_count += stats.watcher_count;
        sum.stream_count += stats.stream_count;
        sum.behind_count += stats.behind_count;
    }
    metrics_u64(b, "etcd_debugging_mvcc_slow_watcher_total", "gauge",
                "Total number of unsynced slow watchers.", sum.behind_count);
    metrics_u64(b, "etcd_debugging_mvcc_watch_stream_total", "gauge",
                "Total number of watch streams.", sum.stream_count);
    metrics_u64(b, "etcd_debugging_mvcc_watcher_total", "gauge", "Total number of watchers.",
                sum.watcher_count);
}

static void put_engine(struct stored *s, struct buf *b)
{
    struct engine_leveldb_stats engine;

    engine_leveldb_get_stats(s->engine, &engine);
    metrics_family(b, "etcd_disk_backend_commit_duration_seconds", "histogram",
                   "The latency distributions of commit called by backend.");
    metrics_histogram_samples(b, "etcd_disk_backend_commit_duration_seconds", "", &engine.syncs);
    metrics_u64(b, "conclave_stored_engine_level0_files", "gauge",
                "LevelDB files that wait to be sorted in.", engine.level0_files);
    metrics_u64(b, "conclave_stored_engine_memory_bytes", "gauge", "Memory LevelDB says it uses.",
                engine.memory_bytes);
    metrics_u64(b, "conclave_stored_engine_queued_bytes", "gauge",
                "Bytes handed to the engine and not yet written.", engine.queued_bytes);
}

void stored_metrics(struct stored *s, struct buf *b)
{
    struct kv_stats kv;

    kv_get_stats(s->kv, &kv);
    put_engine(s, b);
    put_leases(s, b, &kv);
    put_watches(s, b);
    metrics_u64(b, "conclave_stored_cache_hits_total", "counter",
                "Values found in the value cache.", kv.cache_hits);
    metrics_u64(b, "conclave_stored_cache_misses_total", "counter",
                "Values read from the engine.", kv.cache_misses);
    metrics_u64(b, "conclave_stored_compacting", "gauge",
                "1 while history is being removed in the background.", kv.kv_compacting);
    metrics_process(b, "stored");
}
