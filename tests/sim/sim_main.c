/*
 * conclave-sim: runs seeds, shows one, or shows that planted mistakes are found.
 * Each seed runs in a process of its own, so a failed assertion is one failed seed.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "lib/util/sim_bug.h"
#include "tests/sim/sim.h"

enum { CHECK_SEEDS = 500, SELF_TEST_SEEDS = 600 };

enum sim_bug sim_bug_active;

static const char *const bug_names[SIM_BUG_COUNT] = {
    [SIM_BUG_NONE] = "none",
    [SIM_BUG_ACK_BEFORE_SYNC] = "ack-before-sync",
    [SIM_BUG_FORGET_VOTE] = "forget-vote",
    [SIM_BUG_COMMIT_OLD_TERM] = "commit-old-term",
    [SIM_BUG_APPLY_TWICE] = "apply-twice",
    [SIM_BUG_SKIP_ENTRY] = "skip-entry",
    [SIM_BUG_STALE_READ_INDEX] = "stale-read-index",
    [SIM_BUG_TWO_CONF_CHANGES] = "two-conf-changes",
    [SIM_BUG_KEEP_CONFLICT] = "keep-conflict",
    [SIM_BUG_SNAPSHOT_NO_CONF] = "snapshot-no-conf",
    [SIM_BUG_TORN_TAIL] = "torn-tail",
    [SIM_BUG_LEASE_REGRANTED] = "lease-regranted",
    [SIM_BUG_LEASE_NO_BARRIER] = "lease-no-barrier",
    [SIM_BUG_LEASE_NO_CLEAR] = "lease-no-clear",
    [SIM_BUG_LEASE_CLOCK_AHEAD] = "lease-clock-ahead",
    [SIM_BUG_LEASE_FULL_TTL] = "lease-full-ttl",
    [SIM_BUG_LEASE_KEY_LEFT] = "lease-key-left",
    [SIM_BUG_AUTH_OLD_RIGHTS] = "auth-old-rights",
    [SIM_BUG_AUTH_KEPT_RANGES] = "auth-kept-ranges",
};

static const char *const kind_names[SIM_KIND_COUNT] = {"any", "mixed", "churn", "members",
                                                        "leases", "auth"};

/* The kind of run in which a mistake shows soonest. */
static const enum sim_kind bug_kinds[SIM_BUG_COUNT] = {
    [SIM_BUG_FORGET_VOTE] = SIM_CHURN,
    [SIM_BUG_COMMIT_OLD_TERM] = SIM_CHURN,
    [SIM_BUG_TWO_CONF_CHANGES] = SIM_MEMBERS,
    [SIM_BUG_SNAPSHOT_NO_CONF] = SIM_MEMBERS,
    [SIM_BUG_LEASE_REGRANTED] = SIM_LEASES,
    [SIM_BUG_LEASE_NO_BARRIER] = SIM_LEASES,
    [SIM_BUG_LEASE_NO_CLEAR] = SIM_LEASES,
    [SIM_BUG_LEASE_CLOCK_AHEAD] = SIM_LEASES,
    [SIM_BUG_LEASE_FULL_TTL] = SIM_LEASES,
    [SIM_BUG_LEASE_KEY_LEFT] = SIM_LEASES,
    [SIM_BUG_AUTH_OLD_RIGHTS] = SIM_AUTH,
    [SIM_BUG_AUTH_KEPT_RANGES] = SIM_AUTH,
};

static int one(uint64_t seed, const struct sim_options *o)
{
    struct sim *s;
    int r = sim_run(seed, o, &s);

    if (r != 0)
        fprintf(stderr, "seed %" PRIu64 ": %s\n", seed, s->why);
    else if (!o->quiet)
        printf("seed %" PRIu64 ": ok, %" PRIu64 " steps, %" PRIu64 " agreed, %" PRIu64
               " done (%" PRIu64 " reads), %" PRIu64 " refused, %" PRIu64 " unknown, %" PRIu64
               " terms led, %" PRIu64 " crashes, %" PRIu64 " snapshots, %" PRIu64 " changes\n",
               seed, s->steps, s->log_last, s->done_count, s->read_count, s->refused_count,
               s->unknown_count, s->elections, s->crashes, s->snapshots_installed, s->conf_count);
    sim_free(s);
    return r;
}

