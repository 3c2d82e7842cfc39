/*
 * Everything in here runs on one loop: signals, control channels, timers. The supervisor knows no
 * protocol of the member; what it decides is only who runs.
 *
 * Stopping is a small state machine of its own: leadership is handed over while everything still works
 * (bounded, since a cluster in trouble may have nobody to take it), then gatewayds finish what they
 * have in flight, then stored, whose answers they needed, then raftd. Each step has a deadline, after
 * which the child is killed, which costs time at the next start and nothing else.
 */
#include "supervisor/supervisor.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <systemd/sd-daemon.h>
#include <time.h>
#include <unistd.h>
#include "lib/log/log.h"
#include "lib/loop/loop.h"
#include "lib/util/prng.h"
#include "lib/util/xmalloc.h"
#include "supervisor/child.h"

enum {
    CHILD_COUNT_MAX = 18, /* raftd, stored, 16 gatewayds */
    WATCH_MS = 1000,
    GATEWAYD_STOP_MS = 5000,
    STORED_STOP_MS = 10000, /* it writes a checkpoint */
    RAFTD_STOP_MS = 5000,
};
/* a second signal within this time is the first one, sent twice */
#define IMPATIENCE_NS UINT64_C(2000000000)

enum phase {
    PHASE_RUNNING,
    PHASE_HANDING_OVER,
    PHASE_STOPPING_GATEWAYDS,
    PHASE_STOPPING_STORED,
    PHASE_STOPPING_RAFTD,
    PHASE_DONE,
};

struct supervisor {
    struct supervisor_args args;
    struct loop *loop;
    struct child *children[CHILD_COUNT_MAX]; /* raftd, stored, then gatewayds */
    size_t child_count;
    struct loop_signal *on_chld, *on_term, *on_int, *on_hup;
    struct loop_timer *watch_timer, *phase_timer, *watchdog_timer;
    struct prng prng;
    enum phase phase;
    bool told_ready;
    uint64_t signal_at_ns; /* of the first that asked for the end */
    struct supervisor_end end;
};

enum { RAFTD, STORED, FIRST_GATEWAYD };

/* ---- what the service manager sees ---- */

static void tell_status(struct supervisor *sv)
{
    struct buf b = BUF_INIT;

    for (size_t i = 0; i < sv->child_count; i++) {
        const struct child *c = sv->children[i];
        const char *status = child_status(c);

        buf_appendf(&b, "%s%s %s%s%s", i > 0 ? "; " : "", child_name(c), child_state_name(c),
                    *status != '\0' ? ": " : "", status);
    }
    buf_append_u8(&b, '\0');
    sd_notifyf(0, "STATUS=%s", (const char *)b.data);
    buf_fini(&b);
}

static bool all_in(const struct supervisor *sv, enum child_state state, size_t from)
{
    for (size_t i = from; i < sv->child_count; i++) {
        if (child_state(sv->children[i]) != state)
            return false;
    }
    return true;
}

static void announce_ready(struct supervisor *sv)
{
    CLEANUP(setting_urls_fini) struct setting_urls urls =
        settings_urls(sv->args.settings, "listen-client-urls");

    sv->told_ready = true;
    sd_notify(0, "READY=1");
    log_info("ready to serve client requests");
    for (size_t i = 0; i < urls.count; i++) {
        const struct url *u = &urls.items[i];

        if (strcmp(u->scheme, "https") == 0)
            log_info("serving client requests on %s:%s", url_dial_host(u), u->port);
        else
            log_info("serving insecure client requests on %s:%s, this is strongly discouraged!",
                     url_dial_host(u), u->port);
    }
}

static void on_watchdog(void *user)
{
    sd_notify(0, "WATCHDOG=1");
}

/* ---- stopping ---- */

static void advance(struct supervisor *sv);

