/*
 * The write-ahead log: what was durable comes back, what was not is gone as a whole batch or there
 * as a whole batch, and damage is never taken for either.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "lib/util/prng.h"
#include "lib/util/xmalloc.h"
#include "raftd/wal/wal.h"
#include "tests/unit/wal_disk.h"

#define DIR  "m/wal"
#define SNAP "m/snap"

static const struct wal_metadata ids = {0xc1, 0xa1};

static struct wal_options options(struct wal_disk *d)
{
    return (struct wal_options){
        .io = wal_disk_io(d), .wal_dir = DIR, .snap_dir = SNAP, .segment_bytes = 4096, .salt = 77};
}

static struct wal *create(struct wal_disk *d)
{
    struct wal_options o = options(d);
    struct wal_error err = {""};
    struct wal *w = NULL;

    cr_assert_eq(wal_create(&o, &ids, NULL, &w, &err), 0, "%s", err.text);
    return w;
}

static struct wal *reopen(struct wal_disk *d)
{
    struct wal_options o = options(d);
    struct wal_error err = {""};
    struct wal *w = NULL;

    cr_assert_eq(wal_open(&o, &ids, &w, &err), 0, "%s", err.text);
    return w;
}

/* What an entry of this index and term holds: its length and bytes follow from them. No zeros. */
static struct bytes content(uint64_t index, uint64_t term, uint8_t *out, size_t max)
{
    size_t len = (index * 37 + term * 11) % max;

    for (size_t i = 0; i < len; i++)
        out[i] = (uint8_t)(1 + (index * 7 + term * 13 + i) % 255);
    return bytes_of(out, len);
}

static int append(struct wal *w, uint64_t lo, uint64_t hi, uint64_t term,
                  const struct wal_hard_state *hs, bool sync)
{
    enum { MAX_LEN = 300, MAX_COUNT = 64 };
    static uint8_t data[MAX_COUNT][MAX_LEN];
    struct wal_entry entries[MAX_COUNT];
    struct wal_batch b = {.entries = entries, .hard_state = hs};

    for (uint64_t i = lo; i <= hi; i++) {
        size_t n = b.entry_count++;

        cr_assert_lt(n, MAX_COUNT);
        entries[n] =
            (struct wal_entry){i, term, (uint16_t)(i % 3), content(i, term, data[n], MAX_LEN)};
    }
    return wal_append(w, &b, sync);
}

static void expect_entries(struct wal *w, uint64_t lo, uint64_t hi, uint64_t term)
{
    struct wal_entries e = WAL_ENTRIES_INIT;
    uint64_t next = lo;
    uint8_t want[300];

    while (next <= hi) {
        int r = wal_read_entries(w, next, hi, 1000, &e);

        cr_assert_eq(r, 0, "entry %" PRIu64 ": %d %s", next, r, wal_read_error(w));
        cr_assert_gt(e.count, 0);
        for (size_t i = 0; i < e.count; i++, next++) {
            cr_assert_eq(e.entries[i].index, next);
            cr_assert_eq(e.entries[i].term, term);
            cr_assert_eq(e.entries[i].type, next % 3);
            cr_assert(bytes_eq(e.entries[i].data, content(next, term, want, sizeof(want))));
        }
    }
    wal_entries_fini(&e);
}

static const char *last_segment(struct wal_disk *d, char path[128])
{
    struct wal *w = reopen(d);

    wal_close(w);
    for (uint64_t s = 0, n = 0; s < 4000; s++)
        for (n = 0; n < 3000; n++) {
            snprintf(path, 128, DIR "/%016" PRIx64 "-%016" PRIx64 ".wal", s, n);
            if (wal_disk_data(d, path, NULL) != NULL) {
                char next[128];
                bool more = false;

                for (uint64_t m = 0; m < 3000 && !more; m++) {
                    snprintf(next, sizeof(next), DIR "/%016" PRIx64 "-%016" PRIx64 ".wal", s + 1,
                             m);
                    more = wal_disk_data(d, next, NULL) != NULL;
                }
                if (!more)
                    return path;
                break;
            }
        }
    cr_assert_fail("no segment");
    return NULL;
}

/* Where the last record ends: records are padded to 8 bytes, and none ends in 8 zeros here. */
static uint64_t content_end(const uint8_t *data, uint64_t len)
{
    while (len > 0 && data[len - 1] == 0)
        len--;
    return (len + 7) / 8 * 8;
}

