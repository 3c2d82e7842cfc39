/*
 * What is due from time to time, driven by the tick: publishing this member, shortening the log,
 * noticing a stuck disk, comparing keyspaces, giving leadership away.
 *
 * One tick per heartbeat interval, and never several in a row: after a pause of the process (a
 * stop signal, a sleeping machine) the input that waited meanwhile is seen before a second tick
 * can add to an election timeout.
 */
#include "config.h"

#include <inttypes.h>
#include <string.h>
#include "lib/log/log.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "raftd/raftd.h"

enum {
    HASH_EVERY_TICKS = 10,
    REMOVED_EXIT_MS = 1000,
    SNAPSHOT_COUNT_DEFAULT = 10000,
    CATCHUP_DEFAULT = 5000,
    DISK_RESIGN_PAUSE = 4, /* election timeouts before it stands again */
};

/* ---- publishing ---- */

static bool is_published(const struct raftd *r)
{
    const struct raftd_member *self = raftd_members_find(&r->members, r->member_id);

    return self != NULL && strcmp(self->name, r->name) == 0 &&
           strcmp(self->client_urls, r->conf->advertise_client_urls) == 0;
}

static void propose_attributes(struct raftd *r)
{
    CLEANUP(buf_fini) struct buf b = BUF_INIT;
    struct proto_member self = {.id = r->member_id,
                                .name = bytes_str(r->name),
                                .client_urls = bytes_str(r->conf->advertise_client_urls)};

    if (raftd_now_ms(r) < r->publish_at_ms)
        return;
    proto_member_encode(&b, &self);
    if (raftd_propose_own(r, PROTO_KIND_MEMBER_ATTR, buf_bytes(&b)) == 0)
        r->publish_at_ms = raftd_now_ms(r) + r->request_timeout_ms;
}

static void propose_cluster_version(struct raftd *r)
{
    raft_term term;

    if (r->cluster_version_proposed || r->cluster_version_seen || !raftd_is_leader(r) ||
        raft_log_term(r->raft, r->applied_index, &term) != 0 || term != raft_get_term(r->raft))
        return;
    r->cluster_version_proposed =
        raftd_propose_own(r, PROTO_KIND_CLUSTER_VERSION, BYTES_LIT(ETCD_CLUSTER_VERSION)) == 0;
}

void raftd_publish(struct raftd *r)
{
    if (r->raft == NULL || raft_leader(r->raft) == 0 || r->stopping)
        return;
    if (is_published(r)) {
        if (r->publish_at_ms != UINT64_MAX)
            log_info("published name %s and client URLs %s to cluster %016" PRIx64, r->name,
                     r->conf->advertise_client_urls, r->cluster_id);
        r->publish_at_ms = UINT64_MAX;
        raftd_check_ready(r);
    } else if (raftd_members_find(&r->members, r->member_id) != NULL) {
        if (r->publish_at_ms == UINT64_MAX)
            r->publish_at_ms = 0;
        propose_attributes(r);
    }
    propose_cluster_version(r);
}

/* ---- the log's length ---- */

void raftd_compact(struct raftd *r)
{
    uint64_t every = r->conf->snapshot_count != 0 ? r->conf->snapshot_count
                                                  : SNAPSHOT_COUNT_DEFAULT;
    uint64_t keep = r->conf->snapshot_catchup_entries != 0 ? r->conf->snapshot_catchup_entries
                                                           : CATCHUP_DEFAULT;
    uint64_t index = MIN(r->durable_index, r->status.stored_index);
    CLEANUP(buf_fini) struct buf conf = BUF_INIT;
    struct wal_snapshot marker = {.index = index};
    struct wal_batch batch = {.snapshot = &marker};

    /* The marker's configuration is today's, so no change may lie behind its index. Writes under
     * way do not matter, there nearly always are some; a ready that still waits for its snapshot
     * does, because the marker must not overtake it. */
    if (index < r->marker_index + every || r->members_index > index || raftd_write_waits(r) ||
        wal_entry_term(r->wal, index, &marker.term) != 0)
        return;
    raftd_members_encode(&r->members, &conf);
    marker.conf = buf_bytes(&conf);
    r->wal_submitted = wal_thread_submit(r->wal_thread, &batch, false);
    r->marker_index = index;
    if (index > keep) {
        raft_compact(r->raft, index - keep);
        wal_thread_trim(r->wal_thread, index - keep);
    }
    log_info("the log begins at %" PRIu64 ", marker at %" PRIu64,
             index > keep ? index - keep : 1, index);
}

/* ---- the disk ---- */

/* A leader whose disk hangs still sends heartbeats, so nobody else would ever stand: it resigns,
 * and tells the most advanced voter to take over. */
