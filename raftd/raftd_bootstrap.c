/*
 * Opening or creating this member.
 *
 * With a log: the log says who we are, and the settings that describe a first start are ignored,
 * as in etcd. Without one: the settings say it. Then the other members are asked over the peer
 * port, because a published member whose data was lost must not come back as a blank voter: it has
 * promised things (votes, acknowledged entries) it no longer knows. A new cluster's log begins
 * with one committed configuration entry per member; a joining member's log begins empty.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "lib/log/log.h"
#include "lib/util/macros.h"
#include "lib/util/member_id.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"
#include "raftd/raftd.h"

enum {
    ASK_NEW_MS = 1500,      /* others of a new cluster may not have started yet */
    ASK_EXISTING_MS = 6000, /* here one must answer */
    ASK_RETRY_MS = 100,
    LOCK_WAIT_MS = 10000, /* for a predecessor that is ending */
    GUEST_MS = 10000,
};

static bool is_existing(const struct raftd *r)
{
    return strcmp(r->conf->initial_cluster_state, "existing") == 0;
}

/* Its name must be as durable as what is synced in it. */
static int sync_parent(const char *path)
{
    CLEANUP(freep) char *parent = xasprintf("%s/..", path);
    CLEANUP(closep) int fd = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd >= 0 && fsync(fd) == 0 ? 0 : -errno;
}

static int make_dir(const char *path, const char *what)
{
    struct stat st;
    bool made = mkdir(path, 0700) == 0;

    if ((!made && errno != EEXIST) || (made && sync_parent(path) != 0)) {
        int err = errno;

        log_error("cannot access %s directory: %s: %s", what, path, strerror(err));
        return -err;
    }
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        log_error("cannot access %s directory: %s: not a directory", what, path);
        return -ENOTDIR;
    }
    if (access(path, W_OK | X_OK) != 0) {
        int err = errno;

        log_error("cannot write to %s directory: %s: %s", what, path, strerror(err));
        return -err;
    }
    return 0;
}

static int take_lock(struct raftd *r)
{
    CLEANUP(freep) char *path = xasprintf("%s/raftd.lock", r->member_dir);
    const struct timespec pause = {.tv_nsec = 20 * 1000 * 1000};

    r->lock_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (r->lock_fd < 0) {
        int err = errno;

        log_error("%s: %s", path, strerror(err));
        return -err;
    }
    /* A predecessor that is on its way out holds it for a moment; one that was only stopped and
     * is resumed later finds itself without, never beside us. */
    for (int waited = 0; flock(r->lock_fd, LOCK_EX | LOCK_NB) != 0; waited += 20) {
        if (errno != EWOULDBLOCK || waited >= LOCK_WAIT_MS) {
            log_error("%s is locked by another process", path);
            return -EBUSY;
        }
        nanosleep(&pause, NULL); /* before the loop runs: nothing waits for us */
    }
    return 0;
}

static int open_existing(struct raftd *r)
{
    struct wal_error err = {.text = ""};
    const struct wal_info *info;
    int e = wal_open(&r->wal_options, NULL, &r->wal, &err);

    if (e != 0) {
        log_error("cannot read the log: %s: %s", strerror(-e), err.text);
        return e;
    }
    info = wal_info(r->wal);
    r->cluster_id = info->metadata.cluster_id;
    r->member_id = info->metadata.member_id;
    if (info->repaired_bytes != 0)
        log_warn("%s: cut a torn tail of %" PRIu64 " bytes at %" PRIu64, info->repaired_file,
                 info->repaired_bytes, info->repaired_offset);
    log_info("restarting member %016" PRIx64 " in cluster %016" PRIx64 " at commit index %" PRIu64
             ", log %" PRIu64 "..%" PRIu64 ", term %" PRIu64,
             r->member_id, r->cluster_id, info->hard_state.commit, info->first_index,
             info->last_index, info->hard_state.term);
    return 0;
}

static int plan_first_start(struct raftd *r)
{
    CLEANUP(freep) char *error = NULL;
    int e = boot_cluster_parse(r->conf->initial_cluster, &r->boot, &error);

    if (e == 0)
        e = boot_cluster_check(&r->boot, r->name, &r->advertise_urls, &error);
    if (e != 0)
        daemon_fatal(r->d, "%s", error);
    r->fresh = true;
    if (!is_existing(r)) {
        r->cluster_id = boot_cluster_derive(&r->boot, r->conf->initial_cluster_token);
        r->member_id = boot_cluster_find(&r->boot, r->name)->id;
    }
    return 0;
}