Test(wal, new_log_has_its_first_batch)
{
    struct wal_disk *d = wal_disk_new();
    struct wal_options o = options(d);
    struct wal_hard_state hs = {1, 0, 2};
    struct wal_entry first[] = {{1, 1, 1, BYTES_LIT("one")}, {2, 1, 1, BYTES_LIT("two")}};
    struct wal_batch b = {.entries = first, .entry_count = 2, .hard_state = &hs};
    struct wal_error err;
    struct wal *w;

    cr_assert_eq(wal_exists(&o), 0);
    cr_assert_eq(wal_create(&o, &ids, &b, &w, &err), 0);
    wal_close(w);
    wal_disk_crash(d, NULL);
    cr_assert_eq(wal_exists(&o), 1);
    cr_assert_eq(wal_create(&o, &ids, &b, &w, &err), -EEXIST);
    w = reopen(d);
    cr_assert_eq(wal_info(w)->metadata.cluster_id, ids.cluster_id);
    cr_assert_eq(wal_info(w)->metadata.member_id, ids.member_id);
    cr_assert_eq(wal_info(w)->first_index, 1);
    cr_assert_eq(wal_info(w)->last_index, 2);
    cr_assert_eq(wal_info(w)->hard_state.commit, 2);
    cr_assert_eq(wal_info(w)->repaired_bytes, 0);
    wal_close(w);
    wal_disk_free(d);
}

/* A creation that did not finish is no log, wherever it stopped. */
Test(wal, interrupted_creation)
{
    for (uint64_t n = 1;; n++) {
        struct wal_disk *d = wal_disk_new();
        struct wal_options o = options(d);
        struct wal_error err;
        struct wal *w = NULL;
        int r;

        wal_disk_fail_at(d, n, EIO);
        r = wal_create(&o, &ids, NULL, &w, &err);
        if (r == 0) {
            cr_assert_gt(n, 4);
            wal_close(w);
            wal_disk_free(d);
            return;
        }
        cr_assert_eq(r, -EIO);
        wal_disk_crash(d, NULL);
        cr_assert_eq(wal_exists(&o), 0);
        wal_close(create(d));
        wal_disk_free(d);
    }
}

Test(wal, round_trip_over_many_segments)
{
    struct wal_disk *d = wal_disk_new();
    struct wal *w = create(d);
    struct wal_hard_state hs = {3, 9, 0};
    uint64_t term;

    for (uint64_t i = 1; i <= 600; i += 5) {
        hs.commit = i - 1;
        cr_assert_eq(append(w, i, i + 4, 3, &hs, true), 0);
    }
    cr_assert_gt(wal_info(w)->segment_count, 10);
    expect_entries(w, 1, 600, 3);
    for (int again = 0; again < 2; again++) {
        wal_close(w);
        wal_disk_crash(d, NULL);
        w = reopen(d);
        cr_assert_eq(wal_info(w)->first_index, 1);
        cr_assert_eq(wal_info(w)->last_index, 600);
        cr_assert_eq(wal_info(w)->hard_state.term, 3);
        cr_assert_eq(wal_info(w)->hard_state.vote, 9);
        cr_assert_eq(wal_info(w)->hard_state.commit, 595);
        expect_entries(w, 1, 600, 3);
        expect_entries(w, 333, 340, 3);
    }
    cr_assert_eq(wal_entry_term(w, 600, &term), 0);
    cr_assert_eq(term, 3);
    cr_assert_eq(wal_entry_term(w, 601, &term), -ENOENT);
    cr_assert_eq(wal_entry_term(w, 0, &term), 0);
    cr_assert_eq(term, 0);
    wal_close(w);
    wal_disk_free(d);
}

