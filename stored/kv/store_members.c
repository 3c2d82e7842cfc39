#include "stored/kv/store_members.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "lib/proto/messages.h"
#include "lib/proto/outcome.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/pb.h"
#include "lib/wire/wire.h"
#include "stored/kv/kv_internal.h"

static void member_fini(struct store_member *m)
{
    buf_fini(&m->name);
    buf_fini(&m->peer_urls);
    buf_fini(&m->client_urls);
}

void store_members_fini(struct store_members *m)
{
    for (size_t i = 0; i < m->count; i++)
        member_fini(&m->list[i]);
    free(m->list);
    *m = (struct store_members){0};
}

static size_t position(const struct store_members *m, uint64_t id)
{
    size_t i = 0;

    while (i < m->count && m->list[i].id < id)
        i++;
    return i;
}

const struct store_member *store_members_find(const struct store_members *m, uint64_t id)
{
    size_t i = position(m, id);

    return i < m->count && m->list[i].id == id ? &m->list[i] : NULL;
}

static void set_buf(struct buf *b, struct bytes v)
{
    struct buf copy = BUF_INIT; /* v may point into b */

    buf_append_bytes(&copy, v);
    buf_fini(b);
    *b = copy;
}

static struct store_member *find_or_add(struct store_members *m, uint64_t id)
{
    size_t i = position(m, id);

    if (i < m->count && m->list[i].id == id)
        return &m->list[i];
    m->list = xreallocarray(m->list, m->count + 1, sizeof(m->list[0]));
    memmove(&m->list[i + 1], &m->list[i], (m->count - i) * sizeof(m->list[0]));
    m->count++;
    m->list[i] = (struct store_member){.id = id};
    return &m->list[i];
}

void store_members_set(struct store_members *m, const struct proto_member *member)
{
    struct store_member *to = find_or_add(m, member->id);

    to->is_learner = member->is_learner;
    to->removed = member->removed;
    set_buf(&to->name, member->name);
    set_buf(&to->peer_urls, member->peer_urls);
    set_buf(&to->client_urls, member->client_urls);
}

/* ---- membership changes ---- */

/* Takes the next comma-separated piece off the front. */
static bool next_url(struct bytes *list, struct bytes *ret)
{
    const uint8_t *comma;

    if (list->len == 0)
        return false;
    comma = memchr(list->data, ',', list->len);
    *ret = bytes_of(list->data, comma == NULL ? list->len : (size_t)(comma - list->data));
    list->data += ret->len;
    list->len -= ret->len;
    if (list->len > 0) {
        list->data++;
        list->len--;
    }
    return true;
}

static bool share_url(struct bytes a, struct bytes b)
{
    struct bytes x, y, rest;

    while (next_url(&a, &x))
        for (rest = b; next_url(&rest, &y);)
            if (bytes_eq(x, y))
                return true;
    return false;
}

static bool url_is_taken(const struct store_members *m, uint64_t id, struct bytes urls)
{
    for (size_t i = 0; i < m->count; i++)
        if (m->list[i].id != id && !m->list[i].removed &&
            share_url(buf_bytes(&m->list[i].peer_urls), urls))
            return true;
    return false;
}

int store_members_check(const struct store_members *m, const struct proto_conf_change *change)
{
    const struct store_member *known = store_members_find(m, change->member.id);

    if (known != NULL && known->removed)
        return OUT_MEMBER_NOT_FOUND; /* its id is used up, for an addition as well */
    switch (change->op) {
    case PROTO_CONF_ADD_VOTER:
    case PROTO_CONF_ADD_LEARNER:
        if (known != NULL)
            return OUT_MEMBER_EXIST;
        if (url_is_taken(m, change->member.id, change->member.peer_urls))
            return OUT_PEER_URL_EXIST;
        return OUT_OK;
    case PROTO_CONF_PROMOTE:
        if (known == NULL)
            return OUT_MEMBER_NOT_FOUND;
        return known->is_learner ? OUT_OK : OUT_MEMBER_NOT_LEARNER;
    case PROTO_CONF_REMOVE:
        return known == NULL ? OUT_MEMBER_NOT_FOUND : OUT_OK;
    case PROTO_CONF_UPDATE:
        if (known == NULL)
            return OUT_MEMBER_NOT_FOUND;
        return url_is_taken(m, change->member.id, change->member.peer_urls) ? OUT_PEER_URL_EXIST
                                                                             : OUT_OK;
    }
    return OUT_MALFORMED;
}

void store_members_apply(struct store_members *m, const struct proto_conf_change *change)
{
    struct store_member *to = find_or_add(m, change->member.id);

    switch (change->op) {
    case PROTO_CONF_ADD_VOTER:
    case PROTO_CONF_ADD_LEARNER:
        to->is_learner = change->op == PROTO_CONF_ADD_LEARNER;
        set_buf(&to->name, change->member.name);
        set_buf(&to->peer_urls, change->member.peer_urls);
        set_buf(&to->client_urls, change->member.client_urls);
        break;
    case PROTO_CONF_PROMOTE:
        to->is_learner = false;
        break;
    case PROTO_CONF_REMOVE:
        to->removed = true;
        buf_fini(&to->name);
        buf_fini(&to->peer_urls);
        buf_fini(&to->client_urls);
        break;
    case PROTO_CONF_UPDATE:
        set_buf(&to->peer_urls, change->member.peer_urls);
        break;
    }
}

/* ---- our own encoding ---- */

void store_members_encode(const struct store_members *m, struct buf *b)
{
    for (size_t i = 0; i < m->count; i++) {
        const struct store_member *from = &m->list[i];

        proto_member_encode(b, &(struct proto_member){
                                   .id = from->id,
                                   .is_learner = from->is_learner,
                                   .removed = from->removed,
                                   .name = buf_bytes(&from->name),
                                   .peer_urls = buf_bytes(&from->peer_urls),
                                   .client_urls = buf_bytes(&from->client_urls),
                               });
    }
}

int store_members_decode(struct store_members *m, struct bytes list)
{
    struct wire_reader r = wire_reader(list);
    struct store_members read = {0};
    struct proto_member member;

    while (r.pos < r.end) {
        if (proto_member_read(&r, &member) != 0) {
            store_members_fini(&read);
            return -EBADMSG;
        }
        store_members_set(&read, &member);
    }
    store_members_fini(m);
    *m = read;
    return 0;
}

/* ---- etcdserverpb ---- */

static void put_urls(struct buf *b, uint32_t field, struct bytes urls)
{
    struct bytes url;

    while (next_url(&urls, &url))
        pb_put_message(b, field, url);
}

void store_members_put_member(const struct store_member *m, struct buf *b, uint32_t field)
{
    size_t at = kv_pb_begin(b, field);

    pb_put_u64(b, 1, m->id);
    pb_put_bytes(b, 2, buf_bytes(&m->name));
    put_urls(b, 3, buf_bytes(&m->peer_urls));
    put_urls(b, 4, buf_bytes(&m->client_urls));
    pb_put_bool(b, 5, m->is_learner);
    kv_pb_end(b, at);
}

void store_members_put_list(const struct store_members *m, struct buf *b, uint32_t field)
{
    for (size_t i = 0; i < m->count; i++)
        if (!m->list[i].removed)
            store_members_put_member(&m->list[i], b, field);
}

void store_members_list_response(const struct store_members *m, const struct kv_header *header,
                                 struct buf *b)
{
    kv_put_header(b, header, 0);
    store_members_put_list(m, b, 2);
}
