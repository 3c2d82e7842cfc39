/* See ctl_session.h. */
#include "ctl/ctl_session.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include "ctl/ctl_keepalive.h"
#include "ctl/ctl_watch.h"
#include "lib/loop/loop.h"
#include "lib/util/xmalloc.h"

struct ctl_session {
    struct ctl *c;
    int64_t lease;
    struct ctl_keepalive *keepalive;
    struct loop_signal *signals[2];
    bool lost, interrupted;
};

static void on_signal(void *user)
{
    struct ctl_session *s = user;

    s->interrupted = true;
}

static void on_lost(void *user)
{
    struct ctl_session *s = user;

    s->lost = true;
}

struct ctl_session *ctl_session_new(struct ctl *c, int64_t ttl_s)
{
    static const struct ctl_keepalive_handler handler = {.on_lost = on_lost};
    Etcdserverpb__LeaseGrantRequest request = ETCDSERVERPB__LEASE_GRANT_REQUEST__INIT;
    Etcdserverpb__LeaseGrantResponse *granted;
    struct ctl_session *s = xcalloc(1, sizeof(*s));

    s->c = c;
    request.ttl = ttl_s;
    granted = ctl_ask(c, &ctl_method_lease_grant, &request);
    s->lease = granted->id;
    s->signals[0] = loop_signal_new(c->loop, SIGINT, on_signal, s);
    s->signals[1] = loop_signal_new(c->loop, SIGTERM, on_signal, s);
    s->keepalive = ctl_keepalive_new(c->loop, c->client, s->lease, granted->ttl, &handler, s);
    ctl_answer_free(granted);
    return s;
}

void ctl_session_free(struct ctl_session *s)
{
    Etcdserverpb__LeaseRevokeRequest request = ETCDSERVERPB__LEASE_REVOKE_REQUEST__INIT;
    ProtobufCMessage *answer = NULL;
    struct ctl_error error = {0};

    ctl_keepalive_free(s->keepalive);
    request.id = s->lease;
    if (ctl_try(s->c, &ctl_method_lease_revoke, &request, &answer, &error) == 0)
        ctl_answer_free(answer);
    ctl_error_fini(&error); /* it ends by itself then */
    loop_signal_free(s->signals[0]);
    loop_signal_free(s->signals[1]);
    free(s);
}

bool ctl_session_lost(const struct ctl_session *s)
{
    return s->lost;
}

bool ctl_session_interrupted(const struct ctl_session *s)
{
    return s->interrupted;
}

/* ---- the queue ---- */

/* Creates the key unless it is there, and asks for the oldest one; true: it is ours. */
static bool place_take(struct ctl_session *s, const char *prefix, const char *value,
                       struct ctl_place *place)
{
    Etcdserverpb__TxnRequest txn = ETCDSERVERPB__TXN_REQUEST__INIT;
    Etcdserverpb__Compare absent = ETCDSERVERPB__COMPARE__INIT;
    Etcdserverpb__PutRequest put = ETCDSERVERPB__PUT_REQUEST__INIT;
    Etcdserverpb__RangeRequest own = ETCDSERVERPB__RANGE_REQUEST__INIT,
                               oldest = ETCDSERVERPB__RANGE_REQUEST__INIT;
    Etcdserverpb__RequestOp put_op = ETCDSERVERPB__REQUEST_OP__INIT,
                            own_op = ETCDSERVERPB__REQUEST_OP__INIT,
                            oldest_op = ETCDSERVERPB__REQUEST_OP__INIT;
    Etcdserverpb__Compare *compares[] = {&absent};
    Etcdserverpb__RequestOp *then[] = {&put_op, &oldest_op}, *otherwise[] = {&own_op, &oldest_op};
    Etcdserverpb__TxnResponse *r;
    const Etcdserverpb__RangeResponse *range;
    bool first;

