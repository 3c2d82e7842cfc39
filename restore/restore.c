#include "restore/restore.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "lib/bbolt/snapshot_file.h"
#include "lib/loop/loop.h"
#include "lib/util/buf.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "raftd/raftd_bootstrap.h"
#include "raftd/wal/wal.h"
#include "stored/engine/engine_leveldb.h"
#include "stored/kv/kv.h"
#include "stored/kv/kv_import.h"
#include "stored/stored_dir.h"

enum {
    BATCH_BYTES = 256 << 10,
    WAIT_MS = 100,
    FIRST_TERM = 1, /* as etcd's restore */
};

struct restore {
    const struct restore_args *args;
    char **error; /* where it goes */
    struct boot_cluster cluster;
    uint64_t cluster_id, member_id;
    struct buf members; /* proto_member list */
    struct snapshot_file file;
    char *building; /* the data directory until it is complete */
    char *wal_dir;  /* "": none given */
    struct loop *loop;
    struct kv_import_result imported;
    uint64_t key_count;
};

static int fail(struct restore *r, int err, const char *what)
{
    *r->error = xasprintf("%s: %s", what, strerror(-err));
    return err;
}

/* ---- who ---- */

static int plan_cluster(struct restore *r)
{
    const struct restore_args *a = r->args;
    struct url_list advertised = {0};
    int e = boot_cluster_parse(a->initial_cluster, &r->cluster, r->error);

    if (e == 0)
        e = url_list_parse(bytes_str(a->advertise_peer_urls), &advertised, r->error);
    if (e == 0)
        e = boot_cluster_check(&r->cluster, a->name, &advertised, r->error);
    url_list_fini(&advertised);
    if (e != 0)
        return e;
    r->cluster_id = boot_cluster_derive(&r->cluster, a->initial_cluster_token);
    r->member_id = boot_cluster_find(&r->cluster, a->name)->id;
    boot_cluster_members(&r->cluster, &r->members);
    return 0;
}

/* ---- where ---- */

static bool is_empty_or_absent(const char *path)
{
    const struct dirent *entry;
    DIR *dir = opendir(path);
    bool empty = true;

    if (dir == NULL)
        return errno == ENOENT;
    while (empty && (entry = readdir(dir)) != NULL)
        empty = strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0;
    closedir(dir);
    return empty;
}

static int check_places(struct restore *r)
{
    const struct restore_args *a = r->args;

    if ((a->bump_revision > 0) != a->mark_compacted) {
        *r->error = xstrdup("--mark-compacted required if --revision-bump > 0");
        return -EINVAL;
    }
    if (!is_empty_or_absent(a->data_dir)) {
        *r->error = xasprintf("data-dir \"%s\" not empty or could not be read", a->data_dir);
        return -EEXIST;
    }
    if (*r->wal_dir != '\0' && access(r->wal_dir, F_OK) == 0) {
        *r->error = xasprintf("wal-dir \"%s\" exists", r->wal_dir);
        return -EEXIST;
    }
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    return remove(path);
}

static void remove_tree(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS);
}

static int sync_path(const char *path)
{
    CLEANUP(closep) int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    return fd >= 0 && fsync(fd) == 0 ? 0 : -errno;
}

/* Below what exists, and durable, as a daemon's own mkdir is not asked to be. */
static int make_dirs(char *path)
{
    for (char *p = path + 1; *p != '\0'; p++) {
        if (*p != '/')
            continue;
        *p = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST) {
            *p = '/';
            return -errno;
        }
        *p = '/';
    }
    return 0;
}

/* ---- what ---- */

static int open_file(struct restore *r)
{
    CLEANUP(freep) char *why = NULL;
    int e = snapshot_file_map(r->args->snapshot, &r->file, &why);

    if (e != 0) {
        *r->error = xasprintf("open %s: %s", r->args->snapshot, why);
        return e;
    }
    if (!r->args->skip_hash_check)
        e = snapshot_file_verify_hash(&r->file, r->error);
    if (e != 0)
        return e;
    e = snapshot_file_find_db(&r->file, r->error);
    if (e != 0)
        return e;
    e = bbolt_check(&r->file.db, &why);
    if (e != 0)
        *r->error = xasprintf("snapshot file integrity check failed. 1 errors found.\n%s",
                              why != NULL ? why : strerror(-e));
    return e;
}

