/*
 * The process object and its life. What happens in a turn is in raftd_ready.c.
 */
#include "raftd/raftd.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>
#include "lib/log/log.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum {
    TAIL_BYTES = 8 << 20, /* read from the log per step when the core starts */
    LINK_DRAIN_MS = 200,
    REQUEST_TIMEOUT_BASE_MS = 5000, /* etcd: 5 s + 2 election timeouts */
};

/* ---- life ---- */

static int parse_urls(const char *key, const char *text, struct url_list *ret)
{
    CLEANUP(freep) char *error = NULL;
    int e = url_list_parse(bytes_str(text), ret, &error);

    if (e != 0)
        log_error("%s: %s", key, error);
    return e;
}

static void on_wal_fatal(void *user, int err, const char *what)
{
    struct raftd *r = user;

    daemon_fatal(r->d, "write-ahead log: %s: %s", what, strerror(err < 0 ? -err : err));
}

static int raftd_init(void *state, struct daemon *d)
{
    struct raftd *r = state;
    int e;

    r->d = d;
    r->loop = daemon_loop(d);
    r->conf = daemon_conf(d);
    r->name = daemon_common(d)->member_name;
    r->generation = daemon_common(d)->generation;
    r->lock_fd = -1;
    list_init(&r->conf_pending);
    list_init(&r->snap_out);
    list_init(&r->moves);
    r->request_timeout_ms = REQUEST_TIMEOUT_BASE_MS + 2 * r->conf->election_ms;
    e = raftd_conf_check(r->conf);
    if (e == 0)
        e = parse_urls("listen-peer-urls", r->conf->listen_peer_urls, &r->listen_urls);
    if (e == 0)
        e = parse_urls("initial-advertise-peer-urls", r->conf->initial_advertise_peer_urls,
                       &r->advertise_urls);
    if (e != 0)
        return e;
    r->member_dir = xasprintf("%s/member", r->conf->data_dir);
    r->snap_dir = xasprintf("%s/snap", r->member_dir);
    r->wal_dir = *r->conf->wal_dir != '\0' ? xstrdup(r->conf->wal_dir)
                                           : xasprintf("%s/wal", r->member_dir);
    return raftd_boot_open(r);
}

static int raftd_start(void *state, struct daemon *d)
{
    struct raftd *r = state;
    CLEANUP(freep) char *error = NULL;
    CLEANUP(freep) char *self_urls = url_list_join(&r->advertise_urls);
    struct peers_args args = {.loop = r->loop,
                              .listen_urls = &r->listen_urls,
                              .self_urls = self_urls,
                              .cluster_id = r->cluster_id,
                              .member_id = r->member_id,
                              .generation = r->generation,
                              .tls = &r->conf->tls,
                              .run_dir = daemon_common(d)->run_dir,
                              .ops = &raftd_peers_ops,
                              .user = r};
    int e;

    r->work = loop_hook_new(r->loop, "raftd_work", LOOP_PHASE_WORK, raftd_work, r);
    r->tick = loop_timer_new(r->loop, "raftd_tick", raftd_tick, r);
    r->proposals = raftd_proposals_new(r);
    r->reads = raftd_reads_new(r);
    r->gateways = xcalloc(r->conf->gateway_count + 1, sizeof(*r->gateways));
    e = peers_start(&args, &r->peers, &error);
    if (e != 0)
        daemon_fatal(d, "%s", error);
    raftd_boot_start(r);
    return 0;
}

