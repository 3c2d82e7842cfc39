/*
 * The process object and its life: open (directory, lock, recovery, engine, keyspace), start
 * (links), stop (links, checkpoint, engine), close.
 */
#include "stored/stored.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lib/ipc/ipc.h"
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "stored/kv/store_members.h"
#include "stored/stored_auth.h"

enum {
    LOCK_RETRY_MS = 20,
    LOCK_LOG_EVERY = 500, /* retries */
    MALLOC_MMAP_BYTES = 1 << 20,
    MALLOC_TRIM_BYTES = 4 << 20,
};
static const int64_t QUOTA_BYTES_DEFAULT = 2LL << 30;

void stored_fatal(struct stored *s, const char *text)
{
    s->failed = true;
    s->args.fatal(s->args.user, text);
}

/* ---- identity: which member of which cluster this directory belongs to ---- */

static int identity_load(struct stored *s)
{
    CLEANUP(freep) char *path = xasprintf("%s/db.id", s->dir.path);
    char text[128];
    uint64_t cluster_id, member_id;
    ssize_t n;
    CLEANUP(closep) int fd = open(path, O_RDONLY | O_CLOEXEC);
    char end;

    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    n = read(fd, text, sizeof(text) - 1);
    if (n < 0)
        return -errno;
    text[n] = '\0';
    if (sscanf(text, "cluster=%" SCNx64 " member=%" SCNx64 "%c", &cluster_id, &member_id, &end) !=
            3 ||
        end != '\n' || cluster_id == 0 || member_id == 0)
        return -EBADMSG;
    s->cluster_id = cluster_id;
    s->member_id = member_id;
    return 0;
}

