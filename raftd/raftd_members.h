/*
 * The members of the cluster as raftd knows them: who is dialled where, and which membership
 * change is possible. Changed by executed configuration entries only, in index order, by the same
 * rules on every member; names and client URLs come from stored.
 */
#ifndef CONCLAVE_RAFTD_MEMBERS_H
#define CONCLAVE_RAFTD_MEMBERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/proto/messages.h"
#include "lib/util/buf.h"
#include "lib/util/url.h"
#include "raftd/core/raft.h"

struct raftd_member {
    uint64_t id;
    bool is_learner, removed;
    char *name;
    struct url_list peer_urls;
    char *client_urls;
};
struct raftd_members {
    struct raftd_member *list;
    size_t count;
};

void raftd_members_fini(struct raftd_members *m);
/* Replaces the content by a proto_member list. -EBADMSG (then unchanged). */
int raftd_members_load(struct raftd_members *m, struct bytes list);
/* Takes names and client URLs of members that are known already. -EBADMSG. */
int raftd_members_update(struct raftd_members *m, struct bytes list);
void raftd_members_encode(const struct raftd_members *m, struct buf *b);
struct raftd_member *raftd_members_find(const struct raftd_members *m, uint64_t id);
/* 0 when the change was made; else OUT_MEMBER_EXIST, OUT_PEER_URL_EXIST, OUT_MEMBER_NOT_FOUND,
 * OUT_MEMBER_NOT_LEARNER, OUT_MEMBER_BAD_URLS, OUT_MEMBER_NOT_ENOUGH_STARTED (the last voter),
 * OUT_TOO_MANY_LEARNERS (the table is full). */
int raftd_members_apply(struct raftd_members *m, const struct proto_conf_change *c);
int raftd_members_check(const struct raftd_members *m, const struct proto_conf_change *c);
/* The voters and learners among them. */
void raftd_members_conf(const struct raftd_members *m, struct raft_conf *ret);
/* What the core is told of a change that was made. */
enum raft_conf_op raftd_members_conf_op(enum proto_conf_op op);

#endif
