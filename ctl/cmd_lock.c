/* lock and elect. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "ctl/cmd.h"
#include "ctl/ctl.h"
#include "ctl/ctl_session.h"
#include "ctl/ctl_watch.h"
#include "ctl/print.h"
#include "lib/loop/loop.h"
#include "lib/util/xmalloc.h"

enum { ELECT_TTL_S = 60 };

/* Prints the key as "get" would. false: it is not there. */
static bool print_key(struct ctl *c, const char *key)
{
    Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
    Etcdserverpb__RangeResponse *r;
    bool found;

    request.key = ctl_data(key);
    r = ctl_ask(c, &ctl_method_range, &request);
    found = r->n_kvs > 0;
    if (found)
        print_get(c, r, false);
    fflush(stdout);
    ctl_answer_free(r);
    return found;
}

/* Until a signal or the session's end; true: a signal. */
static bool hold(struct ctl *c, struct ctl_session *s)
{
    while (!ctl_session_interrupted(s) && !ctl_session_lost(s))
        loop_run_once(c->loop, 1000);
    return ctl_session_interrupted(s);
}

/* ---- lock ---- */

static int lock_run_command(struct ctl *c, const struct ctl_args *a, const struct ctl_place *place)
{
    CLEANUP(freep) char *key = xasprintf("ETCD_LOCK_KEY=%s", place->key);
    CLEANUP(freep) char *revision = xasprintf("ETCD_LOCK_REV=%" PRId64, place->header_revision);
    const char *env[] = {key, revision};
    char *why = NULL;
    int status = ctl_run(c->loop, a->argv + 1, env, ARRAY_LEN(env), &why);

    if (status < 0) {
        fprintf(stderr, "Error: %s\n", why);
        free(why);
        return CTL_EXIT_ERROR;
    }
    if (status > 128) {
        why = ctl_signal_text(status - 128);
        fprintf(stderr, "Error: %s\n", why);
        free(why);
    } else if (status != 0) {
        fprintf(stderr, "Error: exit status %d\n", status);
    }
    return status;
}

static int run_lock(struct ctl *c, struct ctl_args *a)
{
    struct ctl_session *s;
    struct ctl_place place;
    int r, status = CTL_EXIT_SUCCESS;

    if (a->argc == 0)
        ctl_die(CTL_EXIT_BAD_ARGS,
                "lock takes a lock name argument and an optional command to execute");
    s = ctl_session_new(c, ctl_args_int(a, "ttl"));
    r = ctl_session_enter(s, a->argv[0], "", &place);
    if (r != 0) {
        bool interrupted = r == -ECANCELED;

        ctl_session_free(s);
        ctl_die(CTL_EXIT_ERROR, "%s", interrupted ? "context canceled" : "session expired");
    }
    if (a->argc > 1) {
        status = lock_run_command(c, a, &place);
    } else {
        if (!print_key(c, place.key))
            ctl_die(CTL_EXIT_ERROR, "lock lost on init");
        if (!hold(c, s))
            ctl_die(CTL_EXIT_ERROR, "session expired");
    }
    ctl_session_leave(s, &place);
    ctl_session_free(s);
    return status;
}

static const struct ctl_flag lock_flags[] = {CTL_INT("ttl", "10", "timeout for session"),
                                             CTL_FLAGS_END};
const struct ctl_command cmd_lock = {.use = "lock <lockname> [exec-command arg1 arg2 ...]",
                                     .summary = "Acquires a named lock",
                                     .flags = lock_flags,
                                     .run = run_lock};

/* ---- elect ---- */

struct observation {
    struct ctl *c;
    ProtobufCBinaryData key; /* of the leader; empty: none */
    bool changed, ended;
};

static void on_response(void *user, const Etcdserverpb__WatchResponse *r)
{
    struct observation *o = user;

    for (size_t i = 0; i < r->n_events; i++) {
        Mvccpb__KeyValue *kv = r->events[i]->kv;
        bool deleted = r->events[i]->type == MVCCPB__EVENT__EVENT_TYPE__DELETE;
        Etcdserverpb__RangeResponse news = ETCDSERVERPB__RANGE_RESPONSE__INIT;

        if (kv->key.len == o->key.len && o->key.len > 0 && !deleted &&
            memcmp(kv->key.data, o->key.data, o->key.len) == 0) {
            news.header = r->header;
            news.kvs = &kv;
            news.n_kvs = 1;
            print_get(o->c, &news, false);
            fflush(stdout);
        } else if (deleted || o->key.len == 0) {
            o->changed = true; /* somebody left, or the first one came */
        }
    }
}