Test(wal, read_limits)
{
    struct wal_disk *d = wal_disk_new();
    struct wal *w = create(d);
    struct wal_entries e = WAL_ENTRIES_INIT;
    struct wal_entry big[3] = {
        {1, 1, 0, BYTES_EMPTY}, {2, 1, 0, BYTES_EMPTY}, {3, 1, 0, BYTES_EMPTY}};
    struct wal_batch b = {.entries = big, .entry_count = 3};
    uint8_t *data = xcalloc(1, 100000);
    static const struct {
        uint64_t lo, hi;
        size_t max_bytes, count;
        int r;
    } rows[] = {
        {1, 3, 0, 1, 0},
        {1, 3, 99999, 1, 0},
        {1, 3, 200000, 2, 0},
        {1, 3, 300000, 3, 0},
        {1, 99, 900000, 3, 0},
        {2, 2, 900000, 1, 0},
        {4, 9, 900000, 0, -ERANGE},
    };

    for (int i = 0; i < 3; i++)
        big[i].data = bytes_of(data, 100000); /* larger than a segment */
    cr_assert_eq(wal_append(w, &b, true), 0);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        cr_assert_eq(wal_read_entries(w, rows[i].lo, rows[i].hi, rows[i].max_bytes, &e), rows[i].r,
                     "row %zu", i);
        cr_assert_eq(e.count, rows[i].count, "row %zu", i);
    }
    wal_close(w);
    w = reopen(d);
    cr_assert_eq(wal_info(w)->last_index, 3);
    cr_assert_eq(append(w, 4, 6, 1, NULL, true), 0);
    expect_entries(w, 4, 6, 1);
    wal_entries_fini(&e);
    wal_close(w);
    wal_disk_free(d);
    free(data);
}

Test(wal, overwritten_tail)
{
    struct wal_disk *d = wal_disk_new();
    struct wal *w = create(d);
    uint64_t term;

    cr_assert_eq(append(w, 1, 40, 1, NULL, true), 0);
    cr_assert_eq(append(w, 41, 80, 1, NULL, true), 0);
    cr_assert_eq(append(w, 31, 50, 2, NULL, true), 0);
    cr_assert_eq(append(w, 45, 60, 4, NULL, true), 0);
    for (int again = 0; again < 2; again++) {
        cr_assert_eq(wal_info(w)->last_index, 60);
        expect_entries(w, 1, 30, 1);
        expect_entries(w, 31, 44, 2);
        expect_entries(w, 45, 60, 4);
        cr_assert(wal_entry_term(w, 30, &term) == 0 && term == 1);
        cr_assert(wal_entry_term(w, 31, &term) == 0 && term == 2);
        cr_assert(wal_entry_term(w, 44, &term) == 0 && term == 2);
        cr_assert(wal_entry_term(w, 45, &term) == 0 && term == 4);
        cr_assert_eq(wal_entry_term(w, 61, &term), -ENOENT);
        wal_close(w);
        w = reopen(d);
    }
    cr_assert_eq(append(w, 1, 2, 5, NULL, true), 0); /* all of it */
    cr_assert_eq(append(w, 3, 9, 5, NULL, true), 0);
    wal_close(w);
    w = reopen(d);
    cr_assert_eq(wal_info(w)->last_index, 9);
    expect_entries(w, 1, 9, 5);
    wal_close(w);
    wal_disk_free(d);
}

/* Entries 1-3 and a vote are durable, then 4-9: cut off at every byte, in two ways. */
Test(wal, torn_at_every_byte)
{
    struct wal_disk *d = wal_disk_new();
    struct wal *w = create(d);
    struct wal_hard_state hs = {2, 7, 1};
    const char *path = DIR "/0000000000000000-0000000000000001.wal";
    uint64_t from, to, len;
    uint8_t *data;

    cr_assert_eq(append(w, 1, 3, 2, &hs, true), 0);
    data = wal_disk_data(d, path, &len);
    from = content_end(data, len);
    hs = (struct wal_hard_state){5, 8, 4};
    cr_assert_eq(append(w, 4, 9, 4, &hs, true), 0);
    data = wal_disk_data(d, path, &len);
    to = content_end(data, len);
    wal_close(w);
    cr_assert_gt(to, from + 500);
    for (uint64_t k = from; k < to; k++)
        for (int truncate = 0; truncate < 2; truncate++) {
            struct wal_disk *copy = wal_disk_clone(d);
            bool whole = false;

            data = wal_disk_data(copy, path, NULL);
            memset(data + k, 0, len - k);
            if (truncate)
                wal_disk_truncate(copy, path, k);
            else if (memcmp(data, wal_disk_data(d, path, NULL), len) == 0)
                whole = true; /* only zeros are missing */
            w = reopen(copy);
            if (whole) {
                cr_assert_eq(wal_info(w)->last_index, 9);
                wal_close(w);
                wal_disk_free(copy);
                continue;
            }
            cr_assert_eq(wal_info(w)->last_index, 3, "at %" PRIu64, k);
            cr_assert_eq(wal_info(w)->hard_state.vote, 7);
            cr_assert_eq(wal_info(w)->hard_state.commit, 1);
            expect_entries(w, 1, 3, 2);
            hs = (struct wal_hard_state){6, 2, 3};
            cr_assert_eq(append(w, 4, 8, 6, &hs, true), 0);
            wal_close(w);
            w = reopen(copy);
            cr_assert_eq(wal_info(w)->last_index, 8, "at %" PRIu64, k);
            cr_assert_eq(wal_info(w)->repaired_bytes, 0);
            expect_entries(w, 4, 8, 6);
            wal_close(w);
            wal_disk_free(copy);
        }
    wal_disk_free(d);
}

