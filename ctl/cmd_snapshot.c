/*
 * snapshot save, status, restore. Saving streams one member's state into a file; status reads a
 * file; restoring makes a member's data directory and is done by a program of its own, because
 * what is in that directory is the daemons' business.
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "ctl/cmd.h"
#include "ctl/ctl.h"
#include "ctl/ctl_text.h"
#include "ctl/print.h"
#include "lib/bbolt/snapshot_file.h"
#include "lib/loop/loop.h"
#include "lib/util/buf.h"
#include "lib/util/xmalloc.h"

enum { BLOCK_BYTES = 512, HASH_BYTES = 32 };

/* One JSON line on standard error, as the saving of etcdctl writes them. */
static void info(const char *what, const char *name, const char *value)
{
    struct timespec now;
    struct tm tm;
    char stamp[32];

    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
    fprintf(stderr, "{\"level\":\"info\",\"ts\":\"%s.%06ldZ\",\"msg\":\"%s\",\"%s\":\"%s\"}\n",
            stamp, now.tv_nsec / 1000, what, name, value);
}

static char *errno_text(int error)
{
    char *text = xstrdup(strerror(error));

    if (text[0] >= 'A' && text[0] <= 'Z')
        text[0] = (char)(text[0] | 0x20);
    return text;
}

/* ---- save ---- */

struct saving {
    int fd;
    uint64_t bytes;
    int error; /* of writing */
    char *version;
    bool done;
    int code;
    char *message;
};

static void on_chunk(void *user, struct bytes message)
{
    struct saving *s = user;
    Etcdserverpb__SnapshotResponse *r =
        etcdserverpb__snapshot_response__unpack(NULL, message.len, message.data);

    for (size_t at = 0; r != NULL && at < r->blob.len && s->error == 0;) {
        ssize_t n = write(s->fd, r->blob.data + at, r->blob.len - at);

        if (n < 0 && errno != EINTR)
            s->error = errno;
        else if (n > 0)
            at += (size_t)n;
    }
    if (r != NULL) {
        s->bytes += r->blob.len;
        if (s->version == NULL && r->version != NULL && *r->version != '\0')
            s->version = xstrdup(r->version);
    } else if (s->error == 0) {
        s->error = EBADMSG;
    }
    etcdserverpb__snapshot_response__free_unpacked(r, NULL);
}

static void on_chunks_done(void *user, int code, const char *message)
{
    struct saving *s = user;

    s->done = true;
    s->code = code;
    s->message = xstrdup(message);
}

static NORETURN void save_failed(const char *part, const char *why)
{
    unlink(part);
    ctl_die(CTL_EXIT_INTERRUPTED, "%s", why);
}