/* In a process of its own; silent: what it complains of is expected. */
static bool seed_is_clean(uint64_t seed, const struct sim_options *o, bool silent)
{
    int status = 0;
    pid_t pid;

    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        if (silent && freopen("/dev/null", "w", stderr) == NULL)
            _exit(2);
        status = one(seed, o);
        fflush(stdout);
        _exit(status);
    }
    if (pid < 0 || waitpid(pid, &status, 0) != pid) {
        perror("fork");
        exit(2);
    }
    if (WIFSIGNALED(status) && !silent)
        fprintf(stderr, "seed %" PRIu64 ": %s\n", seed, strsignal(WTERMSIG(status)));
    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static int range(uint64_t first, uint64_t last, const struct sim_options *o)
{
    uint64_t bad = 0;

    for (uint64_t seed = first; seed <= last; seed++)
        bad += !seed_is_clean(seed, o, false);
    printf("%" PRIu64 " seeds, %" PRIu64 " failed\n", last - first + 1, bad);
    return bad != 0;
}

static int usage(void)
{
    fprintf(stderr, "usage: conclave-sim [--bug NAME] [--kind any|mixed|churn|members|leases|auth] [--quiet]\n"
                    "           (--seed N [--trace] [--until MS] | --seeds A..B | "
                    "--self-test [SEEDS])\nbugs:");
    for (int i = 1; i < SIM_BUG_COUNT; i++)
        fprintf(stderr, " %s", bug_names[i]);
    fprintf(stderr, "\nwithout arguments: %d seeds, then the self-test\n", CHECK_SEEDS);
    return 2;
}

/* Each planted mistake must be found within this many seeds. */
static int self_test(uint64_t limit)
{
    struct sim_options o = {.quiet = true};
    int missed = 0;

    if (sim_bug_active != SIM_BUG_NONE)
        return usage();

    for (int bug = 1; bug < SIM_BUG_COUNT; bug++) {
        uint64_t seed = 1;

        sim_bug_active = (enum sim_bug)bug;
        o.kind = bug_kinds[bug];
        while (seed <= limit && seed_is_clean(seed, &o, true))
            seed++;
        if (seed > limit)
            printf("%-18s NOT FOUND in %" PRIu64 " seeds\n", bug_names[bug], limit);
        else
            printf("%-18s found by seed %" PRIu64 " (%s)\n", bug_names[bug], seed,
                   kind_names[o.kind]);
        missed += seed > limit;
    }
    sim_bug_active = SIM_BUG_NONE;
    return missed != 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"seed", required_argument, NULL, 's'},
        {"seeds", required_argument, NULL, 'r'},
        {"trace", no_argument, NULL, 't'},
        {"bug", required_argument, NULL, 'b'},
        {"quiet", no_argument, NULL, 'q'},
        {"until", required_argument, NULL, 'u'},
        {"self-test", optional_argument, NULL, 'S'},
        {"kind", required_argument, NULL, 'k'},
        {NULL, 0, NULL, 0},
    };
    struct sim_options o = {0};
    uint64_t first = 0, last = 0, test_limit = 0;
    int c;

    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 's':
            first = strtoull(optarg, NULL, 10);
            break;
        case 'r':
            if (sscanf(optarg, "%" SCNu64 "..%" SCNu64, &first, &last) != 2 || last < first)
                return usage();
            break;
        case 't':
            o.trace = true;
            break;
        case 'q':
            o.quiet = true;
            break;
        case 'u':
            o.stop_at = strtoull(optarg, NULL, 10) * MS;
            break;
        case 'S':
            test_limit = optarg != NULL ? strtoull(optarg, NULL, 10) : SELF_TEST_SEEDS;
            break;
        case 'k':
            while (o.kind < SIM_KIND_COUNT && strcmp(kind_names[o.kind], optarg) != 0)
                o.kind++;
            if (o.kind == SIM_KIND_COUNT)
                return usage();
            break;
        case 'b':
            for (int i = 1; i < SIM_BUG_COUNT; i++)
                if (strcmp(bug_names[i], optarg) == 0)
                    sim_bug_active = (enum sim_bug)i;
            if (sim_bug_active == SIM_BUG_NONE)
                return usage();
            break;
        default:
            return usage();
        }
    }
    if (test_limit != 0)
        return self_test(test_limit);
    if (last != 0)
        return range(first, last, &o);
    if (first != 0)
        return one(first, &o);
    if (argc > 1)
        return usage();
    o.quiet = true;
    return range(1, CHECK_SEEDS, &o) != 0 || self_test(SELF_TEST_SEEDS) != 0;
}