/* Any one sector of the last batch did not arrive, while the later ones did. */
Test(wal, hole_in_the_last_batch)
{
    struct wal_disk *d = wal_disk_new();
    struct wal *w = create(d);
    const char *path = DIR "/0000000000000000-0000000000000001.wal";
    uint64_t from, to, len;
    uint8_t *data;

    cr_assert_eq(append(w, 1, 3, 2, NULL, true), 0);
    data = wal_disk_data(d, path, &len);
    from = content_end(data, len);
    cr_assert_eq(append(w, 4, 18, 2, NULL, true), 0);
    data = wal_disk_data(d, path, &len);
    to = content_end(data, len);
    wal_close(w);
    for (uint64_t s = from / 512 * 512; s < to; s += 512) {
        struct wal_disk *copy = wal_disk_clone(d);
        uint64_t at = MAX(s, from);

        data = wal_disk_data(copy, path, NULL);
        memset(data + at, 0, s + 512 - at);
        w = reopen(copy);
        cr_assert_eq(wal_info(w)->last_index, 3, "sector at %" PRIu64, s);
        cr_assert_gt(wal_info(w)->repaired_bytes, 0);
        wal_close(w);
        wal_disk_free(copy);
    }
    wal_disk_free(d);
}

/* Every bit of what is durable and followed by something: refused, with file and offset. */
Test(wal, flipped_bits_are_damage)
{
    struct wal_disk *d = wal_disk_new();
    struct wal *w = create(d);
    struct wal_hard_state hs = {1, 1, 0};
    const char *path = DIR "/0000000000000000-0000000000000001.wal";
    uint64_t to, len;
    uint8_t *data;

    cr_assert_eq(append(w, 1, 4, 1, &hs, true), 0);
    cr_assert_eq(append(w, 5, 8, 1, NULL, true), 0);
    data = wal_disk_data(d, path, &len);
    to = content_end(data, len);
    cr_assert_eq(append(w, 9, 9, 1, NULL, true), 0);
    wal_close(w);
    for (uint64_t at = 0; at < to; at++) {
        struct wal_disk *copy = wal_disk_clone(d);
        struct wal_options o = options(copy);
        struct wal_error err = {""};
        const char *offset;
        int r;

        data = wal_disk_data(copy, path, NULL);
        data[at] ^= (uint8_t)(1U << (at % 8));
        w = NULL;
        r = wal_open(&o, &ids, &w, &err);
        cr_assert_eq(r, -EBADMSG, "byte %" PRIu64 ": %d", at, r);
        cr_assert_not_null(strstr(err.text, path), "%s", err.text);
        offset = strstr(err.text, "offset ");
        cr_assert_not_null(offset, "%s", err.text);
        cr_assert_leq(strtoull(offset + 7, NULL, 10), at, "byte %" PRIu64 ": %s", at, err.text);
        wal_disk_free(copy);
    }
    wal_disk_free(d);
}