int raftd_boot_open(struct raftd *r)
{
    int e = make_dir(r->conf->data_dir, "data");

    if (e == 0)
        e = make_dir(r->member_dir, "member");
    if (e == 0)
        e = make_dir(r->snap_dir, "snapshot");
    if (e == 0)
        e = take_lock(r);
    if (e != 0)
        return e;
    r->wal_options = (struct wal_options){.wal_dir = r->wal_dir,
                                          .snap_dir = r->snap_dir,
                                          .unsafe_no_fsync = r->conf->unsafe_no_fsync};
    e = wal_exists(&r->wal_options);
    if (e < 0) {
        log_error("cannot write to WAL directory: %s: %s", r->wal_dir, strerror(-e));
        return e;
    }
    if (e == 1)
        return open_existing(r);
    return plan_first_start(r);
}

/* ---- asking the others ---- */

static void create_log(struct raftd *r)
{
    CLEANUP(buf_fini) struct buf data = BUF_INIT;
    CLEANUP(freep) size_t *ends = xcalloc(r->boot.count + 1, sizeof(*ends));
    CLEANUP(freep) struct wal_entry *entries = xcalloc(r->boot.count + 1, sizeof(*entries));
    struct wal_hard_state hs = {.term = 1, .vote = 0, .commit = r->boot.count};
    struct wal_metadata meta = {.cluster_id = r->cluster_id, .member_id = r->member_id};
    struct wal_batch batch = {
        .entries = entries, .entry_count = r->boot.count, .hard_state = &hs};
    struct wal_error err = {.text = ""};
    int e;

    boot_cluster_entries(&r->boot, &data, ends);
    for (size_t i = 0; i < r->boot.count; i++) {
        size_t start = i != 0 ? ends[i - 1] : 0;

        entries[i] = (struct wal_entry){.index = i + 1,
                                        .term = 1,
                                        .type = RAFT_ENTRY_CONF,
                                        .data = bytes_of(data.data + start, ends[i] - start)};
    }
    e = wal_create(&r->wal_options, &meta, is_existing(r) ? NULL : &batch, &r->wal, &err);
    if (e != 0)
        daemon_fatal(r->d, "cannot write to WAL directory: %s: %s", strerror(-e), err.text);
    log_info("starting member %016" PRIx64 " in cluster %016" PRIx64, r->member_id, r->cluster_id);
}

static void boot_done(struct raftd *r)
{
    if (r->boot_timer != NULL)
        loop_timer_stop(r->boot_timer);
    if (r->wal == NULL)
        create_log(r);
    r->phase = RAFTD_WAITING;
    peers_set_identity(r->peers, r->cluster_id, r->member_id);
    raftd_peers_sync(r);
    raftd_links_start(r);
}

static void ask(void *user)
{
    struct raftd *r = user;
    CLEANUP(freep) char *urls = url_list_join(&r->advertise_urls);

    if (raftd_now_ms(r) >= r->boot_deadline_ms) {
        if (is_existing(r))
            daemon_fatal(r->d, "cannot fetch cluster info from peer urls: could not retrieve "
                               "cluster information from the given URLs");
        boot_done(r);
        return;
    }
    for (size_t i = 0; i < r->boot.count; i++) {
        uint64_t id = is_existing(r) ? i + 1 : r->boot.list[i].id;
        struct buf *b;

        if (strcmp(r->boot.list[i].name, r->name) == 0)
            continue;
        b = peers_begin(r->peers, id, PEER_LANE_MAIN, PEER_MEMBERS_QUERY);
        if (b == NULL)
            continue;
        wire_put_str(b, urls);
        peers_end(r->peers);
    }
}

