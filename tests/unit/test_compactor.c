/* Automatic compaction on a clock turned by hand, against the schedule etcd documents for it. */
#include <criterion/criterion.h>
#include <errno.h>

#include "lib/util/macros.h"
#include "stored/compactor.h"

#define SECOND UINT64_C(1000000000)
#define HOUR (3600 * SECOND)

Test(compactor, retention_is_read_as_etcd_reads_it)
{
    static const struct {
        const char *mode, *retention;
        int result;
        enum compactor_mode expected;
        uint64_t period_ns;
        int64_t keep;
    } rows[] = {
        {"periodic", "0", 0, COMPACTOR_OFF, 0, 0},
        {"periodic", "", 0, COMPACTOR_OFF, 0, 0},
        {"periodic", "1", 0, COMPACTOR_PERIODIC, HOUR, 0},
        {"periodic", "24", 0, COMPACTOR_PERIODIC, 24 * HOUR, 0},
        {"periodic", "5s", 0, COMPACTOR_PERIODIC, 5 * SECOND, 0},
        {"periodic", "1h30m", 0, COMPACTOR_PERIODIC, HOUR + HOUR / 2, 0},
        {"periodic", "0s", 0, COMPACTOR_OFF, 0, 0},
        {"periodic", "99999999999", -EINVAL, COMPACTOR_OFF, 0, 0},
        {"periodic", "1x", -EINVAL, COMPACTOR_OFF, 0, 0},
        {"periodic", "-1", -EINVAL, COMPACTOR_OFF, 0, 0},
        {"periodic", " 1", -EINVAL, COMPACTOR_OFF, 0, 0},
        {"revision", "1000", 0, COMPACTOR_REVISION, 0, 1000},
        {"revision", "0", 0, COMPACTOR_OFF, 0, 0},
        {"revision", "1us", 0, COMPACTOR_REVISION, 0, 1000},
        {"revision", "many", -EINVAL, COMPACTOR_OFF, 0, 0},
        {"weekly", "1", -EINVAL, COMPACTOR_OFF, 0, 0},
        {"", "1", -EINVAL, COMPACTOR_OFF, 0, 0},
    };

    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        struct compactor c;
        int r = compactor_init(&c, rows[i].mode, rows[i].retention, 0);

        cr_expect_eq(r, rows[i].result, "row %zu", i);
        cr_expect_eq(c.mode, rows[i].expected, "row %zu", i);
        cr_expect_eq(c.period_ns, rows[i].period_ns, "row %zu", i);
        cr_expect_eq(c.keep_revisions, rows[i].keep, "row %zu", i);
        compactor_fini(&c);
    }
}

struct run {
    struct compactor c;
    uint64_t now, every;
    int64_t revision, compacted;
    bool leader, fails;
};

static void start(struct run *r, const char *mode, const char *retention)
{
    *r = (struct run){.revision = 1, .leader = true};
    cr_assert_eq(compactor_init(&r->c, mode, retention, 0), 0);
    r->every = compactor_interval_ns(&r->c);
    cr_assert_gt(r->every, 0);
}

/* One tick, and what it compacts at takes effect unless the run fails. */
static int64_t tick(struct run *r)
{
    int64_t at = compactor_tick(&r->c, r->now, r->revision, r->compacted, r->leader);

    if (at != 0 && !r->fails)
        r->compacted = at;
    r->now += r->every;
    r->revision += 10;
    return at;
}

Test(compactor, periodic_first_after_a_period_then_every_period)
{
    struct run r;

    start(&r, "periodic", "30m");
    cr_assert_eq(r.every, HOUR / 20);
    for (int i = 0; i < 10; i++) /* at 0, 3, ... 27 minutes */
        cr_assert_eq(tick(&r), 0, "tick %d", i);
    cr_assert_eq(tick(&r), 1); /* half an hour: as it was at the start */
    for (int i = 0; i < 9; i++)
        cr_assert_eq(tick(&r), 0, "tick %d", i);
    cr_assert_eq(tick(&r), 91); /* one note short of ten, as the window moves with each */
    compactor_fini(&r.c);
}

Test(compactor, a_long_period_compacts_every_hour)
{
    struct run r;

    start(&r, "periodic", "24");
    cr_assert_eq(r.every, HOUR / 10);
    for (int i = 0; i < 240; i++)
        cr_assert_eq(tick(&r), 0, "tick %d", i);
    cr_assert_eq(tick(&r), 1);
    for (int i = 0; i < 9; i++)
        cr_assert_eq(tick(&r), 0);
    cr_assert_gt(tick(&r), 80);
    compactor_fini(&r.c);
}

Test(compactor, what_did_not_change_or_is_not_ours_is_left)
{
    struct run r;

    start(&r, "periodic", "10s");
    r.leader = false;
    for (int i = 0; i < 40; i++)
        cr_assert_eq(tick(&r), 0);
    r.leader = true; /* it noted revisions all the time */
    cr_assert_eq(tick(&r), 291);
    for (int i = 0; i < 9; i++)
        cr_assert_eq(tick(&r), 0);
    cr_assert_gt(tick(&r), 291);
    compactor_fini(&r.c);

    start(&r, "periodic", "10s");
    for (int i = 0; i < 60; i++) {
        int64_t at = tick(&r);

        cr_assert(at == 0 || (at == 1 && r.now <= 11 * SECOND), "tick %d", i);
        r.revision = 1;
    }
    compactor_fini(&r.c);
}

Test(compactor, a_failed_attempt_is_made_again_at_the_next_note)
{
    struct run r;

    start(&r, "periodic", "10s");
    r.fails = true;
    for (int i = 0; i < 10; i++)
        cr_assert_eq(tick(&r), 0);
    cr_assert_eq(tick(&r), 1);
    cr_assert_eq(tick(&r), 1);
    r.fails = false;
    cr_assert_gt(tick(&r), 1);
    cr_assert_eq(tick(&r), 0);
    compactor_fini(&r.c);
}

Test(compactor, revisions)
{
    struct run r;

    start(&r, "revision", "100");
    cr_assert_eq(r.every, 300 * SECOND);
    r.revision = 50;
    cr_assert_eq(tick(&r), 0);
    r.revision = 100;
    cr_assert_eq(tick(&r), 0);
    r.revision = 101;
    cr_assert_eq(tick(&r), 1);
    r.revision = 101;
    cr_assert_eq(tick(&r), 0); /* nothing changed */
    r.revision = 500;
    r.leader = false;
    cr_assert_eq(tick(&r), 0);
    r.leader = true;
    r.revision = 500;
    cr_assert_eq(tick(&r), 400);
    compactor_fini(&r.c);
}