void raftd_links_start(struct raftd *r)
{
    struct ipc_link_args args = {.loop = r->loop, .listen = true, .user = r};
    const char *dir = daemon_common(r->d)->run_dir;
    CLEANUP(freep) char *url = xasprintf("ipc://%s/raftd.stored", dir);
    int e;

    args.name = "raftd.stored";
    args.url = url;
    args.ops = &raftd_stored_ops;
    e = ipc_link_start(&args, &r->stored);
    if (e != 0)
        daemon_fatal(r->d, "%s: %s", url, strerror(-e));
    for (uint32_t i = 0; i < r->conf->gateway_count; i++) {
        CLEANUP(freep) char *name = xasprintf("raftd.gw%u", i);
        CLEANUP(freep) char *gw_url = xasprintf("ipc://%s/%s", dir, name);
        struct raftd_gateway *g = &r->gateways[i];

        g->r = r;
        g->index = i;
        args.name = name;
        args.url = gw_url;
        args.ops = &raftd_gateway_ops;
        args.user = g;
        e = ipc_link_start(&args, &g->link);
        if (e != 0)
            daemon_fatal(r->d, "%s: %s", gw_url, strerror(-e));
    }
    loop_timer_start(r->tick, r->conf->heartbeat_ms, r->conf->heartbeat_ms);
}

static void raftd_stop(void *state)
{
    struct raftd *r = state;

    /* What is committed and not told is told by the next process: nothing here needs a drain but
     * the frames that are queued, and fini flushes those. */
    r->stopping = true;
    r->phase = RAFTD_STOPPING;
    if (r->tick != NULL)
        loop_timer_stop(r->tick);
    daemon_stopped(r->d);
}

static void free_gateways(struct raftd *r)
{
    for (uint32_t i = 0; r->gateways != NULL && i < r->conf->gateway_count; i++)
        ipc_link_stop(r->gateways[i].link, LINK_DRAIN_MS);
    free(r->gateways);
    r->gateways = NULL;
}

static void raftd_fini(void *state)
{
    struct raftd *r = state;

    r->stopping = true;
    wal_thread_free(r->wal_thread);
    ipc_link_stop(r->stored, LINK_DRAIN_MS);
    r->stored = NULL;
    free_gateways(r);
    peers_stop(r->peers);
    r->peers = NULL;
    if (r->conf_pending.next != NULL)
        raftd_apply_forget(r);
    if (r->snap_out.next != NULL)
        raftd_snap_fini(r);
    raftd_moves_fini(r);
    raftd_proposals_free(r->proposals);
    raftd_reads_free(r->reads);
    for (size_t i = 0; i < RAFTD_READIES_MAX; i++)
        raft_ready_fini(&r->slots[i].rd);
    raft_free(r->raft);
    wal_close(r->wal);
    if (r->boot_timer != NULL)
        loop_timer_free(r->boot_timer);
    if (r->tick != NULL)
        loop_timer_free(r->tick);
    if (r->work != NULL)
        loop_hook_free(r->work);
    free(r->wal_batch);
    boot_cluster_fini(&r->boot);
    raftd_members_fini(&r->members);
    url_list_fini(&r->listen_urls);
    url_list_fini(&r->advertise_urls);
    buf_fini(&r->hello_conf);
    free(r->member_dir);
    free(r->wal_dir);
    free(r->snap_dir);
    if (r->lock_fd >= 0)
        close(r->lock_fd);
}

static void on_handover(void *state)
{
    raftd_handover(state);
}

const struct daemon_info raftd_info = {
    .name = "raftd",
    .summary = "consensus and write-ahead log",
    .conf = raftd_conf_fields,
    .conf_size = sizeof(struct raftd_conf),
    .state_size = sizeof(struct raftd),
    .init = raftd_init,
    .start = raftd_start,
    .handover = on_handover,
    .stop = raftd_stop,
    .fini = raftd_fini,
};

/* ---- the core ---- */

/* The uncommitted end of the log, from the first entry the keyspace lacks where that is near. */
static int read_tail(struct raftd *r, uint64_t from, struct raft_entry ***ret, size_t *ret_count)
{
    const struct wal_info *info = wal_info(r->wal);
    struct wal_entries chunk = WAL_ENTRIES_INIT;
    struct raft_entry **tail = NULL;
    size_t count = 0;
    int e = 0;

    while (from <= info->last_index) {
        e = wal_read_entries(r->wal, from, info->last_index, TAIL_BYTES, &chunk);
        if (e != 0) {
            log_error("reading the log at %" PRIu64 ": %s", from, wal_read_error(r->wal));
            break;
        }
        tail = xreallocarray(tail, count + chunk.count, sizeof(*tail));
        for (size_t i = 0; i < chunk.count; i++) {
            const struct wal_entry *w = &chunk.entries[i];

            tail[count++] =
                raft_entry_new(w->index, w->term, (enum raft_entry_type)w->type, w->data);
        }
        from += chunk.count;
    }
    wal_entries_fini(&chunk);
    *ret = tail;
    *ret_count = count;
    return e;
}