    absent.key = put.key = own.key = ctl_data(place->key);
    absent.target = ETCDSERVERPB__COMPARE__COMPARE_TARGET__CREATE;
    absent.target_union_case = ETCDSERVERPB__COMPARE__TARGET_UNION_CREATE_REVISION;
    put.value = ctl_data(value);
    put.lease = s->lease;
    oldest.key = ctl_data(prefix);
    oldest.range_end = ctl_prefix_end(oldest.key);
    oldest.sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__ASCEND;
    oldest.sort_target = ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__CREATE;
    oldest.limit = 1;
    put_op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_PUT;
    put_op.request_put = &put;
    own_op.request_case = oldest_op.request_case = ETCDSERVERPB__REQUEST_OP__REQUEST_REQUEST_RANGE;
    own_op.request_range = &own;
    oldest_op.request_range = &oldest;
    txn.compare = compares;
    txn.n_compare = 1;
    txn.success = then;
    txn.failure = otherwise;
    txn.n_success = txn.n_failure = 2;
    r = ctl_ask(s->c, &ctl_method_txn, &txn);
    free(oldest.range_end.data);
    if (r->header == NULL || r->n_responses != 2 ||
        r->responses[1]->response_case != ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_RANGE)
        ctl_die(CTL_EXIT_ERROR, "the answer makes no sense");
    place->create_revision = place->header_revision = r->header->revision;
    if (!r->succeeded &&
        r->responses[0]->response_case == ETCDSERVERPB__RESPONSE_OP__RESPONSE_RESPONSE_RANGE &&
        r->responses[0]->response_range->n_kvs > 0)
        place->create_revision = r->responses[0]->response_range->kvs[0]->create_revision;
    range = r->responses[1]->response_range;
    first = range->n_kvs == 0 || range->kvs[0]->create_revision == place->create_revision;
    ctl_answer_free(r);
    return first;
}

struct gone {
    bool deleted, ended;
};

static void on_response(void *user, const Etcdserverpb__WatchResponse *r)
{
    struct gone *g = user;

    for (size_t i = 0; i < r->n_events; i++)
        if (r->events[i]->type == MVCCPB__EVENT__EVENT_TYPE__DELETE)
            g->deleted = true;
}

static void on_ended(void *user, const char *message)
{
    struct gone *g = user;

    g->ended = true;
}

/* Waits until no key below prefix is older than `place`. */
static int wait_older(struct ctl_session *s, const char *prefix, const struct ctl_place *place,
                      int64_t *ret_revision)
{
    for (;;) {
        Etcdserverpb__RangeRequest request = ETCDSERVERPB__RANGE_REQUEST__INIT;
        Etcdserverpb__RangeResponse *r;
        struct ctl_watch *watch;
        struct gone gone = {0};

        request.key = ctl_data(prefix);
        request.range_end = ctl_prefix_end(request.key);
        request.sort_order = ETCDSERVERPB__RANGE_REQUEST__SORT_ORDER__DESCEND;
        request.sort_target = ETCDSERVERPB__RANGE_REQUEST__SORT_TARGET__CREATE;
        request.limit = 1;
        request.max_create_revision = place->create_revision - 1;
        r = ctl_ask(s->c, &ctl_method_range, &request);
        free(request.range_end.data);
        *ret_revision = r->header != NULL ? r->header->revision : 0;
        if (r->n_kvs == 0) {
            ctl_answer_free(r);
            return 0;
        }
        watch = ctl_watch_new(s->c->loop, s->c->client,
                              &(struct ctl_watch_args){.key = r->kvs[0]->key,
                                                       .revision = *ret_revision + 1,
                                                       .on_response = on_response,
                                                       .on_ended = on_ended,
                                                       .user = &gone});
        while (!gone.deleted && !gone.ended && !s->interrupted && !s->lost)
            loop_run_once(s->c->loop, 1000);
        ctl_watch_free(watch);
        ctl_answer_free(r);
        if (s->interrupted)
            return -ECANCELED;
        if (s->lost)
            return -ESTALE;
    }
}

int ctl_session_enter(struct ctl_session *s, const char *name, const char *value,
                      struct ctl_place *ret)
{
    CLEANUP(freep) char *prefix = xasprintf("%s/", name);
    int r = 0;

    *ret = (struct ctl_place){.key = xasprintf("%s%" PRIx64, prefix, (uint64_t)s->lease)};
    if (!place_take(s, prefix, value, ret))
        r = wait_older(s, prefix, ret, &ret->header_revision);
    if (r != 0)
        ctl_session_leave(s, ret);
    return r;
}

void ctl_session_leave(struct ctl_session *s, struct ctl_place *place)
{
    Etcdserverpb__DeleteRangeRequest request = ETCDSERVERPB__DELETE_RANGE_REQUEST__INIT;
    ProtobufCMessage *answer = NULL;
    struct ctl_error error = {0};

    request.key = ctl_data(place->key);
    if (ctl_try(s->c, &ctl_method_delete, &request, &answer, &error) == 0)
        ctl_answer_free(answer);
    ctl_error_fini(&error);
    free(place->key);
    place->key = NULL;
}
