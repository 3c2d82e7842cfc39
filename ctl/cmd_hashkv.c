/*
 * hashkv: etcd's hash over the history in a snapshot file, the one that `endpoint hashkv` asks a
 * member for. Versions up to the compact revision count only when a read at the hashed revision
 * sees them; when it sees no key at all, everything that is there counts.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "ctl/cmd.h"
#include "ctl/ctl.h"
#include "ctl/print.h"
#include "lib/bbolt/snapshot_file.h"
#include "lib/util/crc32c.h"
#include "lib/util/xmalloc.h"

enum { REVISION_BYTES = 17, DELETED_BYTES = 18 }; /* main '_' sub ['t'] */

struct version {
    struct bytes key; /* the user's, inside the image */
    int64_t main, sub;
    bool deleted;
};

struct history {
    const struct bbolt *db;
    struct version *seen; /* what a read at the revision sees; sorted by revision */
    size_t seen_count;
    int64_t revision, compact_revision;
};

static int64_t be64(const uint8_t *p)
{
    uint64_t v = 0;

    for (int i = 0; i < 8; i++)
        v = v << 8 | p[i];
    return (int64_t)v;
}

static bool parse_revision(struct bytes key, struct version *ret)
{
    if ((key.len != REVISION_BYTES && key.len != DELETED_BYTES) || key.data[8] != '_')
        return false;
    ret->main = be64(key.data);
    ret->sub = be64(key.data + 9);
    ret->deleted = key.len == DELETED_BYTES;
    return true;
}

/* The first field of a stored KeyValue is its key. */
static bool parse_key(struct bytes value, struct bytes *ret)
{
    uint64_t len = 0;
    size_t at = 1;

    if (value.len < 2 || value.data[0] != 0x0a)
        return false;
    for (unsigned int shift = 0; at < value.len && shift < 35; shift += 7) {
        uint8_t byte = value.data[at++];

        len |= (uint64_t)(byte & 0x7f) << shift;
        if ((byte & 0x80) == 0)
            break;
    }
    if (len > value.len - at)
        return false;
    *ret = bytes_of(value.data + at, len);
    return true;
}

static int by_key_and_revision(const void *a, const void *b)
{
    const struct version *x = a, *y = b;
    int r = bytes_cmp(x->key, y->key);

    if (r != 0)
        return r;
    if (x->main != y->main)
        return x->main < y->main ? -1 : 1;
    return x->sub < y->sub ? -1 : x->sub > y->sub;
}

static int by_revision(const void *a, const void *b)
{
    const struct version *x = a, *y = b;

    if (x->main != y->main)
        return x->main < y->main ? -1 : 1;
    return x->sub < y->sub ? -1 : x->sub > y->sub;
}

NORETURN static void malformed(void)
{
    ctl_die(CTL_EXIT_ERROR, "the database is malformed");
}

static struct bbolt_bucket find_bucket(const struct bbolt *db, const char *name)
{
    struct bbolt_bucket root = bbolt_root(db), bucket;
    int r = bbolt_bucket_find(&root, bytes_str(name), &bucket);

    if (r == -ENOENT)
        ctl_die(CTL_EXIT_ERROR, "the database has no bucket \"%s\"", name);
    if (r != 0)
        malformed();
    return bucket;
}

static int64_t compact_revision(const struct bbolt *db)
{
    static const char *const names[] = {"finishedCompactRev", "scheduledCompactRev"};
    struct bbolt_bucket meta = find_bucket(db, "meta");
    int64_t revision = -1; /* as a member that never compacted says */

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct bytes value;
        struct version v;

        if (bbolt_get(&meta, bytes_str(names[i]), &value) == 0 && parse_revision(value, &v))
            revision = MAX(revision, v.main);
    }
    return revision;
}