/* What of the log stored's word makes executed. Where the log has another entry than the one that
 * was executed, stored took a snapshot over from the leader, and the log's marker did not follow:
 * then nothing behind the commit index counts (raft_jump replaces it, raftd_apply.c). */
static uint64_t executed_here(const struct raftd *r, const struct wal_info *info)
{
    uint64_t index = r->hello.applied_index, commit = info->hard_state.commit, term;

    if (index > info->last_index)
        return commit;
    if (index > commit && wal_entry_term(r->wal, index, &term) == 0 &&
        term != r->hello.applied_term)
        return commit;
    return index;
}

static int restore_core(struct raftd *r)
{
    const struct wal_info *info = wal_info(r->wal);
    struct raft_restore restore = {
        .hard_state = {.term = info->hard_state.term,
                       .vote = info->hard_state.vote,
                       .commit = info->hard_state.commit},
        .applied_index = executed_here(r, info),
        .first_index = info->first_index,
        .last_index = info->last_index,
    };
    struct raft_entry **tail = NULL;
    size_t count = 0;
    int e;

    /* the term before the first entry is known for a marker; else the log begins one later */
    if (restore.first_index > 1 &&
        wal_entry_term(r->wal, restore.first_index - 1, &restore.before_term) != 0) {
        e = wal_entry_term(r->wal, restore.first_index, &restore.before_term);
        if (e != 0)
            return e;
        restore.first_index++;
    }
    if (r->hello.applied_index + 1 < restore.first_index)
        daemon_fatal(r->d,
                     "the keyspace has executed %" PRIu64 " entries but the log begins at %" PRIu64
                     ": restore the data directory, or remove this member and add it again",
                     r->hello.applied_index, restore.first_index);
    raftd_members_conf(&r->members, &restore.conf);
    e = read_tail(r, MAX(MIN(info->hard_state.commit, info->last_index) + 1, restore.first_index),
                  &tail, &count);
    if (e == 0) {
        restore.tail = tail;
        restore.tail_count = count;
        e = raft_restore(r->raft, &restore);
        if (e != 0)
            log_error("the log and the keyspace contradict each other");
    }
    for (size_t i = 0; i < count; i++)
        raft_entry_unref(tail[i]);
    free(tail);
    return e;
}

static uint64_t random_seed(const struct raftd *r)
{
    uint64_t seed = 0;

    if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
        seed = loop_clock_ns() ^ r->generation;
    return seed ^ r->member_id;
}