int stored_identity_save(struct stored *s, uint64_t cluster_id, uint64_t member_id)
{
    CLEANUP(freep) char *path = xasprintf("%s/db.id", s->dir.path);
    CLEANUP(freep) char *tmp = xasprintf("%s/db.id.tmp", s->dir.path);
    CLEANUP(closep) int fd = open(tmp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool no_fsync = s->conf->unsafe_no_fsync;

    if (fd < 0 ||
        dprintf(fd, "cluster=%" PRIx64 " member=%" PRIx64 "\n", cluster_id, member_id) < 0)
        return -errno;
    if ((!no_fsync && fsync(fd) != 0) || rename(tmp, path) != 0)
        return -errno;
    if (!no_fsync && fsync(s->dir.fd) != 0)
        return -errno;
    s->cluster_id = cluster_id;
    s->member_id = member_id;
    return 0;
}

/* ---- the state ---- */

static void on_written(void *user, uint64_t sequence)
{
    struct stored *s = user;

    kv_on_written(s->kv, sequence);
    loop_hook_arm(s->work_hook); /* what waited for room in the engine */
}

static void on_durable(void *user, uint64_t sequence)
{
    struct stored *s = user;

    kv_on_durable(s->kv, sequence);
    stored_apply_report(s);
    loop_hook_arm(s->work_hook); /* a checkpoint or a compaction may wait for it */
}

static void on_engine_fatal(void *user, const char *text)
{
    struct stored *s = user;

    s->failed = true;
    s->args.fatal(s->args.user, text);
}

int stored_state_open(struct stored *s)
{
    CLEANUP(freep) char *error = NULL;
    CLEANUP(freep) char *warning = NULL;
    uint64_t started = loop_clock_ns();
    struct bytes checkpoint = BYTES_EMPTY;
    struct kv_state state;
    struct kv_stats stats;
    int r;

    r = engine_leveldb_open(&(struct engine_leveldb_args){.loop = s->loop,
                                                          .path = s->dir.db,
                                                          .no_fsync = s->conf->unsafe_no_fsync,
                                                          .written = on_written,
                                                          .durable = on_durable,
                                                          .fatal = on_engine_fatal,
                                                          .user = s},
                            &s->engine, &error);
    if (r < 0) {
        log_error("%s", error);
        return r;
    }
    r = stored_checkpoint_map(s, &checkpoint);
    if (r < 0)
        log_warn("cannot read the checkpoint in %s: %s; reading all history instead", s->dir.db,
                 strerror(-r));
    r = kv_open(&(struct kv_args){.engine = engine_leveldb_kv(s->engine),
                                  .cache_bytes = s->conf->value_cache_bytes,
                                  .auth_token_ttl_ms = stored_auth_token_ttl_ms(s),
                                  .checkpoint = checkpoint},
                &s->kv, &error, &warning);
    stored_checkpoint_unmap(checkpoint);
    if (warning != NULL)
        log_warn("%s: %s", s->dir.db, warning);
    if (r < 0) {
        log_error("cannot open the keyspace in %s: %s", s->dir.db,
                  error != NULL ? error : strerror(-r));
        return r;
    }
    stored_watch_state_open(s);
    kv_get_state(s->kv, &state);
    kv_get_stats(s->kv, &stats);
    s->checkpoint_index = 0;
    log_info("opened %s in %" PRIu64 " ms: index %" PRIu64 ", revision %" PRId64 ", %" PRIu64
             " keys",
             s->dir.db, (loop_clock_ns() - started) / 1000000, state.applied_index, state.revision,
             stats.key_count);
    return 0;
}

void stored_state_close(struct stored *s)
{
    if (s->kv != NULL) {
        stored_reads_end_active(s);
        stored_leases_state_gone(s);
        stored_snapshot_end_out(s);
        stored_checkpoint_abandon(s);
        stored_apply_drop_held(s);
        stored_apply_reset(s);
    }
    stored_watch_state_close(s);
    kv_free(TAKE(s->kv));
    engine_leveldb_close(TAKE(s->engine));
    stored_defragment_state_closed(s);
}

/* ---- the turn ---- */

static void on_work(void *user)
{
    struct stored *s = user;

    if (s->kv == NULL || s->failed)
        return;
    stored_apply_work(s);
    stored_watch_work(s);
    stored_reads_work(s);
    stored_leases_work(s);
    stored_snapshot_work(s);
    if (s->kv != NULL)
        stored_checkpoint_work(s);
    if (s->kv != NULL)
        stored_compact_kick(s);
}

void stored_check_ready(struct stored *s)
{
    struct kv_state state;

    if (s->ready || !s->have_role || s->kv == NULL)
        return;
    kv_get_state(s->kv, &state);
    if (state.applied_index < s->first_commit_index)
        return;
    s->ready = true;
    s->args.ready(s->args.user);
}

void stored_after_apply(struct stored *s)
{
    stored_watch_applied(s);
    stored_auth_tell(s);
    stored_auth_role(s);
    stored_apply_report_soon(s);
    stored_members_changed(s);
    stored_space_changed(s);
    stored_compact_kick(s);
    if (!s->ready)
        stored_check_ready(s);
}

static void on_report_timer(void *user)
{
    stored_apply_report(user);
}

/* ---- life ---- */

/* Waits for a predecessor that still holds the directory: it may write until it is gone. */
static int lock(struct stored *s)
{
    const struct timespec pause = {.tv_nsec = LOCK_RETRY_MS * 1000000L};
    unsigned int tries = 0;
    int r;

    while ((r = stored_dir_lock(&s->dir)) == -EWOULDBLOCK) {
        if (tries++ % LOCK_LOG_EVERY == 0)
            log_warn("waiting for the process that holds %s/db.lock", s->dir.path);
        nanosleep(&pause, NULL);
    }
    return r;
}

void stored_tune_malloc(void)
{
    mallopt(M_MMAP_THRESHOLD, MALLOC_MMAP_BYTES);
    mallopt(M_TRIM_THRESHOLD, MALLOC_TRIM_BYTES);
}

int stored_open(struct stored *s, const struct stored_args *args)
{
    int r;

    s->args = *args;
    s->loop = args->loop;
    s->conf = args->conf;
    s->dir = STORED_DIR_NONE;
    s->run_dir = xstrdup(args->run_dir);
    s->quota_bytes = s->conf->quota_backend_bytes == 0  ? (uint64_t)QUOTA_BYTES_DEFAULT
                     : s->conf->quota_backend_bytes > 0 ? (uint64_t)s->conf->quota_backend_bytes
                                                        : 0;
    list_init(&s->held);
    stored_reads_init(s);
    stored_leases_init(s);
    stored_compact_init(s);
    stored_space_init(s);
    stored_defragment_init(s);
    stored_watch_init(s);
    s->report_timer = loop_timer_new(s->loop, "applied report", on_report_timer, s);
    s->work_hook = loop_hook_new(s->loop, "stored work", LOOP_PHASE_WORK, on_work, s);
    s->gateways = xcalloc(s->conf->gateway_count, sizeof(*s->gateways));
    for (uint64_t i = 0; i < s->conf->gateway_count; i++) {
        s->gateways[i].s = s;
        s->gateways[i].index = (uint32_t)i;
        list_init(&s->gateways[i].blocked);
    }

    r = stored_auth_init(s);
    if (r < 0)
        return r;
    r = stored_dir_open(&s->dir, s->conf->data_dir);
    if (r < 0) {
        log_error("cannot open %s/member: %s", s->conf->data_dir, strerror(-r));
        return r;
    }
    r = lock(s);
    if (r < 0) {
        log_error("cannot lock %s/db.lock: %s", s->dir.path, strerror(-r));
        return r;
    }
    r = stored_dir_recover(&s->dir);
    if (r < 0) {
        log_error("cannot prepare %s: %s", s->dir.path, strerror(-r));
        return r;
    }
    r = identity_load(s);
    if (r < 0) {
        log_error("cannot read %s/db.id: %s", s->dir.path, strerror(-r));
        return r;
    }
    return stored_state_open(s);
}

int stored_start(struct stored *s)
{
    int r = stored_auto_compact_start(s);

    if (r < 0)
        return r;
    stored_checkpoint_start(s);
    stored_compact_kick(s);
    return stored_ipc_start(s);
}

void stored_reload(struct stored *s, const struct stored_conf *conf)
{
    s->conf = conf;
}

void stored_stop(struct stored *s)
{
    struct stored_checkpoint *checkpoint = NULL;
    int r;

    if (s->stopping)
        return;
    s->stopping = true;
    stored_ipc_stop(s);
    stored_snapshot_down(s);
    stored_checkpoint_stop(s);
    for (uint64_t i = 0; i < s->conf->gateway_count; i++)
        stored_reads_gateway_down(&s->gateways[i]);
    if (s->kv != NULL && !s->failed) {
        r = stored_checkpoint_final_write(s, &checkpoint);
        if (r < 0 && r != -EALREADY)
            log_warn("no checkpoint at stop: %s", strerror(-r));
    }
    stored_state_close(s);
    if (checkpoint != NULL) {
        r = s->failed ? 0 : stored_checkpoint_final_place(checkpoint);
        if (r < 0)
            log_warn("no checkpoint at stop: %s", strerror(-r));
    }
    s->args.stopped(s->args.user);
}

void stored_close(struct stored *s)
{
    if (s->loop == NULL)
        return;
    stored_ipc_stop(s);
    stored_snapshot_down(s);
    stored_checkpoint_stop(s);
    stored_reads_fini(s);
    stored_leases_fini(s);
    stored_state_close(s);
    stored_watch_fini(s);
    stored_compact_fini(s);
    stored_space_fini(s);
    stored_defragment_fini(s);
    stored_auto_compact_fini(s);
    stored_auth_fini(s);
    loop_timer_free(s->report_timer);
    loop_hook_free(s->work_hook);
    buf_fini(&s->committed);
    buf_fini(&s->scratch);
    free(s->gateways);
    free(s->run_dir);
    stored_dir_close(&s->dir);
}