void raftd_boot_start(struct raftd *r)
{
    if (r->wal != NULL || (r->boot.count == 1 && !is_existing(r))) {
        boot_done(r);
        return;
    }
    r->phase = RAFTD_ASKING;
    r->boot_deadline_ms = raftd_now_ms(r) + (is_existing(r) ? ASK_EXISTING_MS : ASK_NEW_MS);
    for (size_t i = 0; i < r->boot.count; i++) {
        uint64_t id = is_existing(r) ? i + 1 : r->boot.list[i].id; /* a stand-in while unknown */

        if (strcmp(r->boot.list[i].name, r->name) != 0)
            peers_set(r->peers, id, &r->boot.list[i].urls);
    }
    r->boot_timer = loop_timer_new(r->loop, "raftd_boot", ask, r);
    loop_timer_start(r->boot_timer, 10, ASK_RETRY_MS);
}

static void join_existing(struct raftd *r, uint64_t cluster_id,
                          const struct raftd_members *members)
{
    CLEANUP(freep) char *error = NULL;

    for (size_t i = 0; i < r->boot.count; i++)
        r->boot.list[i].id = 0;
    if (boot_cluster_match(&r->boot, members, &error) != 0)
        daemon_fatal(r->d, "%s", error);
    for (size_t i = 0; i < r->boot.count; i++)
        peers_remove(r->peers, i + 1);
    r->cluster_id = cluster_id;
    r->member_id = boot_cluster_find(&r->boot, r->name)->id;
    boot_done(r);
}

static void others_answered(struct raftd *r, uint64_t from)
{
    bool all = true;

    for (size_t i = 0; i < r->boot.count; i++) {
        struct boot_member *m = &r->boot.list[i];

        if (m->id == from)
            peers_remove(r->peers, from); /* dialled again when all is decided */
        else if (m->id != r->member_id && peers_has(r->peers, m->id))
            all = false;
    }
    if (all)
        boot_done(r);
}

void raftd_boot_on_members(struct raftd *r, const struct peer_header *h, struct bytes body)
{
    struct peer_members m;
    struct raftd_members members = {0};
    const struct raftd_member *self;

    if (peer_members_decode(body, &m) != 0 || raftd_members_load(&members, m.members) != 0) {
        r->counters.nonsense++;
        return;
    }
    if (r->phase != RAFTD_ASKING) {
        self = raftd_members_find(&members, r->member_id);
        if (m.cluster_id == r->cluster_id && self != NULL && self->removed)
            raftd_removed(r);
        raftd_members_fini(&members);
        return;
    }
    if (is_existing(r)) {
        if (m.cluster_id != 0 && members.count != 0)
            join_existing(r, m.cluster_id, &members);
        raftd_members_fini(&members);
        return;
    }
    self = raftd_members_find(&members, r->member_id);
    if (m.cluster_id == r->cluster_id && self != NULL && self->client_urls[0] != '\0')
        daemon_fatal(r->d, "member %" PRIx64 " has already been bootstrapped", r->member_id);
    if (m.cluster_id != 0 && m.cluster_id != r->cluster_id)
        log_warn("member %016" PRIx64 " belongs to cluster %016" PRIx64 ", not to %016" PRIx64,
                 h->from, m.cluster_id, r->cluster_id);
    raftd_members_fini(&members);
    others_answered(r, h->from);
}

/* ---- answering ---- */

/* Where the asker listens: a member with one of these URLs, or else a guest for a moment. */
static uint64_t find_asker(struct raftd *r, const struct url_list *urls)
{
    uint64_t id;

    for (size_t i = 0; i < r->members.count; i++) {
        const struct raftd_member *m = &r->members.list[i];

        for (size_t a = 0; a < m->peer_urls.count && !m->removed; a++) {
            for (size_t b = 0; b < urls->count; b++) {
                if (strcmp(m->peer_urls.items[a], urls->items[b]) == 0)
                    return m->id;
            }
        }
    }
    for (size_t i = 0; i < r->boot.count; i++) {
        if (r->boot.list[i].id != 0 && url_list_eq(&r->boot.list[i].urls, urls))
            return r->boot.list[i].id;
    }
    id = member_id_derive((const char *const *)urls->items, urls->count, "guest", NULL);
    if (!peers_has(r->peers, id) && r->leaving_count < ARRAY_LEN(r->leaving) &&
        peers_set(r->peers, id, urls) == 0) {
        r->leaving[r->leaving_count].id = id;
        r->leaving[r->leaving_count++].at_ms = raftd_now_ms(r) + GUEST_MS;
    }
    return id;
}