int raftd_core_start(struct raftd *r)
{
    struct raft_config config = {
        .id = r->member_id,
        .seed = random_seed(r),
        .election_ticks = (uint32_t)(r->conf->election_ms / r->conf->heartbeat_ms),
        .heartbeat_ticks = 1,
        .no_pre_vote = !r->conf->pre_vote,
        .committed_bytes_max = 2 << 20,
        .window_bytes = RAFTD_WINDOW_BYTES,
        .storage = raftd_storage_ops,
    };
    struct wal_thread_args args = {
        .loop = r->loop, .done = raftd_on_wal_done, .fatal = on_wal_fatal, .user = r};
    struct raft_status st;
    int e;

    assert(r->raft == NULL);
    if (r->fresh && r->hello.applied_index != 0)
        daemon_fatal(r->d, "the keyspace has executed %" PRIu64 " entries but its log is gone",
                     r->hello.applied_index);
    e = raftd_members_load(&r->members, buf_bytes(&r->hello_conf));
    if (e != 0) {
        log_error("stored sent a malformed member list");
        return e;
    }
    r->members_index = r->hello.applied_index;
    if (raftd_is_removed(r))
        raftd_removed(r);
    if (r->conf->force_new_cluster && !r->fresh) {
        e = raftd_force_new_cluster(r);
        if (e != 0)
            daemon_fatal(r->d, "force-new-cluster: %s", strerror(-e));
    }
    config.storage.user = r;
    r->raft = raft_new(&config);
    e = restore_core(r);
    if (e != 0)
        daemon_fatal(r->d, "cannot start from the log: %s", strerror(-e));
    args.wal = r->wal;
    r->wal_thread = wal_thread_new(&args);
    r->marker_index = wal_info(r->wal)->snapshot.index;
    r->phase = RAFTD_RUNNING;
    raft_get_status(r->raft, &st);
    log_info("member %016" PRIx64 " takes part at term %" PRIu64 ", log %" PRIu64 "..%" PRIu64
             ", commit %" PRIu64 ", executed %" PRIu64,
             r->member_id, raft_get_term(r->raft), st.first_index, st.last_index, st.commit_index,
             r->hello.applied_index);
    /* Nobody to wait for: a single member elects itself at once. Others wait one timeout, less
     * what the start took anyway; pre-vote keeps a standing leader undisturbed. */
    if (r->conf->initial_election_tick_advance && config.election_ticks > 2) {
        for (uint32_t i = 0; i < config.election_ticks - 2; i++)
            raft_tick(r->raft);
    }
    return 0;
}

/* ---- a removed member ---- */

bool raftd_is_removed(const struct raftd *r)
{
    const struct raftd_member *self = raftd_members_find(&r->members, r->member_id);

    return self != NULL && self->removed;
}

/* The supervisor knows these words, and lets the member end (supervisor/child.c). */
void raftd_removed(struct raftd *r)
{
    daemon_fatal(r->d, "the member has been permanently removed from the cluster: the data "
                       "directory used by this member must be removed");
}

/* ---- peers follow the member table ---- */

static bool wanted(const struct raftd *r, uint64_t id)
{
    const struct raftd_member *m = raftd_members_find(&r->members, id);

    return m != NULL && !m->removed && id != r->member_id;
}

static void set_peer(struct raftd *r, uint64_t id, const struct url_list *urls)
{
    int e = peers_set(r->peers, id, urls);

    if (e != 0)
        log_error("cannot dial member %016" PRIx64 ": %s", id, strerror(-e));
    for (size_t i = 0; i < r->leaving_count;) {
        if (r->leaving[i].id == id)
            r->leaving[i] = r->leaving[--r->leaving_count];
        else
            i++;
    }
}

void raftd_peers_sync(struct raftd *r)
{
    for (size_t i = 0; i < r->members.count; i++) {
        const struct raftd_member *m = &r->members.list[i];

        if (wanted(r, m->id)) {
            set_peer(r, m->id, &m->peer_urls);
        } else if (m->removed && m->id != r->member_id && peers_has(r->peers, m->id) &&
                   r->leaving_count < ARRAY_LEN(r->leaving)) {
            bool known = false;

            for (size_t k = 0; k < r->leaving_count; k++)
                known = known || r->leaving[k].id == m->id;
            if (!known) {
                r->leaving[r->leaving_count].id = m->id;
                r->leaving[r->leaving_count++].at_ms = raftd_now_ms(r) + RAFTD_PEER_LINGER_MS;
            }
        }
    }
    if (r->members.count != 0)
        return;
    for (size_t i = 0; i < r->boot.count; i++) {
        if (r->boot.list[i].id != r->member_id)
            set_peer(r, r->boot.list[i].id, &r->boot.list[i].urls);
    }
}

/* Up means: who we are is published and there is a leader. */
void raftd_check_ready(struct raftd *r)
{
    if (r->ready_told || r->publish_at_ms != UINT64_MAX || raft_leader(r->raft) == 0)
        return;
    r->ready_told = true;
    daemon_ready(r->d);
}
