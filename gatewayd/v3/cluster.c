/*
 * Cluster service (etcd rpc.proto Cluster). The member list is replicated state, so stored answers
 * it. A change becomes a configuration entry: its request is checked and translated here, whether
 * it may be made is decided by raftd of the leader, and the answer is made by our own stored when
 * it executes the entry.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "gatewayd/grpc.h"
#include "lib/proto/outcome.h"
#include "lib/util/member_id.h"
#include "lib/util/url.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"

/* Field numbers of the requests. */
enum {
    ADD_PEER_URLS = 1,
    ADD_IS_LEARNER = 2,
    CHANGE_ID = 1, /* MemberRemove, MemberUpdate, MemberPromote */
    UPDATE_PEER_URLS = 2,
    MEMBER_LIST_LINEARIZABLE = 1, /* 3.4 clients do not have it */
};

/* A change's body lives as long as the call. */
static void free_body(struct grpc_call *call)
{
    struct buf *body = call->state;

    buf_fini(body);
    free(body);
}

static void propose_change(struct grpc_call *call, const struct proto_conf_change *change)
{
    struct buf *body = xcalloc(1, sizeof(*body));

    proto_conf_change_encode(body, change);
    call->state = body;
    call->free_state = free_body;
    grpc_forward_proposal_of(call, PROTO_KIND_CONF_CHANGE, buf_bytes(body));
}

/* The URLs of a request, sorted as etcd keeps them. OUT_MEMBER_BAD_URLS for the first bad one. */
static int read_urls(struct bytes message, uint32_t number, struct url_list *ret)
{
    struct pb_reader r = pb_reader(message);
    struct url_list urls = {0};
    struct pb_field f;
    int outcome = OUT_OK;

    while (outcome == OUT_OK && pb_next(&r, &f)) {
        CLEANUP(freep) char *error = NULL;
        struct url u;

        if (f.number != number || f.type != PB_LENGTH)
            continue;
        if (urls.count >= URL_LIST_MAX || memchr(f.bytes.data, ',', f.bytes.len) != NULL ||
            url_parse(f.bytes, &u, &error) != 0) {
            outcome = OUT_MEMBER_BAD_URLS;
            break;
        }
        url_list_add(&urls, bytes_str(u.text));
        url_fini(&u);
    }
    if (r.bad)
        outcome = OUT_MALFORMED;
    else if (outcome == OUT_OK && urls.count == 0)
        outcome = OUT_MEMBER_BAD_URLS;
    if (outcome == OUT_OK)
        *ret = urls;
    else
        url_list_fini(&urls);
    return outcome;
}

/* A number or bool of a request; 0 when it is not there. The message decodes. */
static uint64_t read_number(struct bytes message, uint32_t number)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;
    uint64_t value = 0;

    while (pb_next(&r, &f))
        if (f.number == number && f.type == PB_VARINT)
            value = f.value;
    return value;
}

static bool decodes(struct bytes message)
{
    struct pb_reader r = pb_reader(message);
    struct pb_field f;

    while (pb_next(&r, &f))
        ;
    return !r.bad;
}

/* The id is derived from the URLs and the time, so that an address can be used again. */
static void member_add(struct grpc_call *call)
{
    bool is_learner = read_number(call->message, ADD_IS_LEARNER) != 0;
    struct url_list urls;
    int outcome = read_urls(call->message, ADD_PEER_URLS, &urls);
    char seconds[24];

    if (outcome != OUT_OK) {
        grpc_fail_outcome(call, outcome);
        return;
    }
    CLEANUP(freep) char *joined = url_list_join(&urls);

    snprintf(seconds, sizeof(seconds), "%" PRId64, (int64_t)time(NULL));
    propose_change(call, &(struct proto_conf_change){
                             .op = is_learner ? PROTO_CONF_ADD_LEARNER : PROTO_CONF_ADD_VOTER,
                             .member = {.id = member_id_derive((const char *const *)urls.items,
                                                               urls.count, "", seconds),
                                        .is_learner = is_learner,
                                        .peer_urls = bytes_str(joined)}});
    url_list_fini(&urls);
}

static void change_of_id(struct grpc_call *call, enum proto_conf_op op)
{
    if (!decodes(call->message)) {
        grpc_fail_outcome(call, OUT_MALFORMED);
        return;
    }
    propose_change(call, &(struct proto_conf_change){
                             .op = op, .member = {.id = read_number(call->message, CHANGE_ID)}});
}

static void member_remove(struct grpc_call *call)
{
    change_of_id(call, PROTO_CONF_REMOVE);
}

static void member_promote(struct grpc_call *call)
{
    change_of_id(call, PROTO_CONF_PROMOTE);
}

/* etcd takes any text here, and its members end when they cannot dial it: it is checked as in an
 * addition. */
static void member_update(struct grpc_call *call)
{
    struct url_list urls;
    int outcome = read_urls(call->message, UPDATE_PEER_URLS, &urls);

    if (outcome != OUT_OK) {
        grpc_fail_outcome(call, outcome);
        return;
    }
    CLEANUP(freep) char *joined = url_list_join(&urls);

    propose_change(call, &(struct proto_conf_change){
                             .op = PROTO_CONF_UPDATE,
                             .member = {.id = read_number(call->message, CHANGE_ID),
                                        .peer_urls = bytes_str(joined)}});
    url_list_fini(&urls);
}

static void member_list(struct grpc_call *call)
{
    if (!decodes(call->message))
        grpc_fail_outcome(call, OUT_MALFORMED);
    else
        grpc_forward_read(call, PROTO_READ_MEMBERS,
                          read_number(call->message, MEMBER_LIST_LINEARIZABLE) != 0);
}

struct grpc_method grpc_cluster_methods[] = {
    {.service = "etcdserverpb.Cluster", .name = "MemberAdd", .type = GRPC_UNARY,
     .handler = member_add},
    {.service = "etcdserverpb.Cluster", .name = "MemberRemove", .type = GRPC_UNARY,
     .handler = member_remove},
    {.service = "etcdserverpb.Cluster", .name = "MemberUpdate", .type = GRPC_UNARY,
     .handler = member_update},
    {.service = "etcdserverpb.Cluster", .name = "MemberList", .type = GRPC_UNARY,
     .handler = member_list},
    {.service = "etcdserverpb.Cluster", .name = "MemberPromote", .type = GRPC_UNARY,
     .handler = member_promote},
    {.name = NULL},
};
