#include "raftd/raftd_members.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include "lib/proto/outcome.h"
#include "lib/util/macros.h"
#include "lib/util/xmalloc.h"
#include "lib/wire/wire.h"

enum { TOMBSTONES_MAX = 4096 };

static void member_fini(struct raftd_member *m)
{
    free(m->name);
    url_list_fini(&m->peer_urls);
    free(m->client_urls);
}

void raftd_members_fini(struct raftd_members *m)
{
    for (size_t i = 0; i < m->count; i++)
        member_fini(&m->list[i]);
    free(m->list);
    *m = (struct raftd_members){0};
}

static char *text_of(struct bytes v)
{
    return xstrndup((const char *)v.data, v.len);
}

static void append(struct raftd_members *m, const struct proto_member *in)
{
    struct raftd_member *to;

    m->list = xreallocarray(m->list, m->count + 1, sizeof(*m->list));
    to = &m->list[m->count++];
    *to = (struct raftd_member){.id = in->id,
                                .is_learner = in->is_learner,
                                .removed = in->removed,
                                .name = text_of(in->name),
                                .client_urls = text_of(in->client_urls)};
    url_list_split(in->peer_urls, &to->peer_urls);
}

int raftd_members_load(struct raftd_members *m, struct bytes list)
{
    struct raftd_members fresh = {0};
    struct wire_reader r = wire_reader(list);
    size_t living = 0;

    while (r.pos != r.end) {
        struct proto_member in;

        if (proto_member_read(&r, &in) != 0 || in.id == 0 ||
            raftd_members_find(&fresh, in.id) != NULL || fresh.count >= TOMBSTONES_MAX ||
            (living += !in.removed) > RAFT_MEMBERS_MAX) {
            raftd_members_fini(&fresh);
            return -EBADMSG;
        }
        append(&fresh, &in);
    }
    raftd_members_fini(m);
    *m = fresh;
    return 0;
}

int raftd_members_update(struct raftd_members *m, struct bytes list)
{
    struct wire_reader r = wire_reader(list);

    while (r.pos != r.end) {
        struct proto_member in;
        struct raftd_member *to;

        if (proto_member_read(&r, &in) != 0)
            return -EBADMSG;
        to = raftd_members_find(m, in.id);
        if (to == NULL || to->removed || in.removed)
            continue;
        free(to->name);
        free(to->client_urls);
        to->name = text_of(in.name);
        to->client_urls = text_of(in.client_urls);
    }
    return 0;
}

void raftd_members_encode(const struct raftd_members *m, struct buf *b)
{
    for (size_t i = 0; i < m->count; i++) {
        const struct raftd_member *from = &m->list[i];
        CLEANUP(freep) char *peer_urls = url_list_join(&from->peer_urls);
        struct proto_member out = {.id = from->id,
                                   .is_learner = from->is_learner,
                                   .removed = from->removed,
                                   .name = bytes_str(from->name),
                                   .peer_urls = bytes_str(peer_urls),
                                   .client_urls = bytes_str(from->client_urls)};

        proto_member_encode(b, &out);
    }
}

struct raftd_member *raftd_members_find(const struct raftd_members *m, uint64_t id)
{
    for (size_t i = 0; i < m->count; i++) {
        if (m->list[i].id == id)
            return &m->list[i];
    }
    return NULL;
}

static bool url_taken(const struct raftd_members *m, const struct url_list *urls, uint64_t except)
{
    for (size_t i = 0; i < m->count; i++) {
        const struct raftd_member *other = &m->list[i];

        if (other->removed || other->id == except)
            continue;
        for (size_t a = 0; a < urls->count; a++) {
            for (size_t b = 0; b < other->peer_urls.count; b++) {
                if (strcmp(urls->items[a], other->peer_urls.items[b]) == 0)
                    return true;
            }
        }
    }
    return false;
}