static void enter_phase(struct supervisor *sv, enum phase phase)
{
    sv->phase = phase;
    switch (phase) {
    case PHASE_RUNNING:
        break;
    case PHASE_HANDING_OVER:
        loop_timer_start(sv->phase_timer,
                         1000 + 2 * settings_u64(sv->args.settings, "election-timeout"), 0);
        child_hand_over(sv->children[RAFTD]);
        break;
    case PHASE_STOPPING_GATEWAYDS:
        loop_timer_stop(sv->phase_timer);
        for (size_t i = FIRST_GATEWAYD; i < sv->child_count; i++)
            child_stop(sv->children[i]);
        break;
    case PHASE_STOPPING_STORED:
        child_stop(sv->children[STORED]);
        break;
    case PHASE_STOPPING_RAFTD:
        child_stop(sv->children[RAFTD]);
        break;
    case PHASE_DONE:
        loop_stop(sv->loop);
        break;
    }
}

/* Goes on as far as the children allow. */
static void advance(struct supervisor *sv)
{
    if (sv->phase == PHASE_STOPPING_GATEWAYDS && all_in(sv, CHILD_DOWN, FIRST_GATEWAYD))
        enter_phase(sv, PHASE_STOPPING_STORED);
    if (sv->phase == PHASE_STOPPING_STORED && child_state(sv->children[STORED]) == CHILD_DOWN)
        enter_phase(sv, PHASE_STOPPING_RAFTD);
    if (sv->phase == PHASE_STOPPING_RAFTD && child_state(sv->children[RAFTD]) == CHILD_DOWN)
        enter_phase(sv, PHASE_DONE);
}

static void stop_now(struct supervisor *sv)
{
    if (sv->phase <= PHASE_HANDING_OVER) {
        enter_phase(sv, PHASE_STOPPING_GATEWAYDS);
        advance(sv);
    }
}

static void on_phase_timeout(void *user)
{
    struct supervisor *sv = user;

    if (sv->phase == PHASE_HANDING_OVER) {
        log_warn("leadership was not handed over in time; stopping anyway");
        stop_now(sv);
    }
}

static void on_stop_signal(struct supervisor *sv, int signum)
{
    if (sv->phase != PHASE_RUNNING) {
        if (loop_clock_ns() - sv->signal_at_ns < IMPATIENCE_NS)
            return; /* timeout(1) and shells signal the process and then its group */
        log_warn("received signal %d again, killing what still runs", signum);
        for (size_t i = 0; i < sv->child_count; i++) {
            child_stop(sv->children[i]);
            child_kill(sv->children[i]);
        }
        stop_now(sv);
        return;
    }
    sv->signal_at_ns = loop_clock_ns();
    log_info("received %s signal, shutting down...",
             signum == SIGTERM ? "terminated" : "interrupt");
    sv->end.signal = signum;
    sd_notify(0, "STOPPING=1");
    if (child_state(sv->children[RAFTD]) == CHILD_READY)
        enter_phase(sv, PHASE_HANDING_OVER);
    else
        stop_now(sv);
}

static void on_sigterm(void *user)
{
    on_stop_signal(user, SIGTERM);
}

static void on_sigint(void *user)
{
    on_stop_signal(user, SIGINT);
}

/* ---- children ---- */

static const struct {
    const char *name;
    unsigned int daemon;
    uint64_t stop_ms;
    bool has_data;
} kinds[] = {
    [RAFTD] = {"raftd", FOR_RAFTD, RAFTD_STOP_MS, true},
    [STORED] = {"stored", FOR_STORED, STORED_STOP_MS, true},
    [FIRST_GATEWAYD] = {"gatewayd", FOR_GATEWAYD, GATEWAYD_STOP_MS, false},
};

static size_t kind_of(const struct child *c)
{
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        if (strcmp(child_kind(c), kinds[i].name) == 0)
            return i;
    }
    PANIC("no child is called %s", child_kind(c));
}

static void write_conf(struct supervisor *sv, struct child *c, uint64_t generation,
                       struct buf *out)
{
    const struct settings *s = sv->args.settings;
    CLEANUP(freep) char *level = settings_log_level(s, child_kind(c));