static void check_disk(struct raftd *r)
{
    struct wal_thread_stats stats;
    uint64_t now = raftd_now_ms(r);

    wal_thread_get_stats(r->wal_thread, &stats);
    if (stats.busy_since_ns == 0 || !raftd_is_leader(r) || r->status.sole_voter ||
        loop_clock_ns() - stats.busy_since_ns < r->conf->election_ms * 1000000 ||
        now - r->disk_resigned_ms < DISK_RESIGN_PAUSE * r->conf->election_ms)
        return;
    log_error("no write to the log was completed for %" PRIu64 " ms, giving up leadership",
              (loop_clock_ns() - stats.busy_since_ns) / 1000000);
    r->disk_resigned_ms = now;
    r->counters.disk_resignations++;
    raft_step_down(r->raft);
    raftd_arm(r);
}

/* ---- handing over ---- */

static uint64_t best_successor(const struct raftd *r)
{
    const struct raft_conf *conf = raft_get_conf(r->raft);
    uint64_t best = 0, best_match = 0;

    for (uint32_t i = 0; i < conf->voter_count; i++) {
        struct raft_progress p;

        if (conf->voters[i] != r->member_id && raft_get_progress(r->raft, conf->voters[i], &p) &&
            p.recently_active && peers_is_up(r->peers, p.id) && p.match_index >= best_match) {
            best = p.id;
            best_match = p.match_index;
        }
    }
    return best;
}

static void handed_over(struct raftd *r)
{
    r->handing_over = false;
    daemon_handed_over(r->d);
}

void raftd_handover(struct raftd *r)
{
    uint64_t to;

    if (r->handing_over)
        return;
    r->handing_over = true;
    r->handover_until_ms = raftd_now_ms(r) + 2 * r->conf->election_ms;
    to = raftd_is_leader(r) ? best_successor(r) : 0;
    if (to == 0 || raft_transfer_leader(r->raft, to) != 0) {
        handed_over(r);
        return;
    }
    log_info("handing leadership to member %016" PRIx64, to);
    raftd_arm(r);
}

static void check_handover(struct raftd *r)
{
    if (!r->handing_over)
        return;
    if (!raftd_is_leader(r) ? raft_leader(r->raft) != 0 : raft_transferee(r->raft) == 0)
        handed_over(r);
    else if (raftd_now_ms(r) >= r->handover_until_ms)
        handed_over(r);
}

/* ---- comparing keyspaces ---- */

void raftd_hash_note(struct raftd *r)
{
    size_t at = r->hash_count++ % RAFTD_HASH_RING;

    r->hashes[at].index = r->applied_index;
    r->hashes[at].hash = r->chain_hash;
}

static bool find_hash(const struct raftd *r, uint64_t index, uint64_t *ret_hash)
{
    uint64_t count = MIN(r->hash_count, (uint64_t)RAFTD_HASH_RING);

    for (uint64_t i = 1; i <= count; i++) {
        size_t at = (r->hash_count - i) % RAFTD_HASH_RING;

        if (r->hashes[at].index == index) {
            *ret_hash = r->hashes[at].hash;
            return true;
        }
        if (r->hashes[at].index < index)
            return false;
    }
    return false;
}

/* Odd is who differs from as many others as half the members: with two members both, because
 * nobody can tell which is right. */
static void judge(struct raftd *r)
{
    size_t differing = 0, others = 0;
    bool diverged;

    for (size_t i = 0; i < r->members.count; i++)
        others += !r->members.list[i].removed && r->members.list[i].id != r->member_id;
    for (size_t i = 0; i < r->peer_hash_count; i++)
        differing += r->peer_hashes[i].differs;
    diverged = differing * 2 > others;
    if (diverged == r->diverged)
        return;
    r->diverged = diverged;
    if (!diverged) {
        log_info("this member's keyspace equals that of the others again");
        return;
    }
    /* as etcd: a member that starts wrong does not start; one that goes wrong is told of */
    if (r->conf->initial_corrupt_check && !r->hash_agreed)
        daemon_fatal(r->d, "checkInitialHashKV failed: found data inconsistency with peers");
    log_error("this member's keyspace differs from %zu of %zu others: it answers no reads",
              differing, others);
}

static void propose_corrupt(struct raftd *r, uint64_t member_id)
{
    CLEANUP(buf_fini) struct buf body = BUF_INIT; /* etcdserverpb.AlarmRequest */

    log_error("raising the CORRUPT alarm for member %016" PRIx64, member_id);
    pb_put_u64(&body, 1, 1); /* ACTIVATE */
    pb_put_u64(&body, 2, member_id);
    pb_put_u64(&body, 3, 2); /* CORRUPT */
    raftd_propose_own(r, PROTO_KIND_ALARM, buf_bytes(&body));
}

/* --corrupt-check-time: how often the leader raises the alarm for members that differ. That they
 * differ is found out all the time. */
