/*
 * conclave: reads its settings, takes hold of the data directory and the client sockets, and runs the
 * member's daemons until told to stop. Every mistake an operator can make ends here, before anything
 * starts, with one line that names it.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include "lib/log/log.h"
#include "lib/util/xmalloc.h"
#include "supervisor/rundir.h"
#include "supervisor/supervisor.h"

enum {
    LOCK_POLL_MS = 20,
    /* children of a supervisor that died are gone within a second; longer means another one runs */
    LOCK_PATIENCE_MS = 3000,
    LOCK_REMIND_MS = 10000,
};

static int report(const struct settings_error *error)
{
    if (error->usage) {
        fprintf(stderr, "%s\n", error->text);
        settings_print_usage(stderr);
    } else if (error->located) {
        fprintf(stderr, "conclave: %s\n", error->text);
    } else {
        const char *hint = strchr(error->text, '\n');
        size_t len = hint != NULL ? (size_t)(hint - error->text) : strlen(error->text);

        fprintf(stderr, "conclave: error verifying flags, %.*s. See 'conclave --help'.\n", (int)len,
                error->text);
        if (hint != NULL)
            fprintf(stderr, "%s\n", hint + 1);
    }
    return error->exit_status;
}

static int open_log(const struct settings *s)
{
    CLEANUP(freep) char *text = settings_log_level(s, "supervisor");
    bool json = strcmp(settings_log_format(s), "json") == 0;
    enum log_level level = LOG_LEVEL_INFO;
    int r;

    (void)log_level_parse(text, &level);
    r = log_open("conclave", level, json ? LOG_FORMAT_JSON : LOG_FORMAT_TEXT,
                 settings_text(s, "log-outputs"));
    if (r < 0)
        fprintf(stderr, "conclave: cannot log to %s: %s\n", settings_text(s, "log-outputs"),
                strerror(-r));
    return r;
}

/* What people look for at the top of the log. */
static void log_settings(const struct settings *s)
{
    static const struct {
        const char *label, *name, *unit;
    } rows[] = {
        {"name", "name", ""},
        {"data dir", "data-dir", ""},
        {"heartbeat", "heartbeat-interval", "ms"},
        {"election", "election-timeout", "ms"},
        {"snapshot count", "snapshot-count", ""},
        {"advertise client URLs", "advertise-client-urls", ""},
        {"initial advertise peer URLs", "initial-advertise-peer-urls", ""},
        {"initial cluster", "initial-cluster", ""},
    };

    for (size_t i = 0; i < s->notice_count; i++)
        log_write(s->notices[i].warning ? LOG_LEVEL_WARN : LOG_LEVEL_INFO, "%s",
                  s->notices[i].text);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        log_info("%s = %s%s", rows[i].label, settings_text(s, rows[i].name), rows[i].unit);
        if (strcmp(rows[i].name, "data-dir") == 0)
            log_info("member dir = %s/member", settings_text(s, "data-dir"));
    }
}

static uint64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/*
 * Gets the lock and the sockets. Children of a killed supervisor hold both for a moment, so the lock
 * is waited for first; when it stays taken, the sockets tell whether a live member is in the way,
 * which is an error, or something that hangs, which is waited for.
 */
static int take_hold(struct datadir *d, const struct settings *s, struct listener_set *set)
{
    const struct timespec pause = {.tv_nsec = LOCK_POLL_MS * 1000000L};
    uint64_t start = now_ms(), remind_at = start + LOCK_PATIENCE_MS;
    CLEANUP(freep) char *why = NULL;
    bool have_sockets = false;
    pid_t holder = 0;
    int r;

    while ((r = datadir_try_lock(d, &holder)) == -EWOULDBLOCK) {
        if (now_ms() >= remind_at) {
            log_warn("data directory %s is in use by another process (started by pid %ld); waiting",
                     d->path, (long)holder);
            remind_at = now_ms() + LOCK_REMIND_MS;
            if (!have_sockets) {
                r = listener_set_open(set, s, &why);
                if (r < 0)
                    break;
                have_sockets = true;
            }
        }
        nanosleep(&pause, NULL);
    }
    if (r < 0 && why == NULL) {
        log_error("cannot lock data directory %s: %s", d->path, strerror(-r));
        return r;
    }
    if (r == 0 && !have_sockets)
        r = listener_set_open(set, s, &why);
    if (r < 0)
        log_error("%s", why);
    return r;
}