    settings_write(s, kinds[kind_of(c)].daemon, out);
    buf_appendf(out, "run-dir=%s\ngeneration=%" PRIu64 "\n", sv->args.run_dir, generation);
    buf_appendf(out, "log-level=%s\nlog-format=%s\nlog-outputs=%s\n", level,
                settings_log_format(s), settings_text(s, "log-outputs"));
    if (strcmp(child_kind(c), "gatewayd") == 0)
        buf_appendf(out, "gateway-index=%zu\n", child_index(c));
}

static uint64_t fill_conf(void *user, struct child *c, struct buf *out)
{
    struct supervisor *sv = user;
    uint64_t generation = datadir_next_generation(sv->args.datadir);

    write_conf(sv, c, generation, out);
    return generation;
}

static void on_change(void *user, struct child *c)
{
    struct supervisor *sv = user;

    if (!sv->told_ready && sv->phase == PHASE_RUNNING && all_in(sv, CHILD_READY, 0))
        announce_ready(sv);
    tell_status(sv);
    if (sv->phase == PHASE_HANDING_OVER && c == sv->children[RAFTD] &&
        child_state(c) != CHILD_READY)
        stop_now(sv); /* nobody is left who could hand over */
    if (sv->phase != PHASE_RUNNING && child_state(c) == CHILD_BACKOFF)
        child_stop(c); /* whoever ends by itself now need not come back */
    advance(sv);
}

static void on_handed_over(void *user, struct child *c)
{
    struct supervisor *sv = user;

    if (sv->phase == PHASE_HANDING_OVER && c == sv->children[RAFTD])
        stop_now(sv);
}

static void on_fatal(void *user, struct child *c, const char *text)
{
    struct supervisor *sv = user;

    log_error("%s: %s", child_name(c), text);
    if (sv->phase != PHASE_RUNNING)
        return;
    sv->end.exit_status = 1;
    stop_now(sv);
}

static void on_removed(void *user, struct child *c, const char *text)
{
    struct supervisor *sv = user;

    log_warn("%s: %s; stopping", child_name(c), text);
    if (sv->phase != PHASE_RUNNING)
        return;
    sv->end.exit_status = 0;
    stop_now(sv);
}

static const struct child_ops child_ops = {
    .fill_conf = fill_conf,
    .on_change = on_change,
    .on_handed_over = on_handed_over,
    .on_fatal = on_fatal,
    .on_removed = on_removed,
};

static void on_sigchld(void *user)
{
    struct supervisor *sv = user;

    for (size_t i = 0; i < sv->child_count; i++)
        child_reap(sv->children[i]);
}

static void on_watch(void *user)
{
    struct supervisor *sv = user;

    for (size_t i = 0; i < sv->child_count; i++)
        child_watch(sv->children[i]);
}

/* ---- reload ---- */

static void tell_reloading(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    sd_notifyf(0, "RELOADING=1\nMONOTONIC_USEC=%" PRIu64,
               (uint64_t)now.tv_sec * 1000000 + (uint64_t)now.tv_nsec / 1000);
}

static void take_log_level(struct supervisor *sv)
{
    CLEANUP(freep) char *text = settings_log_level(sv->args.settings, "supervisor");
    enum log_level level;

    if (log_level_parse(text, &level))
        log_set_level(level);
}

static void on_sighup(void *user)
{
    struct supervisor *sv = user;
    struct settings newer = {0};
    struct settings_error error = {0};
    enum settings_action action;
    CLEANUP(freep) char *ignored = NULL;

    if (sv->phase != PHASE_RUNNING)
        return;
    tell_reloading();
    if (settings_load(&newer, sv->args.argc, sv->args.argv, sv->args.env, &action, &error) < 0) {
        log_error("reload refused, the old settings stay: %s", error.text);
    } else {
        settings_reload(sv->args.settings, &newer, &ignored);
        take_log_level(sv);
        if (ignored != NULL)
            log_warn("reload: these changed but need a restart: %s", ignored);
        for (size_t i = 0; i < sv->child_count; i++) {
            CLEANUP(buf_fini) struct buf conf = BUF_INIT;

            write_conf(sv, sv->children[i], child_generation(sv->children[i]), &conf);
            child_reload(sv->children[i], buf_bytes(&conf));
        }
        log_info("settings reloaded");
    }
    settings_error_fini(&error);
    settings_fini(&newer);
    if (sv->told_ready)
        sd_notify(0, "READY=1");
}

