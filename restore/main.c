/* conclave-restore: a member's data directory from a snapshot file. See restore/README.md. */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "restore/restore.h"

enum option_code {
    OPTION_NAME = 256,
    OPTION_DATA_DIR,
    OPTION_WAL_DIR,
    OPTION_CLUSTER,
    OPTION_TOKEN,
    OPTION_PEER_URLS,
    OPTION_SKIP_HASH_CHECK,
    OPTION_BUMP_REVISION,
    OPTION_MARK_COMPACTED,
    OPTION_MEMORY_MAP, /* etcd's --initial-memory-map-size: nothing here needs it */
};

static const struct option options[] = {
    {"name", required_argument, NULL, OPTION_NAME},
    {"data-dir", required_argument, NULL, OPTION_DATA_DIR},
    {"wal-dir", required_argument, NULL, OPTION_WAL_DIR},
    {"initial-cluster", required_argument, NULL, OPTION_CLUSTER},
    {"initial-cluster-token", required_argument, NULL, OPTION_TOKEN},
    {"initial-advertise-peer-urls", required_argument, NULL, OPTION_PEER_URLS},
    {"skip-hash-check", optional_argument, NULL, OPTION_SKIP_HASH_CHECK},
    {"bump-revision", required_argument, NULL, OPTION_BUMP_REVISION},
    {"mark-compacted", optional_argument, NULL, OPTION_MARK_COMPACTED},
    {"initial-memory-map-size", required_argument, NULL, OPTION_MEMORY_MAP},
    {NULL, 0, NULL, 0},
};

static bool read_bool(const char *text, bool *ret)
{
    *ret = text == NULL || strcmp(text, "true") == 0 || strcmp(text, "1") == 0;
    return *ret || strcmp(text, "false") == 0 || strcmp(text, "0") == 0;
}

static bool read_number(const char *text, uint64_t *ret)
{
    char *end;

    errno = 0;
    *ret = strtoull(text, &end, 10);
    return errno == 0 && end != text && *end == '\0' && *text != '-';
}

static bool take_option(struct restore_args *a, int code, const char *value)
{
    switch (code) {
    case OPTION_NAME:
        a->name = value;
        return true;
    case OPTION_DATA_DIR:
        a->data_dir = value;
        return true;
    case OPTION_WAL_DIR:
        a->wal_dir = value;
        return true;
    case OPTION_CLUSTER:
        a->initial_cluster = value;
        return true;
    case OPTION_TOKEN:
        a->initial_cluster_token = value;
        return true;
    case OPTION_PEER_URLS:
        a->advertise_peer_urls = value;
        return true;
    case OPTION_SKIP_HASH_CHECK:
        return read_bool(value, &a->skip_hash_check);
    case OPTION_BUMP_REVISION:
        return read_number(value, &a->bump_revision);
    case OPTION_MARK_COMPACTED:
        return read_bool(value, &a->mark_compacted);
    case OPTION_MEMORY_MAP:
        return true;
    }
    return false;
}

int main(int argc, char **argv)
{
    struct restore_args args = {
        .name = "default",
        .initial_cluster = "default=http://localhost:2380",
        .initial_cluster_token = "etcd-cluster",
        .advertise_peer_urls = "http://localhost:2380",
    };
    CLEANUP(freep) char *error = NULL;
    CLEANUP(freep) char *summary = NULL;
    CLEANUP(freep) char *data_dir = NULL;
    int code, at = 0;

    while ((code = getopt_long(argc, argv, "", options, &at)) != -1) {
        if (code == '?')
            return 1; /* getopt said what */
        if (!take_option(&args, code, optarg)) {
            fprintf(stderr, "Error: invalid argument \"%s\" for \"--%s\" flag\n",
                    optarg != NULL ? optarg : "", options[at].name);
            return 1;
        }
    }
    if (optind + 1 != argc) {
        fprintf(stderr, "Error: snapshot restore requires exactly one argument\n");
        return 1;
    }
    args.snapshot = argv[optind];
    if (args.data_dir == NULL || *args.data_dir == '\0')
        args.data_dir = data_dir = xasprintf("%s.etcd", args.name);
    if (restore_member(&args, &summary, &error) != 0) {
        fprintf(stderr, "Error: %s\n", error);
        return 1;
    }
    fprintf(stderr, "%s\n", summary);
    return 0;
}