static void raise_descriptor_limit(void)
{
    struct rlimit l;

    if (getrlimit(RLIMIT_NOFILE, &l) == 0 && l.rlim_cur < l.rlim_max) {
        l.rlim_cur = l.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &l);
    }
}

static struct supervisor_end serve(struct settings *s, struct datadir *d,
                                   const struct listener_set *listeners, const char *run_dir,
                                   int argc, char **argv, char **env)
{
    const char *libexec_dir = getenv("CONCLAVE_LIBEXECDIR");
    struct supervisor_end end = {.exit_status = 1};
    struct supervisor *sv;

    sv = supervisor_new(&(struct supervisor_args){
        .settings = s,
        .datadir = d,
        .listeners = listeners,
        .run_dir = run_dir,
        .libexec_dir = libexec_dir != NULL && *libexec_dir != '\0' ? libexec_dir : LIBEXECDIR,
        .argc = argc,
        .argv = argv,
        .env = env,
    });
    if (sv != NULL)
        end = supervisor_run(sv);
    supervisor_free(sv);
    return end;
}

/* As etcd does: the shell sees that a signal ended us. The first process of a container must not. */
NORETURN static void finish(struct supervisor_end end)
{
    if (end.signal != 0 && getpid() != 1) {
        signal(end.signal, SIG_DFL);
        raise(end.signal);
    }
    exit(end.exit_status);
}

int main(int argc, char **argv, char **env)
{
    struct settings s;
    struct settings_error error = {0};
    enum settings_action action = SETTINGS_START;
    struct supervisor_end end = {.exit_status = 1};
    struct listener_set listeners = {0};
    struct datadir datadir;
    CLEANUP(freep) char *why = NULL;
    CLEANUP(freep) char *run_dir = NULL;
    CLEANUP(freep) char *stale = NULL;

    if (settings_load(&s, argc, argv, env, &action, &error) < 0) {
        end.exit_status = report(&error);
        settings_error_fini(&error);
        goto fail_settings;
    }
    if (action != SETTINGS_START) {
        if (action == SETTINGS_HELP) {
            settings_print_usage(stderr);
            settings_print_help(stdout);
        } else {
            settings_print_version(stdout);
        }
        end.exit_status = 0;
        goto fail_settings;
    }
    if (open_log(&s) < 0)
        goto fail_settings;
    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    log_settings(&s);
    if (datadir_open(&datadir, settings_text(&s, "data-dir"), settings_text(&s, "wal-dir"), &why) < 0) {
        log_error("%s", why);
        goto fail;
    }
    if (!datadir.is_born && !settings_bool(&s, "force-new-cluster") &&
        settings_check_birth(&s, &error) < 0) {
        log_error("%s", error.text);
        settings_error_fini(&error);
        goto fail;
    }
    if (take_hold(&datadir, &s, &listeners) < 0)
        goto fail;
    if (settings_prepare_tls(&s, &error) < 0) {
        log_error("%s", error.text);
        settings_error_fini(&error);
        goto fail_sockets;
    }
    stale = datadir_stale_run_dir(&datadir);
    if (stale != NULL)
        rundir_remove(stale);
    if (rundir_create(settings_text(&s, "runtime-dir"), &run_dir, &why) < 0) {
        log_error("%s", why);
        goto fail_sockets;
    }
    if ((errno = -datadir_note(&datadir, run_dir)) != 0)
        log_error("cannot write %s/lock: %s", datadir.path, strerror(errno));
    else
        end = serve(&s, &datadir, &listeners, run_dir, argc, argv, env);
    rundir_remove(run_dir);
fail_sockets:
    listener_set_close(&listeners);
fail:
    datadir_close(&datadir);
    log_close();
fail_settings:
    settings_fini(&s);
    finish(end);
}