/* ---- life ---- */

static struct child *make_child(struct supervisor *sv, size_t kind, size_t index)
{
    CLEANUP(freep) char *path = xasprintf("%s/%s", sv->args.libexec_dir, kinds[kind].name);

    return child_new(&(struct child_args){
        .loop = sv->loop,
        .name = kinds[kind].name,
        .index = index,
        .path = path,
        .inherited_fd = sv->args.datadir->lock_fd,
        .listeners = kinds[kind].has_data ? NULL : sv->args.listeners,
        .watchdog_ms = settings_duration_ms(sv->args.settings, "child-watchdog-timeout"),
        .stop_ms = kinds[kind].stop_ms,
        .prng = &sv->prng,
        .ops = &child_ops,
        .user = sv,
    });
}

static bool find_programs(struct supervisor *sv)
{
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++) {
        CLEANUP(freep) char *path = xasprintf("%s/%s", sv->args.libexec_dir, kinds[i].name);

        if (access(path, X_OK) < 0) {
            log_error("%s: %s", path, strerror(errno));
            return false;
        }
    }
    return true;
}

struct supervisor *supervisor_new(const struct supervisor_args *args)
{
    struct supervisor *sv = xcalloc(1, sizeof(*sv));
    size_t gateways = settings_u64(args->settings, "gateway-count");
    uint64_t watchdog_us = 0;

    assert(gateways >= 1 && FIRST_GATEWAYD + gateways <= CHILD_COUNT_MAX);
    sv->args = *args;
    if (!find_programs(sv)) {
        free(sv);
        return NULL;
    }
    sv->loop = loop_new();
    if (sv->loop == NULL) {
        log_error("cannot make an event loop: %s", strerror(errno));
        free(sv);
        return NULL;
    }
    prng_init(&sv->prng, (uint64_t)getpid() ^ loop_clock_ns());
    for (size_t i = 0; i < FIRST_GATEWAYD + gateways; i++) {
        size_t kind = MIN(i, (size_t)FIRST_GATEWAYD);

        sv->children[sv->child_count++] = make_child(sv, kind, i - kind);
    }
    sv->on_chld = loop_signal_new(sv->loop, SIGCHLD, on_sigchld, sv);
    sv->on_term = loop_signal_new(sv->loop, SIGTERM, on_sigterm, sv);
    sv->on_int = loop_signal_new(sv->loop, SIGINT, on_sigint, sv);
    sv->on_hup = loop_signal_new(sv->loop, SIGHUP, on_sighup, sv);
    sv->watch_timer = loop_timer_new(sv->loop, "watch", on_watch, sv);
    sv->phase_timer = loop_timer_new(sv->loop, "phase", on_phase_timeout, sv);
    loop_timer_start(sv->watch_timer, WATCH_MS, WATCH_MS);
    if (sd_watchdog_enabled(0, &watchdog_us) > 0) {
        uint64_t half_ms = MAX(watchdog_us / 2000, 1);

        sv->watchdog_timer = loop_timer_new(sv->loop, "systemd watchdog", on_watchdog, sv);
        loop_timer_start(sv->watchdog_timer, half_ms, half_ms);
    }
    return sv;
}

struct supervisor_end supervisor_run(struct supervisor *sv)
{
    for (size_t i = 0; i < sv->child_count; i++)
        child_start(sv->children[i]);
    loop_run(sv->loop);
    return sv->end;
}

void supervisor_free(struct supervisor *sv)
{
    if (sv == NULL)
        return;
    for (size_t i = 0; i < sv->child_count; i++)
        child_free(sv->children[i]);
    loop_timer_free(sv->watch_timer);
    loop_timer_free(sv->phase_timer);
    if (sv->watchdog_timer != NULL)
        loop_timer_free(sv->watchdog_timer);
    loop_signal_free(sv->on_chld);
    loop_signal_free(sv->on_term);
    loop_signal_free(sv->on_int);
    loop_signal_free(sv->on_hup);
    loop_free(sv->loop);
    free(sv);
}