/* The very last record: a flip inside data that was wholly written is noticed as well. */
Test(wal, flipped_bit_in_the_last_record)
{
    struct wal_disk *d = wal_disk_new();
    struct wal *w = create(d);
    struct wal_options o = options(d);
    struct wal_error err = {""};
    const char *path = DIR "/0000000000000000-0000000000000001.wal";
    uint64_t len, end;
    uint8_t *data;

    cr_assert_eq(append(w, 1, 5, 1, NULL, true), 0);
    wal_close(w);
    data = wal_disk_data(d, path, &len);
    end = content_end(data, len);
    data[end - 40] ^= 1;
    w = NULL;
    cr_assert_eq(wal_open(&o, &ids, &w, &err), -EBADMSG, "end %" PRIu64, end);
    cr_assert_not_null(strstr(err.text, "written to its end"), "%s", err.text);
    wal_disk_free(d);
}

Test(wal, damage_in_older_segments)
{
    static const char *const rows[] = {"flip", "zero the end", "cut the file", "remove", "swap"};

    for (size_t row = 0; row < ARRAY_LEN(rows); row++) {
        struct wal_disk *d = wal_disk_new();
        struct wal_options o = options(d);
        struct wal_error err = {""};
        struct wal *w = create(d);
        char last[128], path[128] = "", next[128] = "";
        uint64_t len, end;
        uint8_t *data;

        for (uint64_t i = 1; i <= 200; i += 4)
            cr_assert_eq(append(w, i, i + 3, 1, NULL, true), 0);
        wal_close(w);
        last_segment(d, last);
        for (uint64_t n = 0; n < 300; n++) {
            char name[128];

            for (uint64_t s = 1; s <= 2; s++) {
                snprintf(name, sizeof(name), DIR "/%016" PRIx64 "-%016" PRIx64 ".wal", s, n);
                if (wal_disk_data(d, name, NULL) != NULL)
                    memcpy(s == 1 ? path : next, name, sizeof(name));
            }
        }
        cr_assert_str_neq(next, last);
        data = wal_disk_data(d, path, &len);
        end = content_end(data, len);
        switch (row) {
        case 0:
            data[end - 20] ^= 16;
            break;
        case 1:
            memset(data + end - 100, 0, 100);
            break;
        case 2:
            wal_disk_truncate(d, path, end - 100);
            break;
        case 3:
            cr_assert(wal_disk_remove(d, path));
            break;
        case 4:
            cr_assert(wal_disk_rename(d, path, "x") && wal_disk_rename(d, next, path) &&
                      wal_disk_rename(d, "x", next));
            break;
        }
        cr_assert_eq(wal_open(&o, &ids, &w, &err), -EBADMSG, "%s", rows[row]);
        cr_assert_not_null(strstr(err.text, ".wal: offset "), "%s: %s", rows[row], err.text);
        wal_disk_free(d);
    }
}

Test(wal, foreign_logs)
{
    struct wal_disk *d = wal_disk_new();
    struct wal_options o = options(d);
    struct wal_error err = {""};
    struct wal_metadata other_member = {ids.cluster_id, 5}, other_cluster = {5, ids.member_id};
    struct wal *w = create(d);

    wal_close(w);
    cr_assert_eq(wal_open(&o, &other_member, &w, &err), -EXDEV);
    cr_assert_not_null(strstr(err.text, "member a1 of cluster c1"), "%s", err.text);
    cr_assert_eq(wal_open(&o, &other_cluster, &w, &err), -EXDEV);
    cr_assert_eq(wal_open(&o, NULL, &w, &err), 0);
    wal_close(w);
    o.wal_dir = "nowhere";
    cr_assert_eq(wal_open(&o, NULL, &w, &err), -ENOENT);
    wal_disk_free(d);
}

