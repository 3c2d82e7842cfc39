#include <criterion/criterion.h>

#include <stdio.h>
#include <string.h>
#include "stored/kv/kv_cache.h"

enum { BUDGET = 8 << 20, RECORD = 300 };

static void add(struct kv_cache *c, int64_t revision)
{
    memset(kv_cache_add(c, revision, 0, RECORD, (uint64_t)revision), (int)(revision & 0xff), RECORD);
}

static bool has(struct kv_cache *c, int64_t revision)
{
    struct bytes record;

    if (!kv_cache_get(c, revision, 0, &record))
        return false;
    cr_assert_eq(record.len, RECORD);
    for (size_t i = 0; i < record.len; i++)
        cr_assert_eq(record.data[i], revision & 0xff);
    return true;
}

/* One key written over and over beside one written once: what is current stays, memory does not
 * grow with the history. */
Test(kv_cache, a_hot_key_takes_little)
{
    struct kv_cache c;

    kv_cache_init(&c, BUDGET);
    add(&c, 1); /* never superseded */
    for (int64_t revision = 2; revision <= 100000; revision++) {
        add(&c, revision);
        if (revision > 2)
            kv_cache_superseded(&c, revision - 1, 0, RECORD);
        if (revision % 100 == 0)
            kv_cache_written(&c, (uint64_t)revision);
        cr_assert(c.bytes <= BUDGET / 8);
    }
    cr_assert(has(&c, 1));
    cr_assert(has(&c, 100000));
    kv_cache_fini(&c);
}

/* Superseded or not: until the engine has it this is the only copy. */
Test(kv_cache, what_is_not_written_stays)
{
    struct kv_cache c;

    kv_cache_init(&c, BUDGET);
    for (int64_t revision = 1; revision <= 50000; revision++) {
        add(&c, revision);
        if (revision > 1)
            kv_cache_superseded(&c, revision - 1, 0, RECORD);
    }
    for (int64_t revision = 1; revision <= 50000; revision++)
        cr_assert(has(&c, revision), "%ld", (long)revision);
    kv_cache_written(&c, 50000);
    cr_assert(c.bytes <= BUDGET);
    cr_assert(has(&c, 50000));
    kv_cache_fini(&c);
}

/* Many keys, each written again and again: all current ones are there while they fit. */
Test(kv_cache, current_records_survive_their_segments)
{
    enum { KEYS = 5000 };
    static int64_t newest[KEYS];
    struct kv_cache c;

    kv_cache_init(&c, BUDGET);
    for (int64_t revision = 1; revision <= 20 * KEYS; revision++) {
        size_t key = (size_t)(revision * 7919) % KEYS;

        add(&c, revision);
        if (newest[key] != 0)
            kv_cache_superseded(&c, newest[key], 0, RECORD);
        newest[key] = revision;
        kv_cache_written(&c, (uint64_t)revision);
    }
    for (size_t key = 0; key < KEYS; key++)
        cr_assert(has(&c, newest[key]));
    cr_assert(c.bytes <= BUDGET);
    kv_cache_fini(&c);
}

/* Segments come and go: their numbers are used again, and every record is found or known to be gone. */
Test(kv_cache, turnover)
{
    enum { SMALL = 1 << 20, COUNT = 200000 };
    struct kv_cache c;
    struct bytes record;
    size_t found = 0;

    kv_cache_init(&c, SMALL);
    for (int64_t revision = 1; revision <= COUNT; revision++) {
        size_t len = revision % 1000 == 0 ? SMALL / 4 : 20;
        uint8_t *p = kv_cache_add(&c, revision, (uint32_t)revision % 3, len, (uint64_t)revision);

        memset(p, (int)(revision & 0xff), len);
        if (revision % 5 == 0)
            kv_cache_get(&c, revision - 4, (uint32_t)(revision - 4) % 3, &record);
        kv_cache_written(&c, (uint64_t)revision);
    }
    for (int64_t revision = 1; revision <= COUNT; revision++) {
        if (!kv_cache_get(&c, revision, (uint32_t)revision % 3, &record))
            continue;
        found++;
        cr_assert_eq(record.len, revision % 1000 == 0 ? SMALL / 4 : 20);
        cr_assert_eq(record.data[0], revision & 0xff);
        cr_assert_eq(record.data[record.len - 1], revision & 0xff);
    }
    cr_expect_eq(found, c.count);
    cr_expect(found > 1000);
    cr_expect(c.segment_cap < 1000);
    kv_cache_fini(&c);
}

Test(kv_cache, superseding_the_unknown_is_nothing)
{
    struct kv_cache c;

    kv_cache_init(&c, BUDGET);
    kv_cache_superseded(&c, 7, 0, RECORD);
    add(&c, 8);
    kv_cache_superseded(&c, 8, 0, RECORD);
    kv_cache_superseded(&c, 8, 0, RECORD);
    cr_assert(has(&c, 8));
    kv_cache_fini(&c);
}