static void on_engine(void *user, uint64_t sequence)
{
}

static void on_engine_fatal(void *user, const char *text)
{
    const struct restore *r = user;

    /* any thread, and nothing can be saved: the next run begins anew */
    fprintf(stderr, "Error: %s: %s\n", r->building, text);
    _exit(1);
}

static int open_engine(struct restore *r, const char *path, struct engine_leveldb **ret)
{
    CLEANUP(freep) char *why = NULL;
    int e = engine_leveldb_open(&(struct engine_leveldb_args){.loop = r->loop,
                                                              .path = path,
                                                              .written = on_engine,
                                                              .durable = on_engine,
                                                              .fatal = on_engine_fatal,
                                                              .user = r},
                                ret, &why);

    if (e != 0)
        *r->error = xasprintf("%s: %s", path, why != NULL ? why : strerror(-e));
    return e;
}

static int import(struct restore *r, struct engine_leveldb *engine)
{
    struct kv_import_args args = {.file = &r->file,
                                  .engine = engine_leveldb_kv(engine),
                                  .index = r->cluster.count,
                                  .term = FIRST_TERM,
                                  .members = buf_bytes(&r->members),
                                  .bump_revision = r->args->bump_revision};
    struct kv_import *m;
    int e = kv_import_new(&args, &m, r->error);

    if (e != 0)
        return e;
    while ((e = kv_import_step(m, BATCH_BYTES, r->error)) == 1) {
        while (engine_leveldb_is_full(engine))
            loop_run_once(r->loop, WAIT_MS);
    }
    if (e == 0)
        e = kv_import_finish(m, r->error);
    if (e == 0)
        kv_import_get_result(m, &r->imported);
    kv_import_free(m);
    return e;
}

/* What was written is opened once as stored will. */
static int try_state(struct restore *r, const char *path)
{
    struct engine_leveldb *engine;
    CLEANUP(freep) char *why = NULL;
    CLEANUP(freep) char *warning = NULL;
    struct kv_state state;
    struct kv_stats stats;
    struct kv *kv;
    int e = open_engine(r, path, &engine);

    if (e != 0)
        return e;
    e = kv_open(&(struct kv_args){.engine = engine_leveldb_kv(engine)}, &kv, &why, &warning);
    if (e != 0) {
        *r->error = xasprintf("the restored keyspace does not open: %s", why);
    } else {
        kv_get_state(kv, &state);
        kv_get_stats(kv, &stats);
        r->key_count = stats.key_count;
        if (state.applied_index != r->cluster.count || state.revision != r->imported.revision) {
            *r->error = xstrdup("the restored keyspace is not what was written");
            e = -EBADMSG;
        }
        kv_free(kv);
    }
    engine_leveldb_close(engine);
    return e;
}

static int write_state(struct restore *r)
{
    struct stored_dir dir;
    struct engine_leveldb *engine = NULL;
    int e = stored_dir_open(&dir, r->building);

    if (e == 0)
        e = stored_dir_recv_begin(&dir);
    if (e != 0) {
        fail(r, e, r->building);
        stored_dir_close(&dir);
        return e;
    }
    e = open_engine(r, dir.recv, &engine);
    if (e == 0)
        e = import(r, engine);
    engine_leveldb_close(engine); /* written and synced */
    if (e == 0)
        e = try_state(r, dir.recv);
    if (e == 0) {
        e = stored_dir_recv_stage(&dir);
        if (e == 0)
            e = stored_dir_activate(&dir);
        if (e != 0)
            fail(r, e, dir.path);
    }
    stored_dir_close(&dir);
    return e;
}