static void on_ended(void *user, const char *message)
{
    struct observation *o = user;

    o->ended = true;
}

/* Prints the oldest key below `name` whenever it is another one or has another value. */
static void observe(struct ctl *c, struct ctl_session *s, const char *name)
{
    CLEANUP(freep) char *prefix = xasprintf("%s/", name);
    struct observation o = {.c = c};
    int64_t leader = 0;

    while (!ctl_session_interrupted(s)) {
        Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
        Etcdserverpb__RangeResponse *r;
        struct ctl_watch *watch;

        request.key = ctl_data(prefix);
        request.range_end = ctl_prefix_end(request.key);
        request.sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__ASCEND;
        request.sort_target = ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__CREATE;
        request.limit = 1;
        r = ctl_ask(c, &ctl_method_range, &request);
        o.key = r->n_kvs > 0 ? r->kvs[0]->key : (ProtobufCBinaryData){0};
        o.changed = false;
        if (r->n_kvs > 0 && r->kvs[0]->create_revision != leader) {
            leader = r->kvs[0]->create_revision;
            r->more = false;
            print_get(c, r, false);
            fflush(stdout);
        }
        watch = ctl_watch_new(
            c->loop, c->client,
            &(struct ctl_watch_args){.key = request.key,
                                     .range_end = request.range_end,
                                     .revision = (r->header != NULL ? r->header->revision : 0) + 1,
                                     .on_response = on_response,
                                     .on_ended = on_ended,
                                     .user = &o});
        while (!o.changed && !o.ended && !ctl_session_interrupted(s))
            loop_run_once(c->loop, 1000);
        ctl_watch_free(watch);
        free(request.range_end.data);
        ctl_answer_free(r);
        if (o.ended)
            ctl_die(CTL_EXIT_ERROR, "elect: observer lost");
    }
}

static int run_elect(struct ctl *c, struct ctl_args *a)
{
    bool listen = ctl_args_bool(a, "listen");
    struct ctl_session *s;
    struct ctl_place place;
    int r;

    if (a->argc != 1 && a->argc != 2)
        ctl_die(CTL_EXIT_BAD_ARGS,
                "elect takes one election name argument and an optional proposal argument");
    if (a->argc == 1 && !listen)
        ctl_die(CTL_EXIT_BAD_ARGS, "no proposal argument but -l not set");
    if (a->argc == 2 && listen)
        ctl_die(CTL_EXIT_BAD_ARGS, "proposal given but -l is set");
    s = ctl_session_new(c, ELECT_TTL_S);
    if (listen) {
        observe(c, s, a->argv[0]);
        ctl_session_free(s);
        return CTL_EXIT_SUCCESS;
    }
    r = ctl_session_enter(s, a->argv[0], a->argv[1], &place);
    if (r != 0) {
        bool interrupted = r == -ECANCELED;

        ctl_session_free(s);
        ctl_die(CTL_EXIT_ERROR, "%s", interrupted ? "context canceled" : "elect: session expired");
    }
    print_key(c, place.key);
    if (!hold(c, s))
        ctl_die(CTL_EXIT_ERROR, "elect: session expired");
    ctl_session_leave(s, &place);
    ctl_session_free(s);
    return CTL_EXIT_SUCCESS;
}

static const struct ctl_flag elect_flags[] = {{.name = "listen",
                                               .type = CTL_FLAG_BOOL,
                                               .initial = "false",
                                               .shorthand = 'l',
                                               .usage = "observation mode"},
                                              CTL_FLAGS_END};
const struct ctl_command cmd_elect = {.use = "elect <election-name> [proposal]",
                                      .summary = "Observes and participates in leader election",
                                      .flags = elect_flags,
                                      .run = run_elect};