static int run_save(struct ctl *c, struct ctl_args *a)
{
    static const struct ctl_call_handler handler = {.on_message = on_chunk,
                                                    .on_done = on_chunks_done};
    Etcdserverpb__SnapshotRequest request = ETCDSERVERPB__SNAPSHOT_REQUEST__INIT;
    struct saving s = {0};
    CLEANUP(freep) char *part = NULL;
    CLEANUP(freep) char *why = NULL;

    if (a->argc != 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "snapshot save expects one argument");
    ctl_globals(c);
    if (c->endpoint_count > 1) {
        struct buf list = BUF_INIT;

        for (size_t i = 0; i < c->endpoint_count; i++)
            buf_appendf(&list, "%s%s", i > 0 ? " " : "", c->endpoints[i]);
        ctl_die(CTL_EXIT_INTERRUPTED,
                "snapshot must be requested to one selected node, not multiple [%.*s]",
                (int)list.len, list.data);
    }
    ctl_connect(c);
    part = xasprintf("%s.part", a->argv[0]);
    s.fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (s.fd < 0) {
        why = errno_text(errno);
        ctl_die(CTL_EXIT_INTERRUPTED, "could not open %s (open %s: %s)", part, part, why);
    }
    info("created temporary db file", "path", part);
    info("fetching snapshot", "endpoint", c->endpoints[0]);
    ctl_call_start(c->client,
                   &(struct ctl_call_args){
                       .method = &ctl_method_snapshot,
                       .request = &request.base,
                       .timeout_ms = ctl_args_given(a, "command-timeout") ? c->command_ms : 0,
                       .handler = &handler,
                       .user = &s});
    while (!s.done && s.error == 0)
        loop_run_once(c->loop, 1000);
    if (s.error == 0 && s.code != 0)
        save_failed(part, s.message);
    if (s.error == 0 && s.bytes % BLOCK_BYTES != HASH_BYTES) {
        why = xasprintf("sha256 checksum not found [bytes: %" PRIu64 "]", s.bytes);
        save_failed(part, why);
    }
    if (s.error == 0 && (fsync(s.fd) != 0 || close(s.fd) != 0))
        s.error = errno;
    if (s.error == 0 && rename(part, a->argv[0]) != 0) {
        why = errno_text(errno);
        ctl_die(CTL_EXIT_INTERRUPTED, "could not rename %s to %s (%s)", part, a->argv[0], why);
    }
    if (s.error != 0) {
        why = xasprintf("could not write %s (%s)", part, strerror(s.error));
        save_failed(part, why);
    }
    info("saved", "path", a->argv[0]);
    printf("Snapshot saved at %s\n", a->argv[0]);
    if (s.version != NULL)
        printf("Server version %s\n", s.version);
    free(s.version);
    free(s.message);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_save = {
    .use = "save <filename>",
    .summary = "Stores an etcd node backend snapshot to a given file",
    .run = run_save};

/* ---- status ---- */

static void status_print(const struct ctl *c, const struct snapshot_status *s)
{
    static const char *const headers[] = {"HASH", "REVISION", "TOTAL KEYS", "TOTAL SIZE"};
    char *cells[] = {xasprintf("%" PRIx32, s->hash), xasprintf("%" PRId64, s->revision),
                     xasprintf("%" PRIu64, s->total_keys), ctl_text_size(s->total_size)};

    switch (c->format) {
    case CTL_FORMAT_JSON:
        printf("{\"hash\":%" PRIu32 ",\"revision\":%" PRId64 ",\"totalKey\":%" PRIu64
               ",\"totalSize\":%" PRIu64,
               s->hash, s->revision, s->total_keys, s->total_size);
        if (s->version[0] != '\0') {
            fputs(",\"version\":", stdout);
            ctl_text_json_string(stdout, s->version);
        }
        puts("}");
        break;
    case CTL_FORMAT_FIELDS:
        printf("\"Hash\" : %" PRIu32 "\n\"Revision\" : %" PRId64 "\n\"Keys\" : %" PRIu64
               "\n\"Size\" : %" PRIu64 "\n",
               s->hash, s->revision, s->total_keys, s->total_size);
        if (s->version[0] != '\0')
            print_quoted_field("", "Version", s->version, strlen(s->version));
        break;
    case CTL_FORMAT_TABLE:
        print_table(headers, ARRAY_LEN(headers), cells, 1);
        break;
    case CTL_FORMAT_PROTOBUF:
        print_marshal_unsupported("snapshot.Status");
    case CTL_FORMAT_SIMPLE:
        printf("%s, %s, %s, %s\n", cells[0], cells[1], cells[2], cells[3]);
        break;
    }
    for (size_t i = 0; i < ARRAY_LEN(cells); i++)
        free(cells[i]);
}

static int run_status(struct ctl *c, struct ctl_args *a)
{
    struct snapshot_file file = {0};
    struct snapshot_status status;
    struct stat st;
    char *why = NULL;

    if (a->argc != 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "snapshot status requires exactly one argument");
    ctl_globals(c);
    if (stat(a->argv[0], &st) != 0) {
        why = errno_text(errno);
        ctl_die(CTL_EXIT_ERROR, "stat %s: %s", a->argv[0], why);
    }
    if (snapshot_file_open(a->argv[0], &file, &why) != 0 ||
        snapshot_file_status(&file, &status, &why) != 0)
        ctl_die(CTL_EXIT_ERROR, "%s", why);
    status_print(c, &status);
    snapshot_file_close(&file);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_command cmd_status = {
    .use = "status <filename>",
    .summary = "Gets backend snapshot status of a given file",
    .description = "Prints hash, revision, total keys, total size.",
    .run = run_status};

/* ---- restore ---- */

/* The program that makes the directory takes the same flags. */
static int run_restore(struct ctl *c, struct ctl_args *a)
{
    static const char *const names[] = {"data-dir",        "initial-advertise-peer-urls",
                                        "initial-cluster", "initial-cluster-token",
                                        "mark-compacted",  "name",
                                        "skip-hash-check", "wal-dir"};
    const char *dir = getenv("CONCLAVE_LIBEXECDIR");
    CLEANUP(freep)
    char *program =
        xasprintf("%s/conclave-restore", dir != NULL && *dir != '\0' ? dir : LIBEXECDIR);
    const char *argv[ARRAY_LEN(names) + 5] = {program};
    size_t argc = 1;
    char *why = NULL;
    int status;

    if (a->argc != 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "snapshot restore requires exactly one argument");
    if ((ctl_args_int(a, "bump-revision") != 0) != ctl_args_bool(a, "mark-compacted"))
        ctl_die(CTL_EXIT_BAD_ARGS, "--mark-compacted required if --revision-bump > 0");
    if (access(a->argv[0], R_OK) != 0) {
        why = errno_text(errno);
        ctl_die(CTL_EXIT_ERROR, "open %s: %s", a->argv[0], why);
    }
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (ctl_args_given(a, names[i]))
            argv[argc++] = xasprintf("--%s=%s", names[i], ctl_args_string(a, names[i]));
    if (ctl_args_given(a, "bump-revision")) /* which may have been hexadecimal */
        argv[argc++] =
            xasprintf("--bump-revision=%" PRIu64, (uint64_t)ctl_args_int(a, "bump-revision"));
    argv[argc++] = "--";
    argv[argc++] = a->argv[0];
    argv[argc] = NULL;
    status = ctl_run(NULL, argv, NULL, 0, &why);
    if (status < 0)
        ctl_die(CTL_EXIT_ERROR, "the program that restores cannot be run: %s", why);
    return status;
}

static const struct ctl_flag restore_flags[] = {
    {.name = "bump-revision",
     .type = CTL_FLAG_UINT,
     .initial = "0",
     .usage = "How much to increase the latest revision after restore"},
    CTL_STRING("data-dir", "", "Path to the data directory"),
    CTL_STRING("initial-advertise-peer-urls", "http://localhost:2380",
               "List of this member's peer URLs to advertise to the rest of the cluster"),
    CTL_STRING("initial-cluster", "default=http://localhost:2380",
               "Initial cluster configuration for restore bootstrap"),
    CTL_STRING("initial-cluster-token", "etcd-cluster",
               "Initial cluster token for the etcd cluster during restore bootstrap"),
    CTL_INT("initial-memory-map-size", "0", "Accepted for compatibility; has no effect"),
    CTL_BOOL("mark-compacted",
             "Mark the latest revision after restore as the point of scheduled compaction "
             "(required if --bump-revision > 0, disallowed otherwise)"),
    CTL_STRING("name", "default", "Human-readable name for this member"),
    CTL_BOOL("skip-hash-check",
             "Ignore snapshot integrity hash value (required if copied from data directory)"),
    CTL_STRING("wal-dir", "", "Path to the WAL directory (use --data-dir if none given)"),
    CTL_FLAGS_END};
static const struct ctl_command cmd_restore = {
    .use = "restore <filename> [options]",
    .summary = "Restores an etcd member snapshot to an etcd directory",
    .flags = restore_flags,
    .run = run_restore};

static const struct ctl_command *const children[] = {&cmd_save, &cmd_restore, &cmd_status, NULL};
const struct ctl_command cmd_snapshot = {
    .use = "snapshot <subcommand>", .summary = "Manages etcd node snapshots", .children = children};
