/*
 * The members table: who belongs to the cluster, changed by conf entries and MEMBER_ATTR only.
 * Removed members stay as tombstones, an id is never used twice. Part of the replicated state:
 * sorted by id, so encoding it is deterministic.
 */
#ifndef CONCLAVE_STORED_STORE_MEMBERS_H
#define CONCLAVE_STORED_STORE_MEMBERS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"

struct kv_header;
struct proto_conf_change;
struct proto_member;
struct wire_reader;

struct store_member {
    uint64_t id;
    bool is_learner, removed;
    struct buf name, peer_urls, client_urls; /* as in proto_member */
};

struct store_members {
    struct store_member *list; /* by id, tombstones included */
    size_t count;
};

void store_members_fini(struct store_members *m);
/* NULL when unknown; may be a tombstone. */
const struct store_member *store_members_find(const struct store_members *m, uint64_t id);
/* Adds or replaces. */
void store_members_set(struct store_members *m, const struct proto_member *member);
/* What the change would be refused for, or OUT_OK; then store_members_apply may execute it. */
int store_members_check(const struct store_members *m, const struct proto_conf_change *change);
void store_members_apply(struct store_members *m, const struct proto_conf_change *change);

/* proto_member list, tombstones included (PROTO_MEMBERS, HELLO's conf_state, batch records). */
void store_members_encode(const struct store_members *m, struct buf *b);
int store_members_decode(struct store_members *m, struct bytes list); /* replaces; -EBADMSG */

/* etcdserverpb messages. Cluster replies carry a header without revision. field: of `members`. */
void store_members_put_list(const struct store_members *m, struct buf *b, uint32_t field);
void store_members_put_member(const struct store_member *m, struct buf *b, uint32_t field);
void store_members_list_response(const struct store_members *m, const struct kv_header *header,
                                 struct buf *b);

#endif
