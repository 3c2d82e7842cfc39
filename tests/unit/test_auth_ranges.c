#include <criterion/criterion.h>

#include "lib/util/macros.h"
#include "lib/util/prng.h"
#include "stored/auth/auth_ranges.h"

struct interval {
    const char *key, *range_end; /* range_end "0": open ended, since a literal cannot hold it */
};

static struct bytes end_of(const char *text)
{
    return text[0] == '0' ? bytes_of("\0", 1) : bytes_str(text);
}

struct row {
    struct interval granted[4]; /* key NULL ends */
    struct interval asked;
    bool covered;
};

static const struct row rows[] = {
    /* nothing granted covers nothing */
    {{{NULL, NULL}}, {"a", ""}, false},
    {{{NULL, NULL}}, {"a", "0"}, false},
    /* one key */
    {{{"a", ""}}, {"a", ""}, true},
    {{{"a", ""}}, {"b", ""}, false},
    {{{"a", ""}}, {"aa", ""}, false},
    {{{"a", ""}}, {"a", "b"}, false},
    {{{"a", ""}}, {"a", "0"}, false},
    /* a range */
    {{{"a", "c"}}, {"a", ""}, true},
    {{{"a", "c"}}, {"bzz", ""}, true},
    {{{"a", "c"}}, {"c", ""}, false},
    {{{"a", "c"}}, {"a", "c"}, true},
    {{{"a", "c"}}, {"a", "c0"}, false},
    {{{"b", "c"}}, {"a", "c"}, false},
    {{{"a", "c"}}, {"b", "0"}, false},
    /* the union of touching and of overlapping ones */
    {{{"a", "b"}, {"b", "c"}}, {"a", "c"}, true},
    {{{"b", "c"}, {"a", "b"}}, {"a", "c"}, true},
    {{{"a", "b"}, {"c", "d"}}, {"a", "d"}, false},
    {{{"a", "b"}, {"c", "d"}}, {"b", ""}, false},
    {{{"a", "c"}, {"b", "d"}}, {"a", "d"}, true},
    {{{"a", "z"}, {"b", "c"}}, {"a", "z"}, true},
    {{{"a", "b"}, {"b", ""}}, {"a", "b"}, true},
    {{{"a", "b"}, {"b", ""}}, {"a", "ba"}, false},
    /* open ended */
    {{{"m", "0"}}, {"m", "0"}, true},
    {{{"m", "0"}}, {"zzz", ""}, true},
    {{{"m", "0"}}, {"l", "0"}, false},
    {{{"a", "m"}, {"m", "0"}}, {"a", "0"}, true},
    {{{"a", "0"}, {"b", "c"}}, {"c", "0"}, true},
    /* intervals that hold nothing: neither granted nor asked for */
    {{{"z", "a"}}, {"z", ""}, false},
    {{{"z", "a"}}, {"b", ""}, false},
    {{{"a", "z"}}, {"c", "b"}, false},
    {{{"a", "z"}}, {"c", "c"}, false},
};

Test(auth_ranges, cover_what_was_granted_and_nothing_else)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct auth_ranges set = {0};

        for (size_t k = 0; k < 4 && rows[i].granted[k].key != NULL; k++)
            auth_ranges_add(&set, bytes_str(rows[i].granted[k].key),
                            end_of(rows[i].granted[k].range_end));
        auth_ranges_merge(&set);
        cr_expect_eq(auth_ranges_covers(&set, bytes_str(rows[i].asked.key),
                                        end_of(rows[i].asked.range_end)),
                     rows[i].covered, "row %zu", i);
        auth_ranges_fini(&set);
    }
}

/* One-letter keys: a range is a set of letters, so cover is inclusion of sets. */
enum { LETTERS = 12 };

static uint32_t letters_of(unsigned int from, unsigned int to, bool open)
{
    uint32_t set = 0;

    for (unsigned int i = from; i < (open ? LETTERS : to); i++)
        set |= 1u << i;
    return set;
}

Test(auth_ranges, agree_with_sets_of_letters)
{
    struct prng random;

    prng_init(&random, 7);
    for (int round = 0; round < 3000; round++) {
        struct auth_ranges set = {0};
        uint32_t granted = 0, asked;
        bool open_granted = false;
        uint8_t from, to;
        bool open;

        for (uint64_t n = prng_below(&random, 5); n > 0; n--) {
            from = (uint8_t)prng_below(&random, LETTERS);
            to = (uint8_t)(from + 1 + prng_below(&random, (uint64_t)(LETTERS - from)));
            open = prng_below(&random, 8) == 0;
            auth_ranges_add(&set, bytes_of((uint8_t[]){(uint8_t)('a' + from)}, 1),
                            open ? bytes_of("\0", 1)
                                 : bytes_of((uint8_t[]){(uint8_t)('a' + to)}, 1));
            granted |= letters_of(from, to, open);
            open_granted = open_granted || open;
        }
        auth_ranges_merge(&set);
        from = (uint8_t)prng_below(&random, LETTERS);
        to = (uint8_t)(from + 1 + prng_below(&random, (uint64_t)(LETTERS - from)));
        open = prng_below(&random, 6) == 0;
        asked = letters_of(from, to, open);
        cr_assert_eq(auth_ranges_covers(&set, bytes_of((uint8_t[]){(uint8_t)('a' + from)}, 1),
                                        open ? bytes_of("\0", 1)
                                             : bytes_of((uint8_t[]){(uint8_t)('a' + to)}, 1)),
                     (asked & ~granted) == 0 && (!open || open_granted), "round %d", round);
        auth_ranges_fini(&set);
    }
}
