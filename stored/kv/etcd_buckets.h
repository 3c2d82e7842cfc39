/*
 * What etcd 3.4 and 3.5 keep in their database, bucket by bucket (as read from their own files):
 *
 *   alarm            AlarmMember message -> empty
 *   auth             "authEnabled" -> 0 or 1; "authRevision" -> u64
 *   authRoles        name -> authpb.Role        authUsers: name -> authpb.User
 *   cluster          "clusterVersion" -> text
 *   key              revision -> KeyValue; revision 't' -> KeyValue with the deleted key alone
 *   lease            id (u64) -> leasepb.Lease {1: id, 2: TTL, 3: remaining TTL}
 *   members          id in hex -> JSON          members_removed: id in hex -> "removed"
 *   meta             "consistent_index", "term" -> u64; "confState" -> JSON;
 *                    "scheduledCompactRev", "finishedCompactRev" -> revision
 *
 * A revision is {u64 main, '_', u64 sub}. Integers are big-endian.
 */
#ifndef CONCLAVE_STORED_ETCD_BUCKETS_H
#define CONCLAVE_STORED_ETCD_BUCKETS_H

#include <stdint.h>
#include "lib/wire/wire.h"

/* In the order of their names, which is the order of the file. */
enum etcd_bucket {
    ETCD_ALARM,
    ETCD_AUTH,
    ETCD_AUTH_ROLES,
    ETCD_AUTH_USERS,
    ETCD_CLUSTER,
    ETCD_KEY,
    ETCD_LEASE,
    ETCD_MEMBERS,
    ETCD_MEMBERS_REMOVED,
    ETCD_META,
    ETCD_BUCKET_COUNT
};

static const char *const etcd_bucket_names[ETCD_BUCKET_COUNT] = {
    "alarm", "auth",  "authRoles", "authUsers",       "cluster",
    "key",   "lease", "members",   "members_removed", "meta",
};

enum { ETCD_REVISION_BYTES = 17, ETCD_TOMBSTONE_BYTES = 18 };
#define ETCD_TOMBSTONE_MARK 't'

/* The mark of a deletion is put behind in any case. */
static inline void etcd_revision_key(uint8_t out[ETCD_TOMBSTONE_BYTES], int64_t main, uint64_t sub)
{
    wire_store_be64(out, (uint64_t)main);
    out[8] = '_';
    wire_store_be64(out + 9, sub);
    out[17] = ETCD_TOMBSTONE_MARK;
}

#endif
