/* gatewayd/large_events: what is alike is kept once, and each watcher gets exactly its own parts. */
#include <criterion/criterion.h>
#include <stdlib.h>

#include "gatewayd/large_events.h"
#include "lib/loop/loop.h"
#include "lib/util/buf.h"
#include "lib/util/prng.h"
#include "lib/util/shared_bytes.h"

static struct loop *loop;
static struct large_events *all;

static void begin(void)
{
    loop = loop_new();
    all = large_events_new(loop);
}

static void end(void)
{
    large_events_free(all);
    loop_free(loop);
}

TestSuite(large_events, .init = begin, .fini = end);

static void add(struct large_place *p, const char *parts)
{
    for (; *parts != '\0'; parts++)
        large_place_add(p, bytes_of(parts, 1));
}

static void check(const struct large_place *p, const char *want)
{
    size_t count;
    struct shared_bytes *const *blocks = large_place_blocks(p, &count);

    cr_assert_eq(count, strlen(want));
    for (size_t i = 0; i < count; i++)
        cr_assert(bytes_eq(shared_bytes_get(blocks[i]), bytes_of(want + i, 1)), "part %zu", i);
}

Test(large_events, keeps_once_what_is_alike)
{
    static const struct {
        const char *what, *a, *b;
        int64_t revision_b;
        size_t bytes;
    } rows[] = {
        {"the same", "abc", "abc", 1, 3},
        {"the second has more", "ab", "abcd", 1, 4},
        {"the second has less", "abcd", "ab", 1, 4},
        {"another from the start", "abc", "xbc", 1, 6},
        {"another in the middle", "abc", "axc", 1, 6},
        {"another at the end", "abc", "abx", 1, 6},
        {"another revision", "abc", "abc", 2, 6},
        {"one without any", "abc", "", 1, 3},
        {"none at all", "", "", 1, 0},
    };

    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct large_place *a = large_place_new(all, 1);
        struct large_place *b = large_place_new(all, rows[i].revision_b);

        add(a, rows[i].a);
        add(b, rows[i].b);
        check(a, rows[i].a);
        check(b, rows[i].b);
        cr_assert_eq(large_events_bytes(all), rows[i].bytes, "%s", rows[i].what);
        large_place_free(a);
        check(b, rows[i].b);
        large_place_free(b);
        cr_assert_eq(large_events_bytes(all), 0, "%s", rows[i].what);
    }
}

Test(large_events, a_client_that_has_not_taken_it_keeps_it_for_those_who_come_later)
{
    struct large_place *a = large_place_new(all, 1);
    struct large_place *late = large_place_new(all, 1);
    struct shared_bytes *queued[2];
    size_t count;

    add(a, "ab");
    for (size_t i = 0; i < 2; i++)
        queued[i] = shared_bytes_ref(large_place_blocks(a, &count)[i]);
    large_place_free(a);
    cr_assert_eq(large_events_bytes(all), 2);
    add(late, "ab");
    cr_assert_eq(large_place_blocks(late, &count)[1], queued[1], "the same bytes");
    large_place_free(late);
    for (size_t i = 0; i < 2; i++)
        shared_bytes_unref(queued[i]);
    while (large_events_bytes(all) > 0) /* gone with one of the next looks */
        loop_run_once(loop, 2000);
}

Test(large_events, many_at_once_each_in_its_own_pace)
{
    enum { PLACES = 40, PARTS = 12, KINDS = 3 };
    static const char *const kinds[KINDS] = {"abcdefghijkl", "abcdefGHIJKL", "ABcdefghijkl"};
    struct large_place *places[PLACES];
    size_t at[PLACES] = {0}, left = PLACES * PARTS;
    struct prng prng;

    prng_init(&prng, 3);
    for (size_t i = 0; i < PLACES; i++)
        places[i] = large_place_new(all, 1);
    while (left > 0) {
        size_t i = prng_below(&prng, PLACES);
        char want[PARTS + 1] = "";

        if (at[i] == PARTS)
            continue;
        large_place_add(places[i], bytes_of(kinds[i % KINDS] + at[i]++, 1));
        memcpy(want, kinds[i % KINDS], at[i]);
        check(places[i], want);
        left--;
    }
    cr_assert_leq(large_events_bytes(all), 2 * KINDS * PARTS);
    for (size_t i = 0; i < PLACES; i++)
        large_place_free(places[i]);
    cr_assert_eq(large_events_bytes(all), 0);
}
