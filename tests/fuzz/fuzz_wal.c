/*
 * Arbitrary damage to a log. The input is a list of edits to the bytes of a valid log of two
 * segments; opening the result must refuse it, or give a log that existed at some time: never an
 * entry that was not appended, never one state's entries with another's vote.
 *
 *   clang -g -O1 -std=gnu17 -D_GNU_SOURCE -fsanitize=fuzzer,address,undefined -I. \
 *       tests/fuzz/fuzz_wal.c tests/unit/wal_disk.c raftd/wal/wal*.c
 * lib/util/{buf,crc32c,xmalloc,prng}.c \ lib/loop/loop.c -luv -o fuzz_wal
 */
#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "raftd/wal/wal.h"
#include "tests/unit/wal_disk.h"

enum { BATCHES = 12, PER_BATCH = 3 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char paths[2][64];

static struct wal_options options(struct wal_disk *d)
{
    return (struct wal_options){
        .io = wal_disk_io(d), .wal_dir = "w", .segment_bytes = 4096, .salt = 9};
}

static size_t content(uint64_t index, uint8_t *out)
{
    size_t len = 40 + index * 13 % 100;

    memset(out, (int)(index * 5 + 1), len);
    return len;
}

static struct wal_disk *make_log(void)
{
    static uint8_t data[PER_BATCH][200];
    struct wal_disk *d = wal_disk_new();
    struct wal_options o = options(d);
    struct wal *w = NULL;
    int r = wal_create(&o, &(struct wal_metadata){1, 2}, NULL, &w, NULL);

    assert(r == 0);
    for (uint64_t b = 0; b < BATCHES; b++) {
        struct wal_entry entries[PER_BATCH];
        struct wal_hard_state hs = {b + 1, b % 3, b * PER_BATCH};
        struct wal_batch batch = {.entries = entries, .entry_count = PER_BATCH, .hard_state = &hs};

        for (uint64_t i = 0; i < PER_BATCH; i++) {
            uint64_t index = b * PER_BATCH + i + 1;

            entries[i] =
                (struct wal_entry){index, b + 1, 0, bytes_of(data[i], content(index, data[i]))};
        }
        r = wal_append(w, &batch, true);
        assert(r == 0);
    }
    assert(wal_info(w)->segment_count == 2);
    wal_close(w);
    for (unsigned int segment = 0; segment < 2; segment++)
        for (unsigned int first = 1; first <= BATCHES * PER_BATCH; first++) {
            char path[64];

            snprintf(path, sizeof(path), "w/%016x-%016x.wal", segment, first);
            if (wal_disk_data(d, path, NULL) != NULL)
                memcpy(paths[segment], path, sizeof(path));
        }
    return d;
}

static void check(struct wal *w)
{
    const struct wal_info *info = wal_info(w);
    struct wal_entries e = WAL_ENTRIES_INIT;
    uint8_t want[200];

    assert(info->last_index % PER_BATCH == 0);
    assert(info->hard_state.term == info->last_index / PER_BATCH);
    assert(info->last_index == 0 || info->hard_state.commit == info->last_index - PER_BATCH);
    for (uint64_t i = 1; i <= info->last_index; i++) {
        int r = wal_read_entries(w, i, i, 1, &e);

        assert(r == 0);
        assert(bytes_eq(e.entries[0].data, bytes_of(want, content(i, want))));
    }
    wal_entries_fini(&e);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct wal_disk *whole;
    struct wal_disk *d;
    struct wal_options o;
    struct wal *w = NULL;

    if (whole == NULL)
        whole = make_log();
    d = wal_disk_clone(whole);
    o = options(d);
    /* each edit: which segment and how, where, how many bytes */
    for (size_t at = 0; at + 5 <= size; at += 5) {
        uint64_t len, offset = (uint64_t)data[at + 1] << 8 | data[at + 2];
        uint8_t *bytes = wal_disk_data(d, paths[data[at] & 1], &len);

        assert(bytes != NULL);
        for (size_t i = 0; i <= data[at + 3] && offset + i < len; i++) {
            if ((data[at] & 2) != 0)
                bytes[offset + i] = 0;
            else
                bytes[offset + i] = (uint8_t)(bytes[offset + i] ^ data[at + 4]);
        }
    }
    if (wal_open(&o, NULL, &w, NULL) == 0) {
        check(w);
        wal_close(w);
    }
    wal_disk_free(d);
    return 0;
}