/* Fills `seen`, and the newest revision when none was asked for. */
static void read_history(struct history *h)
{
    struct bbolt_bucket bucket = find_bucket(h->db, "key");
    struct bbolt_cursor cursor;
    struct bbolt_item item;
    size_t count = 0, cap = 0, kept = 0;
    int64_t newest = 1;
    int r;

    bbolt_cursor_init(&cursor, &bucket);
    while ((r = bbolt_cursor_next(&cursor, &item)) == 1) {
        struct version v;

        if (!parse_revision(item.key, &v) || !parse_key(item.value, &v.key))
            malformed();
        newest = MAX(newest, v.main);
        if (h->revision > 0 && v.main > h->revision)
            continue;
        if (count == cap) {
            cap = cap == 0 ? 1024 : cap * 2;
            h->seen = xreallocarray(h->seen, cap, sizeof(*h->seen));
        }
        h->seen[count++] = v;
    }
    if (r != 0)
        malformed();
    newest = MAX(newest, h->compact_revision);
    if (h->revision > newest)
        ctl_die(CTL_EXIT_ERROR, "mvcc: required revision is a future revision");
    if (h->revision == 0)
        h->revision = newest;
    if (h->revision < h->compact_revision)
        ctl_die(CTL_EXIT_ERROR, "mvcc: required revision has been compacted");
    if (count > 0)
        qsort(h->seen, count, sizeof(*h->seen), by_key_and_revision);
    for (size_t i = 0; i < count; i++)
        if ((i + 1 == count || !bytes_eq(h->seen[i].key, h->seen[i + 1].key)) &&
            !h->seen[i].deleted)
            h->seen[kept++] = h->seen[i];
    h->seen_count = kept;
    if (kept > 0)
        qsort(h->seen, kept, sizeof(*h->seen), by_revision);
}

static uint32_t hash_history(const struct history *h)
{
    struct bbolt_bucket bucket = find_bucket(h->db, "key");
    uint32_t crc = crc32c(0, "key", 3);
    struct bbolt_cursor cursor;
    struct bbolt_item item;
    int r;

    bbolt_cursor_init(&cursor, &bucket);
    while ((r = bbolt_cursor_next(&cursor, &item)) == 1) {
        struct version v;

        if (!parse_revision(item.key, &v))
            malformed();
        if (v.main > h->revision)
            continue;
        if (v.main <= h->compact_revision && h->seen_count > 0 &&
            bsearch(&v, h->seen, h->seen_count, sizeof(v), by_revision) == NULL)
            continue;
        crc = crc32c(crc, item.key.data, item.key.len);
        crc = crc32c(crc, item.value.data, item.value.len);
    }
    if (r != 0)
        malformed();
    return crc;
}

static int run_hashkv(struct ctl *c, struct ctl_args *a)
{
    static const char *const headers[] = {"HASH", "HASH REVISION", "COMPACT REVISION"};
    struct snapshot_file file = {0};
    struct history h = {.revision = ctl_args_int(a, "rev")};
    char *why = NULL;
    char *cells[3];
    uint32_t hash;

    if (a->argc != 1)
        ctl_die(CTL_EXIT_BAD_ARGS, "hashkv requires exactly one argument");
    ctl_globals(c);
    if (access(a->argv[0], R_OK) != 0)
        ctl_die(CTL_EXIT_ERROR, "open %s: %s", a->argv[0],
                errno == ENOENT ? "no such file or directory" : strerror(errno));
    if (snapshot_file_open(a->argv[0], &file, &why) != 0 || bbolt_check(&file.db, &why) != 0)
        ctl_die(CTL_EXIT_ERROR, "%s", why);
    h.db = &file.db;
    h.compact_revision = compact_revision(h.db);
    read_history(&h);
    hash = hash_history(&h);
    cells[0] = xasprintf("%" PRIu32, hash);
    cells[1] = xasprintf("%" PRId64, h.revision);
    cells[2] = xasprintf("%" PRId64, h.compact_revision);
    switch (c->format) {
    case CTL_FORMAT_JSON:
        printf("{\"hash\":%s,\"hashRevision\":%s,\"compactRevision\":%s}\n", cells[0], cells[1],
               cells[2]);
        break;
    case CTL_FORMAT_FIELDS:
        printf("\"Hash\" : %s\n\"Hash revision\" : %s\n\"Compact revision\" : %s\n", cells[0],
               cells[1], cells[2]);
        break;
    case CTL_FORMAT_TABLE:
        print_table(headers, ARRAY_LEN(headers), cells, 1);
        break;
    case CTL_FORMAT_PROTOBUF:
        print_marshal_unsupported("etcdutl.HashKV");
    case CTL_FORMAT_SIMPLE:
        printf("%s, %s, %s\n", cells[0], cells[1], cells[2]);
        break;
    }
    for (size_t i = 0; i < ARRAY_LEN(cells); i++)
        free(cells[i]);
    free(h.seen);
    snapshot_file_close(&file);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag flags[] = {
    CTL_INT("rev", "0", "maximum revision to hash (default: all revisions)"), CTL_FLAGS_END};
const struct ctl_command cmd_hashkv_file = {.use = "hashkv <filename>",
                                            .summary = "Prints the KV history hash of a given file",
                                            .flags = flags,
                                            .run = run_hashkv};