Test(wal, trim_keeps_what_is_needed)
{
    struct wal_disk *d = wal_disk_new();
    struct wal *w = create(d);
    struct wal_snapshot s = {100, 1, BYTES_LIT("three members")};
    struct wal_batch mark = {.snapshot = &s};
    struct wal_hard_state hs = {1, 3, 200};
    struct wal_entries e = WAL_ENTRIES_INIT;
    unsigned int before;

    for (uint64_t i = 1; i <= 300; i += 4)
        cr_assert_eq(append(w, i, i + 3, 1, i == 201 ? &hs : NULL, true), 0);
    before = wal_info(w)->segment_count;
    cr_assert_eq(wal_trim(w, 250), 0); /* no marker: a restart needs everything */
    cr_assert_eq(wal_info(w)->segment_count, before);
    cr_assert_eq(wal_append(w, &mark, true), 0);
    cr_assert_eq(wal_trim(w, 250), 0); /* the marker says 100 */
    for (int again = 0; again < 2; again++) {
        cr_assert_lt(wal_info(w)->segment_count, before);
        cr_assert_gt(wal_info(w)->first_index, 50);
        cr_assert_leq(wal_info(w)->first_index, 101);
        expect_entries(w, wal_info(w)->first_index, 300, 1);
        cr_assert_eq(wal_read_entries(w, wal_info(w)->first_index - 1, 300, 1, &e), -ENOENT);
        cr_assert_eq(wal_info(w)->snapshot.index, 100);
        cr_assert_eq(wal_info(w)->snapshot.term, 1);
        cr_assert(bytes_eq(wal_info(w)->snapshot.conf, s.conf));
        cr_assert_eq(wal_info(w)->hard_state.vote, 3);
        wal_close(w);
        wal_disk_crash(d, NULL);
        w = reopen(d);
    }
    s.index = 300;
    cr_assert_eq(wal_append(w, &mark, true), 0);
    cr_assert_eq(wal_trim(w, 301), 0);
    cr_assert_eq(wal_info(w)->segment_count, 1);
    cr_assert_eq(wal_disk_count(d, ".wal"), 1);
    for (int again = 0; again < 2; again++) {
        cr_assert_eq(wal_info(w)->last_index, 300 + 10 * (uint64_t)again);
        cr_assert_eq(append(w, 301, 310, 2, NULL, true), 0);
        wal_close(w);
        w = reopen(d);
        expect_entries(w, 301, 310, 2);
        cr_assert_eq(wal_info(w)->hard_state.commit, 200);
    }
    wal_entries_fini(&e);
    wal_close(w);
    wal_disk_free(d);
}

Test(wal, snapshot_from_a_leader_replaces_the_log)
{
    struct wal_disk *d = wal_disk_new();
    struct wal *w = create(d);
    struct wal_snapshot s = {1000, 7, BYTES_LIT("conf")};
    struct wal_hard_state hs = {7, 0, 1000};
    struct wal_entry next = {1001, 7, 0, BYTES_LIT("x")};
    struct wal_batch b = {.snapshot = &s, .entries = &next, .entry_count = 1, .hard_state = &hs};
    struct wal_entries e = WAL_ENTRIES_INIT;
    uint64_t term;

    cr_assert_eq(append(w, 1, 20, 1, NULL, true), 0);
    cr_assert_eq(wal_append(w, &b, true), 0);
    for (int again = 0; again < 3; again++) {
        cr_assert_eq(wal_info(w)->first_index, 1001);
        cr_assert_eq(wal_info(w)->last_index, 1001);
        cr_assert_eq(wal_info(w)->snapshot.index, 1000);
        cr_assert_eq(wal_entry_term(w, 1000, &term), 0);
        cr_assert_eq(term, 7);
        cr_assert_eq(wal_read_entries(w, 20, 20, 1, &e), -ENOENT);
        cr_assert_eq(wal_read_entries(w, 1001, 2000, 1, &e), 0);
        cr_assert(bytes_eq(e.entries[0].data, next.data));
        cr_assert_not_null(wal_disk_data(d, SNAP "/0000000000000007-00000000000003e8.snap", NULL));
        wal_close(w);
        if (again == 1) /* the file is made again */
            wal_disk_remove(d, SNAP "/0000000000000007-00000000000003e8.snap");
        w = reopen(d);
    }
    wal_entries_fini(&e);
    wal_close(w);
    wal_disk_free(d);
}

Test(wal, only_the_newest_marker_files_stay)
{
    struct wal_disk *d = wal_disk_new();
    struct wal *w = create(d);

    for (uint64_t i = 1; i <= 9; i++) {
        struct wal_snapshot s = {i, 1, BYTES_LIT("conf")};
        struct wal_batch mark = {.snapshot = &s};

        cr_assert_eq(append(w, i, i, 1, NULL, true), 0);
        cr_assert_eq(wal_append(w, &mark, true), 0);
    }
    cr_assert_eq(wal_disk_count(d, ".snap"), WAL_SNAP_KEEP_DEFAULT);
    cr_assert_not_null(wal_disk_data(d, SNAP "/0000000000000001-0000000000000009.snap", NULL));
    wal_close(w);
    wal_disk_free(d);
}

