/* Versions a cluster may be downgraded to. */
#include <criterion/criterion.h>

#include "lib/proto/downgrade.h"
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"

Test(downgrade, targets)
{
    static const struct {
        const char *text, *target;
    } rows[] = {
        {"3.6", "3.6.0"},     {"3.6.0", "3.6.0"}, {"3.6.12", "3.6.0"}, {"3.6.0-rc.1", "3.6.0"},
        {"3.6.0+git", "3.6.0"}, {"", NULL},       {"3", NULL},         {"3.", NULL},
        {"3.6.", NULL},       {"x", NULL},        {"3.x", NULL},       {"3.6.x", NULL},
        {"3.06.0", NULL},     {"-3.6.0", NULL},   {"3.6.0.1", NULL},   {"3.6.0-", NULL},
        {"v3.6.0", NULL},     {" 3.6.0", NULL},   {"3.99999999999.0", NULL},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        char target[DOWNGRADE_TEXT_BYTES] = "";
        int out = downgrade_target(bytes_str(rows[i].text), target);

        cr_expect_eq(out, rows[i].target != NULL ? OUT_OK : OUT_WRONG_DOWNGRADE_VERSION_FORMAT,
                     "%s: %s", rows[i].text, outcome_name(out));
        if (rows[i].target != NULL)
            cr_expect_str_eq(target, rows[i].target);
    }
}

Test(downgrade, checks)
{
    static const struct {
        const char *cluster;
        bool under_way;
        const char *target;
        int expected;
    } rows[] = {
        {"3.7.0", false, "3.6.0", OUT_OK},
        {"3.7.0", true, "3.6.0", OUT_DOWNGRADE_IN_PROGRESS},
        {"3.7.0", true, "3.5.0", OUT_INVALID_DOWNGRADE_TARGET},
        {"3.7.0", false, "3.7.0", OUT_INVALID_DOWNGRADE_TARGET},
        {"3.7.0", false, "3.8.0", OUT_INVALID_DOWNGRADE_TARGET},
        {"3.7.0", false, "2.6.0", OUT_INVALID_DOWNGRADE_TARGET},
        {"3.7.0", false, "3.6.1", OUT_INVALID_DOWNGRADE_TARGET},
        {"3.7.0", false, "what", OUT_WRONG_DOWNGRADE_VERSION_FORMAT},
        {"", false, "3.6.0", OUT_CLUSTER_VERSION_UNAVAILABLE},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        int out = downgrade_check(bytes_str(rows[i].cluster), rows[i].under_way,
                                  bytes_str(rows[i].target));

        cr_expect_eq(out, rows[i].expected, "row %zu: %s", i, outcome_name(out));
    }
    cr_expect(bytes_eq(downgrade_shown(BYTES_LIT("3.7.0")), BYTES_LIT("3.7")));
    cr_expect(bytes_eq(downgrade_shown(BYTES_LIT("3.7")), BYTES_LIT("3.7")));
    cr_expect_eq(downgrade_shown(BYTES_EMPTY).len, 0);
}
