/*
 * The table of settings and the daemons' own tables of fields belong together: what a daemon reads is
 * handed to it, values the supervisor accepts are accepted there, and what is called active has
 * somebody who reads it.
 */
#include <criterion/criterion.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "gatewayd/gatewayd.h"
#include "lib/conf/conf.h"
#include "lib/util/xmalloc.h"
#include "raftd/raftd.h"
#include "stored/stored.h"
#include "supervisor/settings.h"

static const struct {
    const char *name;
    unsigned int daemon;
    const struct conf_field *fields;
    size_t size;
} daemons[] = {
    {"raftd", FOR_RAFTD, raftd_conf_fields, sizeof(struct raftd_conf)},
    {"stored", FOR_STORED, stored_conf_fields, sizeof(struct stored_conf)},
    {"gatewayd", FOR_GATEWAYD, gatewayd_conf_fields, sizeof(struct gatewayd_conf)},
};

/* The supervisor adds these itself, per process. */
static bool is_per_process(const char *name)
{
    return strcmp(name, "gateway-index") == 0;
}

/* Active without a daemon that reads them: the supervisor acts on them, or lib/daemon does. */
static bool is_for_supervisor(const char *name)
{
    static const char *const names[] = {
        "name",       "listen-client-urls", "listen-metrics-urls", "socket-reuse-port",
        "logger",     "log-outputs",        "log-output",          "log-level",
        "log-format", "debug",              "runtime-dir",         "child-watchdog-timeout",
        "config-file", "version",           "auto-tls",            "self-signed-cert-validity",
        "listen-client-http-urls",
    };

    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        if (strcmp(names[i], name) == 0)
            return true;
    }
    return false;
}

static bool has_field(const struct conf_field *fields, const char *name)
{
    for (const struct conf_field *f = fields; f->name != NULL; f++) {
        if (strcmp(f->name, name) == 0)
            return true;
    }
    return false;
}

Test(settings_daemons, what_a_daemon_reads_is_handed_to_it)
{
    for (size_t i = 0; i < ARRAY_LEN(daemons); i++) {
        for (const struct conf_field *f = daemons[i].fields; f->name != NULL; f++) {
            int id = settings_find(f->name);

            if (is_per_process(f->name))
                continue;
            cr_assert(id >= 0, "%s reads %s, which is no setting", daemons[i].name, f->name);
            if (setting_defs[id].alias_of != NULL)
                continue; /* arrives under its present name */
            cr_assert((setting_defs[id].daemons & daemons[i].daemon) != 0,
                      "%s reads %s, which it is not handed", daemons[i].name, f->name);
            cr_assert_neq(setting_defs[id].effect, SETTING_MEANINGLESS, "%s acts on %s",
                          daemons[i].name, f->name);
            cr_assert_eq(setting_defs[id].reloadable, f->reloadable, "%s: reload of %s",
                         daemons[i].name, f->name);
        }
    }
}

Test(settings_daemons, what_is_active_is_read)
{
    for (size_t i = 0; i < setting_count; i++) {
        const struct setting_def *d = &setting_defs[i];
        const char *name = d->alias_of != NULL ? d->alias_of : d->name;
        bool is_read = is_for_supervisor(name);

        for (size_t k = 0; k < ARRAY_LEN(daemons); k++)
            is_read = is_read || has_field(daemons[k].fields, name);
        if (d->effect == SETTING_ACTIVE)
            cr_assert(is_read, "nobody acts on %s", d->name);
    }
}

/* The extremes the supervisor lets through. */
Test(settings_daemons, what_the_supervisor_accepts_is_accepted)
{
    static const char *const flags[][4] = {
        {NULL},
        {"--max-request-bytes=1", "--max-txn-ops=1", "--max-concurrent-streams=1"},
        {"--max-request-bytes=33554432", "--gateway-count=16", "--compaction-batch-limit=1000000"},
        {"--heartbeat-interval=10000", "--election-timeout=50000", "--snapshot-count=0"},
        {"--quota-backend-bytes=-1", "--compaction-batch-limit=0", "--checkpoint-entries=1"},
        {"--grpc-keepalive-interval=0", "--grpc-keepalive-timeout=0", "--value-cache-bytes=0"},
        {"--checkpoint-interval=0", "--compaction-sleep-interval=0", "--snapshot-catchup-entries=0"},
    };

    for (size_t i = 0; i < ARRAY_LEN(flags); i++) {
        char *argv[6] = {(char *)(uintptr_t) "conclave"};
        char *env[] = {NULL};
        int argc = 1;
        enum settings_action action;
        struct settings_error e = {0};
        struct settings s;

        for (size_t k = 0; k < 4 && flags[i][k] != NULL; k++)
            argv[argc++] = (char *)(uintptr_t)flags[i][k];
        cr_assert_eq(settings_load(&s, argc, argv, env, &action, &e), 0, "row %zu: %s", i, e.text);
        for (size_t k = 0; k < ARRAY_LEN(daemons); k++) {
            CLEANUP(buf_fini) struct buf text = BUF_INIT;
            CLEANUP(freep) void *conf = xcalloc(1, daemons[k].size);
            char *error = NULL;

            settings_write(&s, daemons[k].daemon, &text);
            cr_assert_eq(conf_load(daemons[k].fields, conf, buf_bytes(&text), &error), 0,
                         "row %zu, %s: %s", i, daemons[k].name, error);
            conf_fini(daemons[k].fields, conf);
        }
        settings_fini(&s);
    }
}