Test(wal, a_failed_write_is_final)
{
    struct wal_disk *d = wal_disk_new();
    struct wal *w = create(d);

    cr_assert_eq(append(w, 1, 3, 1, NULL, true), 0);
    wal_disk_fail_at(d, 2, EIO); /* the write passes, its sync does not */
    cr_assert_eq(append(w, 4, 6, 1, NULL, true), -EIO);
    wal_disk_fail_at(d, 0, 0);
    cr_assert_eq(append(w, 7, 9, 1, NULL, true), -EIO);
    cr_assert_eq(wal_trim(w, 2), -EIO);
    wal_close(w);
    wal_disk_free(d);
}

/* ---- random runs against a model: the state after each batch ---- */

struct state {
    uint64_t first, last;
    uint64_t terms[2048];
    struct wal_hard_state hs;
    uint64_t snap_index, snap_term;
};

struct run {
    struct prng prng;
    struct wal_disk *disk;
    struct wal *w;
    struct state states[512]; /* after batch i; [0] is an empty log */
    size_t count, durable;
};

static bool same(struct wal *w, const struct state *s)
{
    const struct wal_info *i = wal_info(w);
    uint64_t term;

    for (uint64_t n = MAX(i->first_index, s->first); n <= s->last; n++)
        if (wal_entry_term(w, n, &term) != 0 || term != s->terms[n])
            return false;
    return i->last_index == s->last && i->hard_state.term == s->hs.term &&
           i->hard_state.vote == s->hs.vote && i->hard_state.commit == s->hs.commit &&
           i->snapshot.index == s->snap_index && i->snapshot.term == s->snap_term;
}

static void check_entries(struct wal *w, const struct state *s)
{
    uint64_t term;

    cr_assert_leq(wal_info(w)->first_index, s->snap_index + 1);
    for (uint64_t i = MAX(wal_info(w)->first_index, s->first); i <= s->last; i++) {
        cr_assert_eq(wal_entry_term(w, i, &term), 0);
        cr_assert_eq(term, s->terms[i]);
        expect_entries(w, i, i, s->terms[i]);
    }
}

/* One random batch: new entries, an overwritten tail, a vote, a marker, a foreign snapshot. */
static int random_step(struct run *run)
{
    static uint8_t data[16][300];
    struct wal_entry entries[16];
    struct wal_batch b = {.entries = entries};
    struct wal_snapshot snap;
    struct state s = run->states[run->count - 1];
    struct prng *p = &run->prng;
    bool sync = prng_below(p, 3) != 0;
    int r;

    if (prng_below(p, 12) == 0 && s.hs.commit > s.snap_index) {
        uint64_t index = s.snap_index + 1 + prng_below(p, s.hs.commit - s.snap_index);

        if (index >= s.first) {
            snap = (struct wal_snapshot){index, s.terms[index], BYTES_LIT("configuration")};
            b.snapshot = &snap;
        }
    } else if (prng_below(p, 40) == 0) {
        snap = (struct wal_snapshot){s.last + 1 + prng_below(p, 50), s.hs.term + 1, BYTES_LIT("c")};
        b.snapshot = &snap;
        s.last = s.hs.commit = snap.index;
        s.hs.term = snap.term;
        s.first = snap.index + 1;
        b.hard_state = &s.hs;
    }
    if (b.snapshot != NULL) {
        s.snap_index = snap.index;
        s.snap_term = snap.term;
    }
    if (prng_below(p, 4) == 0 && s.last < 1500) {
        s.hs.term++;
        s.hs.vote = prng_below(p, 5);
        b.hard_state = &s.hs;
    }
    if (s.last < 1500 && prng_below(p, 5) != 0) {
        uint64_t at = s.last + 1;

        s.hs.term = MAX(s.hs.term, 1);
        b.hard_state = &s.hs;
        if (prng_below(p, 6) == 0 && s.last > s.hs.commit)
            at = s.hs.commit + 1 + prng_below(p, s.last - s.hs.commit);
        b.entry_count = 1 + (size_t)prng_below(p, 16);
        for (size_t i = 0; i < b.entry_count; i++) {
            s.terms[at + i] = s.hs.term;
            entries[i] = (struct wal_entry){at + i, s.hs.term, (uint16_t)((at + i) % 3),
                                            content(at + i, s.hs.term, data[i], 300)};
        }
        s.last = at + b.entry_count - 1;
    }
    if (b.hard_state != NULL && s.last > s.hs.commit && prng_below(p, 2) == 0)
        s.hs.commit += prng_below(p, s.last - s.hs.commit + 1);
    if (b.hard_state == NULL && b.snapshot == NULL && b.entry_count == 0)
        return 0;
    run->states[run->count] = s;
    r = wal_append(run->w, &b, sync);
    run->count++;
    if (r == 0 && sync)
        run->durable = run->count - 1;
    if (r == 0 && prng_below(p, 15) == 0)
        r = wal_trim(run->w, prng_below(p, s.snap_index + 2));
    return r;
}