static void check_corruption(struct raftd *r)
{
    uint64_t now = raftd_now_ms(r);

    if (r->conf->corrupt_check_ns == 0 || !raftd_is_leader(r) ||
        now - r->corrupt_checked_ms < r->conf->corrupt_check_ns / 1000000)
        return;
    r->corrupt_checked_ms = now;
    if (r->diverged) {
        propose_corrupt(r, r->member_id);
        return;
    }
    for (size_t i = 0; i < r->peer_hash_count; i++) {
        const struct raftd_member *m = raftd_members_find(&r->members, r->peer_hashes[i].id);

        if (r->peer_hashes[i].differs && m != NULL && !m->removed)
            propose_corrupt(r, m->id);
    }
}

static void compare_hashes(struct raftd *r)
{
    for (size_t i = 0; i < r->peer_hash_count; i++) {
        uint64_t hash;
        bool differs;

        if (!r->peer_hashes[i].pending || r->peer_hashes[i].index > r->applied_index)
            continue;
        r->peer_hashes[i].pending = false;
        if (!find_hash(r, r->peer_hashes[i].index, &hash))
            continue;
        differs = hash != r->peer_hashes[i].hash;
        r->hash_agreed = r->hash_agreed || !differs;
        if (differs == r->peer_hashes[i].differs)
            continue;
        r->peer_hashes[i].differs = differs;
        r->counters.hash_mismatches += differs;
        if (differs)
            log_error("the keyspace at index %" PRIu64 " has chain hash %016" PRIx64
                      ", at member %016" PRIx64 " it has %016" PRIx64,
                      r->peer_hashes[i].index, hash, r->peer_hashes[i].id, r->peer_hashes[i].hash);
        judge(r);
    }
}

void raftd_hash_on_peer(struct raftd *r, uint64_t from, const struct peer_hash *m)
{
    size_t i = 0;

    if (raftd_members_find(&r->members, from) == NULL || r->raft == NULL)
        return;
    while (i < r->peer_hash_count && r->peer_hashes[i].id != from)
        i++;
    if (i == ARRAY_LEN(r->peer_hashes))
        return;
    if (i == r->peer_hash_count) {
        r->peer_hash_count++;
        r->peer_hashes[i].id = from;
        r->peer_hashes[i].differs = false;
    }
    r->peer_hashes[i].index = m->index;
    r->peer_hashes[i].hash = m->chain_hash;
    r->peer_hashes[i].pending = true;
    compare_hashes(r);
}

static void exchange_hashes(struct raftd *r)
{
    struct peer_hash m = {.index = r->applied_index, .chain_hash = r->chain_hash};

    if (++r->hash_tick % HASH_EVERY_TICKS != 0 || !r->stored_up || r->applied_index == 0)
        return;
    compare_hashes(r);
    for (size_t i = 0; i < r->members.count; i++) {
        struct buf *b;

        if (r->members.list[i].removed || r->members.list[i].id == r->member_id)
            continue;
        b = peers_begin(r->peers, r->members.list[i].id, PEER_LANE_MAIN, PEER_HASH);
        if (b == NULL)
            continue;
        peer_hash_encode(b, &m);
        peers_end(r->peers);
    }
}

/* ---- the tick ---- */

static void drop_leaving(struct raftd *r)
{
    uint64_t now = raftd_now_ms(r);

    for (size_t i = 0; i < r->leaving_count;) {
        uint64_t id = r->leaving[i].id;

        if (now < r->leaving[i].at_ms) {
            i++;
            continue;
        }
        r->leaving[i] = r->leaving[--r->leaving_count];
        peers_remove(r->peers, id);
    }
}

static void fetch_again(struct raftd *r)
{
    const struct raft_conf *conf = raft_get_conf(r->raft);

    if (!r->fetch_retry)
        return;
    r->fetch_retry = false;
    raft_entries_fetched(r->raft, 0);
    for (uint32_t i = 0; i < conf->voter_count; i++) {
        if (conf->voters[i] != r->member_id)
            raft_entries_fetched(r->raft, conf->voters[i]);
    }
    for (uint32_t i = 0; i < conf->learner_count; i++) {
        if (conf->learners[i] != r->member_id)
            raft_entries_fetched(r->raft, conf->learners[i]);
    }
}

void raftd_tick(void *user)
{
    struct raftd *r = user;

    raftd_proposals_expire(r);
    drop_leaving(r);
    if (r->raft == NULL || r->stopping)
        return;
    raft_tick(r->raft);
    fetch_again(r);
    raftd_reads_retry(r, false);
    raftd_snap_tick(r);
    raftd_publish(r);
    raftd_compact(r);
    check_disk(r);
    check_handover(r);
    raftd_moves_settle(r);
    exchange_hashes(r);
    check_corruption(r);
    if (r->removed_at_ms != 0 && raftd_now_ms(r) - r->removed_at_ms >= REMOVED_EXIT_MS)
        raftd_removed(r);
    raftd_arm(r);
}