static int write_log(struct restore *r)
{
    CLEANUP(freep) char *snap_dir = xasprintf("%s/member/snap", r->building);
    CLEANUP(freep)
    char *wal_dir =
        *r->wal_dir != '\0' ? xstrdup(r->wal_dir) : xasprintf("%s/member/wal", r->building);
    struct wal_snapshot marker = {
        .index = r->cluster.count, .term = FIRST_TERM, .conf = buf_bytes(&r->members)};
    struct wal_hard_state hard_state = {.term = FIRST_TERM, .commit = r->cluster.count};
    struct wal_batch batch = {.snapshot = &marker, .hard_state = &hard_state};
    struct wal_metadata metadata = {.cluster_id = r->cluster_id, .member_id = r->member_id};
    struct wal_options options = {.wal_dir = wal_dir, .snap_dir = snap_dir};
    struct wal_error why = {.text = ""};
    struct wal *wal;
    int e = mkdir(snap_dir, 0700) == 0 ? make_dirs(wal_dir) : -errno;

    if (e == 0)
        e = wal_create(&options, &metadata, &batch, &wal, &why);
    if (e != 0) {
        *r->error = xasprintf("cannot write to WAL directory: %s: %s", strerror(-e), why.text);
        return e;
    }
    wal_close(wal);
    return 0;
}

static int put_in_place(struct restore *r)
{
    CLEANUP(freep) char *parent = xasprintf("%s/..", r->args->data_dir);
    CLEANUP(freep) char *member = xasprintf("%s/member", r->building);
    int e = sync_path(member);

    if (e == 0)
        e = sync_path(r->building);
    if (e == 0 && rename(r->building, r->args->data_dir) != 0) /* an empty one is replaced */
        e = -errno;
    if (e == 0)
        e = sync_path(parent);
    return e != 0 ? fail(r, e, r->args->data_dir) : 0;
}

static int build(struct restore *r)
{
    int e;

    remove_tree(r->building); /* of a run that was cut off */
    e = make_dirs(r->building);
    if (e != 0)
        return fail(r, e, r->building);
    e = write_state(r);
    if (e == 0)
        e = write_log(r);
    if (e == 0)
        e = put_in_place(r);
    if (e != 0)
        remove_tree(r->building);
    return e;
}

static char *describe(const struct restore *r)
{
    return xasprintf("restored %s into %s: member %" PRIx64 " of cluster %" PRIx64
                     ", revision %" PRId64 ", %" PRIu64 " keys in %" PRIu64 " versions, %" PRIu64
                     " leases, %" PRIu64 " alarms, %" PRIu64 " users, %" PRIu64 " roles",
                     r->args->snapshot, r->args->data_dir, r->member_id, r->cluster_id,
                     r->imported.revision, r->key_count, r->imported.version_count,
                     r->imported.lease_count, r->imported.alarm_count, r->imported.user_count,
                     r->imported.role_count);
}

static void trim_slashes(char *path)
{
    size_t len = strlen(path);

    while (len > 1 && path[len - 1] == '/')
        path[--len] = '\0';
}

int restore_member(const struct restore_args *args, char **ret_summary, char **ret_error)
{
    struct restore_args own = *args;
    struct restore r = {.args = &own, .error = ret_error};
    CLEANUP(freep) char *data_dir = xstrdup(args->data_dir);
    int e;

    trim_slashes(data_dir);
    own.data_dir = data_dir;
    r.wal_dir = xstrdup(args->wal_dir != NULL ? args->wal_dir : "");
    r.building = xasprintf("%s.restoring", data_dir);
    r.loop = loop_new();
    e = r.loop != NULL ? check_places(&r) : fail(&r, -EMFILE, "event loop");
    if (e == 0)
        e = plan_cluster(&r);
    if (e == 0)
        e = open_file(&r);
    if (e == 0)
        e = build(&r);
    if (e == 0)
        *ret_summary = describe(&r);
    snapshot_file_close(&r.file);
    boot_cluster_fini(&r.cluster);
    buf_fini(&r.members);
    loop_free(r.loop);
    free(r.wal_dir);
    free(r.building);
    return e;
}
