/*
 * Auth as part of the keyspace's state: entries of the Auth service, the questions about it, and the
 * check of every other entry and read. Everything that asks stored for something passes through
 * here: entries through kv_auth_admit_entry, reads through kv_auth_admit_read; both have a table of
 * what each kind needs, and a kind without a line is refused while auth is enabled.
 */
#ifndef CONCLAVE_STORED_KV_AUTH_H
#define CONCLAVE_STORED_KV_AUTH_H

#include "lib/proto/messages.h"
#include "lib/util/buf.h"
#include "lib/util/bytes.h"
#include "stored/auth/auth_check.h"
#include "stored/auth/auth_store.h"
#include "stored/auth/auth_tokens.h"
#include "stored/kv/kv.h"

struct auth_tokens *kv_auth_tokens(struct kv *kv);
const struct auth_store *kv_auth_store(const struct kv *kv);

/* The identity's right to one operation: for what is asked by other messages than READ and PROPOSE
 * (a watch: AUTH_OP_READ of its range). stamp: as it came with the request. */
int kv_auth_check(struct kv *kv, struct bytes stamp, const struct auth_op *op);
/* The same for what was admitted before and goes on (a watch after a restart): the user's rights of
 * now, however old the stamp. */
int kv_auth_check_again(struct kv *kv, struct bytes stamp, const struct auth_op *op);
/* Every key attached to the lease. */
int kv_auth_check_lease(struct kv *kv, struct bytes stamp, int64_t lease, enum auth_op_type type);

/* A READ, content included: 0 or the refusal. */
int kv_auth_admit_read(struct kv *kv, enum proto_read_kind kind, struct bytes stamp,
                       struct bytes body);

/* AuthStatus, UserGet, UserList, RoleGet, RoleList. */
int kv_auth_read(struct kv *kv, enum proto_read_kind kind, struct bytes stamp, struct bytes body,
                 const struct kv_header *header, struct buf *message);

/* The header of an answer that is put together elsewhere. */
void kv_auth_put_header(const struct kv *kv, const struct kv_header *header, struct buf *message);

/* Vouches: appends a stamp for the user. OUT_TIMEOUT_WAIT_APPLIED: there is no key yet. */
int kv_auth_make_stamp(struct kv *kv, const struct auth_identity *who, struct buf *stamp);
/* There are users and no key to sign with: the leader's stored proposes one. */
bool kv_auth_needs_key(const struct kv *kv);
/* Rises with every change of auth. */
uint64_t kv_auth_generation(const struct kv *kv);

#endif
