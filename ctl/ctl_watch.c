/* See ctl_watch.h. */
#include "ctl/ctl_watch.h"

#include <stdlib.h>
#include <string.h>
#include "lib/loop/loop.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"

enum { AGAIN_MS = 200 };

struct ctl_watch {
    struct loop *loop;
    struct ctl_client *client;
    struct ctl_watch_args args;
    struct ctl_call *call;
    struct loop_timer *timer;
    int64_t next_revision; /* 0: not known yet */
    bool ended, in_callback, freed;
};

static void watch_create(void *user);

char *ctl_watch_reason(const Etcdserverpb__WatchResponse *response)
{
    if (response->compact_revision != 0)
        return xstrdup("etcdserver: mvcc: required revision has been compacted");
    if (response->cancel_reason != NULL && *response->cancel_reason != '\0')
        return strncmp(response->cancel_reason, "rpc error: ", 11) == 0
                   ? xstrdup(response->cancel_reason) /* it is a whole error already */
                   : ctl_error_text(CTL_FAILED_PRECONDITION, response->cancel_reason);
    return xstrdup("etcdserver: mvcc: required revision is a future revision");
}

static void note_revision(struct ctl_watch *w, const Etcdserverpb__WatchResponse *r)
{
    int64_t header = r->header != NULL ? r->header->revision : 0;

    if (r->n_events > 0 && r->events[r->n_events - 1]->kv != NULL)
        w->next_revision = r->events[r->n_events - 1]->kv->mod_revision + 1;
    else if (r->created ? w->next_revision == 0 : !r->canceled)
        w->next_revision = MAX(w->next_revision, header + 1);
}

static void on_message(void *user, struct bytes message)
{
    struct ctl_watch *w = user;
    Etcdserverpb__WatchResponse *r =
        etcdserverpb__watch_response__unpack(NULL, message.len, message.data);

    if (r == NULL)
        return;
    note_revision(w, r);
    if ((!r->created || r->canceled) && !w->ended) {
        w->in_callback = true;
        w->args.on_response(w->args.user, r);
        w->in_callback = false;
    }
    if (r->canceled && !w->ended && !w->freed) {
        CLEANUP(freep) char *why = ctl_watch_reason(r);

        w->ended = true;
        w->in_callback = true;
        w->args.on_ended(w->args.user, why);
        w->in_callback = false;
    }
    etcdserverpb__watch_response__free_unpacked(r, NULL);
    if (w->freed)
        ctl_watch_free(w);
}

static void on_done(void *user, int code, const char *message)
{
    struct ctl_watch *w = user;

    w->call = NULL;
    if (w->ended)
        return;
    if (code == 0 || code == CTL_UNAVAILABLE || code == CTL_INTERNAL || code == CTL_CANCELED ||
        code == CTL_UNKNOWN) {
        loop_timer_start(w->timer, AGAIN_MS, 0);
        return;
    }
    w->ended = true;
    w->args.on_ended(w->args.user, message);
}

static void watch_create(void *user)
{
    static const struct ctl_call_handler handler = {.on_message = on_message, .on_done = on_done};
    struct ctl_watch *w = user;
    Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
    Etcdserverpb__WatchCreateRequest create = ETCDSERVERPB__WATCH_CREATE_REQUEST__INIT;

    create.key = w->args.key;
    create.range_end = w->args.range_end;
    create.start_revision = w->next_revision;
    create.prev_kv = w->args.prev_kv;
    create.progress_notify = w->args.progress_notify;
    request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_CREATE_REQUEST;
    request.create_request = &create;
    w->call = ctl_call_start(w->client, &(struct ctl_call_args){.method = &ctl_method_watch,
                                                                .request = &request.base,
                                                                .stream = true,
                                                                .require_leader = true,
                                                                .handler = &handler,
                                                                .user = w});
}

struct ctl_watch *ctl_watch_new(struct loop *loop, struct ctl_client *client,
                                const struct ctl_watch_args *args)
{
    struct ctl_watch *w = xcalloc(1, sizeof(*w));

    w->loop = loop;
    w->client = client;
    w->args = *args;
    w->next_revision = args->revision;
    w->timer = loop_timer_new(loop, "watch", watch_create, w);
    watch_create(w);
    return w;
}

void ctl_watch_free(struct ctl_watch *w)
{
    if (w == NULL)
        return;
    if (w->in_callback) {
        w->freed = w->ended = true;
        return;
    }
    ctl_call_free(w->call);
    loop_timer_free(w->timer);
    free(w);
}

void ctl_watch_request_progress(struct ctl_watch *w)
{
    Etcdserverpb__WatchRequest request = ETCDSERVERPB__WATCH_REQUEST__INIT;
    Etcdserverpb__WatchProgressRequest progress = ETCDSERVERPB__WATCH_PROGRESS_REQUEST__INIT;

    if (w->call == NULL)
        return;
    request.request_union_case = ETCDSERVERPB__WATCH_REQUEST__REQUEST_UNION_PROGRESS_REQUEST;
    request.progress_request = &progress;
    ctl_call_send(w->call, &request.base);
}