void raftd_boot_on_query(struct raftd *r, const struct peer_header *h, struct bytes body)
{
    CLEANUP(freep) char *error = NULL;
    struct wire_reader reader = wire_reader(body);
    struct bytes text = wire_get_bytes(&reader);
    struct url_list urls;
    uint64_t id;

    if (wire_reader_done(&reader) != 0 || url_list_parse(text, &urls, &error) != 0) {
        r->counters.nonsense++;
        return;
    }
    id = find_asker(r, &urls);
    url_list_fini(&urls);
    if (id != r->member_id)
        raftd_boot_tell_members(r, id);
}

void raftd_boot_tell_members(struct raftd *r, uint64_t id)
{
    CLEANUP(buf_fini) struct buf list = BUF_INIT;
    struct peer_members answer = {0};
    struct buf *b;

    if (r->phase != RAFTD_ASKING && r->members.count != 0) {
        answer.cluster_id = r->cluster_id;
        raftd_members_encode(&r->members, &list);
        answer.members = buf_bytes(&list);
    }
    b = peers_begin(r->peers, id, PEER_LANE_MAIN, PEER_MEMBERS);
    if (b == NULL)
        return; /* asks again */
    peer_members_encode(b, &answer);
    peers_end(r->peers);
}

/* ---- disaster recovery ---- */

/* Entries that take every other member out of the configuration, behind the last committed one;
 * what was not committed is dropped. */
int raftd_force_new_cluster(struct raftd *r)
{
    const struct wal_info *info = wal_info(r->wal);
    struct wal_hard_state hs = info->hard_state;
    struct raftd_members members = {0};
    CLEANUP(buf_fini) struct buf data = BUF_INIT;
    struct wal_entries old = WAL_ENTRIES_INIT;
    struct wal_entry *entries;
    size_t count = 0, *ends;
    int e;

    /* the members as of the end of the committed log */
    raftd_members_load(&members, buf_bytes(&r->hello_conf));
    for (uint64_t i = MAX(r->hello.applied_index + 1, info->first_index); i <= hs.commit;) {
        e = wal_read_entries(r->wal, i, hs.commit, 1 << 20, &old);
        if (e != 0)
            goto out;
        for (size_t k = 0; k < old.count; k++) {
            struct proto_payload payload;
            struct proto_conf_change change;

            if (old.entries[k].type == RAFT_ENTRY_CONF &&
                proto_payload_decode(old.entries[k].data, &payload) == 0 &&
                proto_conf_change_decode(payload.body, &change) == 0)
                raftd_members_apply(&members, &change);
        }
        i += old.count;
    }
    entries = xcalloc(members.count + 1, sizeof(*entries));
    ends = xcalloc(members.count + 1, sizeof(*ends));
    for (size_t i = 0; i < members.count; i++) {
        CLEANUP(buf_fini) struct buf body = BUF_INIT;
        struct proto_conf_change change = {.op = PROTO_CONF_REMOVE,
                                           .member = {.id = members.list[i].id}};
        struct proto_payload payload = {.kind = PROTO_KIND_CONF_CHANGE};

        if (members.list[i].removed || members.list[i].id == r->member_id)
            continue;
        proto_conf_change_encode(&body, &change);
        payload.body = buf_bytes(&body);
        proto_payload_encode(&data, &payload);
        ends[count++] = data.len;
    }
    for (size_t i = 0; i < count; i++) {
        size_t start = i != 0 ? ends[i - 1] : 0;

        entries[i] = (struct wal_entry){.index = hs.commit + 1 + i,
                                        .term = hs.term,
                                        .type = RAFT_ENTRY_CONF,
                                        .data = bytes_of(data.data + start, ends[i] - start)};
    }
    e = 0;
    if (count != 0) {
        struct wal_batch batch = {.entries = entries, .entry_count = count, .hard_state = &hs};

        hs.commit += count;
        log_warn("force-new-cluster: removing %zu other members at index %" PRIu64, count,
                 hs.commit);
        e = wal_append(r->wal, &batch, true);
    }
    free(entries);
    free(ends);
out:
    wal_entries_fini(&old);
    raftd_members_fini(&members);
    return e;
}