static int check_urls(const struct raftd_members *m, const struct proto_member *in)
{
    struct url_list urls;
    int out = 0;

    url_list_split(in->peer_urls, &urls);
    if (urls.count == 0)
        out = OUT_MEMBER_BAD_URLS;
    else if (url_taken(m, &urls, in->id))
        out = OUT_PEER_URL_EXIST;
    url_list_fini(&urls);
    return out;
}

static size_t count_living(const struct raftd_members *m, bool voters_only)
{
    size_t n = 0;

    for (size_t i = 0; i < m->count; i++)
        n += !m->list[i].removed && !(voters_only && m->list[i].is_learner);
    return n;
}

int raftd_members_check(const struct raftd_members *m, const struct proto_conf_change *c)
{
    const struct raftd_member *found = raftd_members_find(m, c->member.id);
    bool living = found != NULL && !found->removed;

    switch (c->op) {
    case PROTO_CONF_ADD_VOTER:
    case PROTO_CONF_ADD_LEARNER:
        if (found != NULL && found->removed)
            return OUT_MEMBER_NOT_FOUND; /* etcd: its id is used up */
        if (c->member.id == 0 || found != NULL)
            return OUT_MEMBER_EXIST;
        if (count_living(m, false) >= RAFT_MEMBERS_MAX || m->count >= TOMBSTONES_MAX)
            return OUT_TOO_MANY_LEARNERS;
        return check_urls(m, &c->member);
    case PROTO_CONF_PROMOTE:
        if (!living)
            return OUT_MEMBER_NOT_FOUND;
        return found->is_learner ? 0 : OUT_MEMBER_NOT_LEARNER;
    case PROTO_CONF_REMOVE:
        if (!living)
            return OUT_MEMBER_NOT_FOUND;
        return found->is_learner || count_living(m, true) > 1 ? 0 : OUT_MEMBER_NOT_ENOUGH_STARTED;
    case PROTO_CONF_UPDATE:
        if (!living)
            return OUT_MEMBER_NOT_FOUND;
        return check_urls(m, &c->member);
    }
    return OUT_MALFORMED;
}

int raftd_members_apply(struct raftd_members *m, const struct proto_conf_change *c)
{
    struct raftd_member *found = raftd_members_find(m, c->member.id);
    struct proto_member fresh = c->member;
    int out = raftd_members_check(m, c);

    if (out != 0)
        return out;
    switch (c->op) {
    case PROTO_CONF_ADD_VOTER:
    case PROTO_CONF_ADD_LEARNER:
        fresh.is_learner = c->op == PROTO_CONF_ADD_LEARNER;
        fresh.removed = false;
        append(m, &fresh);
        break;
    case PROTO_CONF_PROMOTE:
        found->is_learner = false;
        break;
    case PROTO_CONF_REMOVE:
        found->removed = true;
        break;
    case PROTO_CONF_UPDATE:
        url_list_fini(&found->peer_urls);
        url_list_split(c->member.peer_urls, &found->peer_urls);
        break;
    }
    return 0;
}

void raftd_members_conf(const struct raftd_members *m, struct raft_conf *ret)
{
    *ret = (struct raft_conf){0};
    for (size_t i = 0; i < m->count; i++) {
        if (m->list[i].removed)
            continue;
        if (m->list[i].is_learner)
            raft_conf_add_learner(ret, m->list[i].id);
        else
            raft_conf_add_voter(ret, m->list[i].id);
    }
}

enum raft_conf_op raftd_members_conf_op(enum proto_conf_op op)
{
    switch (op) {
    case PROTO_CONF_ADD_VOTER:
        return RAFT_CONF_ADD_VOTER;
    case PROTO_CONF_ADD_LEARNER:
        return RAFT_CONF_ADD_LEARNER;
    case PROTO_CONF_PROMOTE:
        return RAFT_CONF_PROMOTE;
    case PROTO_CONF_REMOVE:
        return RAFT_CONF_REMOVE;
    case PROTO_CONF_UPDATE:
        break;
    }
    return RAFT_CONF_NONE;
}