static void recover_and_check(struct run *run, const char *how, uint64_t seed)
{
    bool found = false;

    run->w = reopen(run->disk);
    for (size_t i = run->count; i-- > run->durable && !found;)
        if (same(run->w, &run->states[i])) {
            found = true;
            check_entries(run->w, &run->states[i]);
            run->states[0] = run->states[i];
        }
    cr_assert(found, "seed %" PRIu64 " after %s: a state that never was, or lost", seed, how);
    run->count = 1;
    run->durable = 0;
}

static void random_run(uint64_t seed)
{
    struct run *run = xcalloc(1, sizeof(*run));

    prng_init(&run->prng, seed);
    run->disk = wal_disk_new();
    run->w = create(run->disk);
    run->states[0].first = 1;
    run->count = 1;
    for (int life = 0; life < 6; life++) {
        unsigned int steps = (unsigned int)prng_below(&run->prng, 60);
        bool fails = prng_below(&run->prng, 2) == 0;
        int r = 0;

        if (fails)
            wal_disk_fail_at(run->disk, 1 + prng_below(&run->prng, 150), EIO);
        for (unsigned int i = 0; i < steps && r == 0; i++)
            r = random_step(run);
        cr_assert(r == 0 || r == -EIO);
        if (r == 0)
            check_entries(run->w, &run->states[run->count - 1]);
        wal_close(run->w);
        wal_disk_crash(run->disk, prng_below(&run->prng, 4) == 0 ? NULL : &run->prng);
        recover_and_check(run, "a crash", seed);
    }
    wal_close(run->w);
    wal_disk_free(run->disk);
    free(run);
}

Test(wal, random_runs_with_crashes)
{
    const char *more = getenv("WAL_TEST_SEEDS");
    uint64_t seeds = more != NULL ? strtoull(more, NULL, 10) : 300;

    for (uint64_t seed = 1; seed <= seeds; seed++)
        random_run(seed);
}

/* The same on the real file system, in the current directory. */
Test(wal, real_files)
{
    char dir[] = "test_wal.XXXXXX", wal_dir[64], snap_dir[64], cmd[128];
    struct wal_options o = {.segment_bytes = 1 << 20};
    struct wal_snapshot s = {3000, 4, BYTES_LIT("conf")};
    struct wal_batch mark = {.snapshot = &s};
    struct wal_error err = {""};
    struct wal *w;

    cr_assert_not_null(mkdtemp(dir));
    snprintf(wal_dir, sizeof(wal_dir), "%s/wal", dir);
    snprintf(snap_dir, sizeof(snap_dir), "%s/snap", dir);
    o.wal_dir = wal_dir;
    o.snap_dir = snap_dir;
    cr_assert_eq(wal_exists(&o), 0);
    cr_assert_eq(wal_create(&o, &ids, NULL, &w, &err), 0, "%s", err.text);
    for (uint64_t i = 1; i <= 20000; i += 50)
        cr_assert_eq(append(w, i, i + 49, 4, NULL, i % 2000 == 1), 0);
    cr_assert_eq(wal_append(w, &mark, true), 0);
    cr_assert_eq(wal_trim(w, 2990), 0);
    wal_close(w);
    cr_assert_eq(wal_exists(&o), 1);
    cr_assert_eq(wal_open(&o, &ids, &w, &err), 0, "%s", err.text);
    cr_assert_eq(wal_info(w)->last_index, 20000);
    expect_entries(w, wal_info(w)->first_index, 20000, 4);
    wal_close(w);
    snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
    cr_assert_eq(system(cmd), 0);
}
