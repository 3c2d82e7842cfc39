/*
 * Shared by the keyspace's files.
 *
 * Keys in the engine. Each begins with the byte KV_FORMAT, which changes with the layout:
 *   zero BE64, name          what only this member cares about: "compacted", "trimmed",
 *                            and "leases": the table as of "trimmed"
 *   main BE64 sub BE32       a version: mvccpb.KeyValue bytes as etcd encodes them; a deletion is
 *                            a zero byte (no message begins with one) and a KeyValue with the key
 *   revision BE64 ~0 BE32    a batch record, see struct kv_batch_record. It sorts right behind the
 *     index BE64             versions it covers: revision is the one after the batch
 *
 * So everything that is appended is above everything before, and LevelDB moves its tables down
 * without rewriting them. Two families of keys made it merge every table with all others.
 */
#ifndef CONCLAVE_STORED_KV_INTERNAL_H
#define CONCLAVE_STORED_KV_INTERNAL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/proto/kv_check.h"
#include "lib/util/arena.h"
#include "lib/util/buf.h"
#include "lib/util/bytes.h"
#include "lib/util/list.h"
#include "lib/wire/wire.h"
#include "stored/auth/auth_stamp.h"
#include "stored/auth/auth_store.h"
#include "stored/auth/auth_tokens.h"
#include "stored/kv/kv.h"
#include "stored/kv/kv_cache.h"
#include "stored/kv/kv_index.h"
#include "stored/lease/lease_table.h"
#include "stored/kv/store_alarms.h"
#include "stored/kv/store_members.h"

enum {
    KV_CACHE_BYTES_DEFAULT = 32 << 20,
    KV_FORMAT = 2, /* 1: two families of keys, 'r' and 'i' */
    KV_RECORD_KEY_BYTES = 13,
    KV_BATCH_KEY_BYTES = 21,
};
#define KV_META_KEY(name) BYTES_LIT("\x02\0\0\0\0\0\0\0\0" name)
#define KV_META_LEASES KV_META_KEY("leases")
#define KV_META_COMPACTED KV_META_KEY("compacted")
#define KV_META_TRIMMED KV_META_KEY("trimmed")

/* A revision that somebody still reads: compaction removes nothing it needs. */
struct kv_pin {
    struct list node;
    int64_t revision;
};

struct kv_handed {
    uint64_t sequence, index;
    int64_t revision;
};

enum kv_compact_phase {
    KV_COMPACT_IDLE,
    KV_COMPACT_WALK,         /* the index, key by key; deletes go to the engine */
    KV_COMPACT_SWEEP,        /* after a restart: the engine's records, for what was lost between */
    KV_COMPACT_WAIT_DURABLE, /* the deletes, before the marker that says they are done */
};

struct kv_revision {
    int64_t main;
    uint32_t sub;
};

struct kv_compact {
    enum kv_compact_phase phase;
    int64_t target;
    uint64_t wait_index; /* WALK: deletes nothing before this is durable */
    int64_t removed; /* the deletes up to here were handed over */
    int64_t done;    /* and were durable when the marker was written */
    bool needs_sweep;
    int64_t sweep_max; /* records above were written by this process */
    struct buf cursor; /* the next key (walk) or engine key (sweep); empty: from the start */
    uint64_t last_sequence; /* of the deletes */
    struct kv_revision *deletions; /* recorded deletions whose own record has to stay for now */
    size_t deletion_count, deletion_cap;
    int64_t oldest_deletion;
    struct buf batch;
};

/* Batch records that go when the next checkpoint is in place. */
struct kv_trim {
    struct buf cursor;   /* engine key to look from for those of an earlier process, or empty */
    uint64_t cursor_end; /* they have indexes up to this one */
    struct buf list;     /* those since then: varints, index and revision minus the one's before */
    size_t list_pos;
    uint64_t taken_index, listed_index; /* of the batches before list_pos and at the list's end */
    int64_t taken_revision, listed_revision;
};

struct kv {
    struct kv_engine *engine;
    struct kv_index index;
    struct kv_cache cache;

    struct store_members members;
    struct store_alarms alarms;
    struct buf cluster_version;
    struct lease_table leases;
    uint64_t lease_granted_total, lease_revoked_total, lease_expired_total;
    struct auth_store auth;
    uint64_t tables_generation;
    uint64_t auth_generation;
    struct auth_tokens auth_tokens; /* of this process, not of the state */
    struct auth_stamps auth_stamps;

    uint64_t applied_index, applied_term, chain_hash;
    int64_t revision, compact_revision;

    /* the turn */
    bool in_turn;
    bool members_changed, alarms_changed, version_changed, auth_changed;
    uint64_t turn_prev_index, turn_prev_hash;
    uint64_t sequence; /* of the batch being built, else of the next one */
    struct buf batch;

    uint64_t written_sequence, durable_sequence, durable_index;
    struct kv_handed *handed; /* batches not durable yet: [handed_first, handed_count) */
    size_t handed_first, handed_count, handed_cap;
    size_t handed_written; /* [handed_first, handed_written) are written */
    int64_t written_revision;

    struct list pins;
    struct buf checkpoint_leases; /* the table as of checkpoint_index, until that one is placed */
    uint64_t checkpoint_index; /* of the latest one begun, and its revision */
    int64_t checkpoint_revision;
    int64_t placed_revision;   /* of the one that a start would use; 0: none */
    struct kv_trim trim;
    struct kv_compact compact;
    kv_observer observer;
    void *observer_user;
    bool lease_seen; /* some put ever carried one: a checkpoint must look it up */

    struct arena arena;   /* of the request at hand */
    struct buf scratch, scratch2;
    uint64_t put_total, delete_total, txn_total, range_total;
};

/* ---- encoding ---- */

static inline void kv_record_key(uint8_t out[KV_RECORD_KEY_BYTES], int64_t main, uint32_t sub)
{
    out[0] = KV_FORMAT;
    wire_store_be64(out + 1, (uint64_t)main);
    wire_store_be32(out + 9, sub);
}

static inline void kv_batch_key(uint8_t out[KV_BATCH_KEY_BYTES], int64_t revision, uint64_t index)
{
    kv_record_key(out, revision, UINT32_MAX);
    wire_store_be64(out + KV_RECORD_KEY_BYTES, index);
}

/* False: it is a key of another kind. */
static inline bool kv_record_key_parse(struct bytes key, int64_t *ret_main, uint32_t *ret_sub)
{
    if (key.len != KV_RECORD_KEY_BYTES || key.data[0] != KV_FORMAT)
        return false;
    *ret_main = (int64_t)wire_load_be64(key.data + 1);
    *ret_sub = wire_load_be32(key.data + 9);
    return true;
}

static inline bool kv_batch_key_parse(struct bytes key, int64_t *ret_revision, uint64_t *ret_index)
{
    if (key.len != KV_BATCH_KEY_BYTES || key.data[0] != KV_FORMAT)
        return false;
    *ret_revision = (int64_t)wire_load_be64(key.data + 1);
    *ret_index = wire_load_be64(key.data + KV_RECORD_KEY_BYTES);
    return true;
}

/* The parts of an encoded KeyValue. */
struct kv_record {
    struct bytes key, value;
    int64_t create_revision, mod_revision, version, lease;
    bool is_delete;
};
size_t kv_record_size(const struct kv_record *r);
void kv_record_encode(const struct kv_record *r, uint8_t *out); /* kv_record_size bytes */
int kv_record_decode(struct bytes data, struct kv_record *ret); /* -EBADMSG */

/* A length-delimited field whose length is known at the end. */
size_t kv_pb_begin(struct buf *b, uint32_t field);
void kv_pb_end(struct buf *b, size_t at);

/* State after a turn, stored with it. */
struct kv_batch_record {
    bool is_base; /* the first one of a restored state: nothing before it */
    uint64_t prev_index, prev_hash, hash, term;
    int64_t revision, compact_revision;
    bool has_members, has_alarms, has_version, has_auth;
    struct bytes members, alarms, version, auth; /* whole tables, when the turn changed them */
    bool has_leases;   /* a base record: the whole table */
    bool has_lease_ops; /* else: what the turn changed in it */
    struct bytes leases, lease_ops;
};
static inline bool kv_batch_record_has_tables(const struct kv_batch_record *r)
{
    return r->has_members || r->has_alarms || r->has_version || r->has_auth;
}
void kv_batch_record_encode(struct buf *b, const struct kv_batch_record *r);
int kv_batch_record_decode(struct bytes data, struct kv_batch_record *ret);
int kv_load_tables(struct kv *kv, const struct kv_batch_record *r);

/* ---- values ---- */

/* Appends the record of a version; from the cache or the engine. Negative errno: it is gone. */
int kv_get_record(struct kv *kv, int64_t main, uint32_t sub, bool keep, struct buf *ret);

/* A change of the entry being executed, as it goes to the engine. */
void kv_observe(struct kv *kv, int64_t main, uint32_t sub, struct bytes record);

/* Ranges in etcd's convention: see facts, 4.5. */
struct kv_bounds {
    struct bytes from, to;
    bool is_single, has_to;
};
struct kv_bounds kv_bounds(struct bytes key, struct bytes range_end);
static inline bool kv_bounds_past(const struct kv_bounds *b, struct bytes key)
{
    if (b->is_single)
        return !bytes_eq(key, b->from);
    return b->has_to && bytes_cmp(key, b->to) >= 0;
}
uint64_t kv_count_live(const struct kv *kv, const struct kv_bounds *b);

/* ---- txn and ranges ---- */

/* Writes of one entry: all share the main revision. */
struct kv_writer {
    int64_t main;
    uint32_t sub;
};
int kv_write_put(struct kv *kv, struct kv_writer *w, const struct kv_put_request *m,
                 const struct kv_header *header, struct buf *answer);
int kv_write_delete(struct kv *kv, struct kv_writer *w, const struct kv_delete_request *m,
                    const struct kv_header *header, struct buf *answer);
int kv_check_put_state(const struct kv *kv, const struct kv_put_request *m, bool in_txn);
/* etcd refuses writes while an alarm is active: CORRUPT everything, NOSPACE what stores. */
int kv_check_alarms(const struct kv *kv, uint64_t cost);

/* ---- leases ---- */
bool kv_lease_exists(const struct kv *kv, int64_t lease);
void kv_lease_attach_all(struct kv *kv); /* opening: attachments from the keys' own records */
int kv_apply_lease_grant(struct kv *kv, struct bytes body, const struct kv_header *header,
                         struct buf *message);
int kv_apply_lease_revoke(struct kv *kv, struct kv_writer *w, struct bytes body,
                          const struct kv_header *header, struct buf *message);
/* term: of the entry */
int kv_apply_lease_keeper(struct kv *kv, uint64_t term, struct bytes body);
int kv_apply_lease_clock(struct kv *kv, uint64_t term, struct bytes body);
int kv_apply_lease_expire(struct kv *kv, struct kv_writer *w, uint64_t term, struct bytes body);

/* Appends a RangeResponse. current: the newest revision it may see, header's revision. */
int kv_range_whole(struct kv *kv, const struct kv_range_request *m, int64_t current,
                   const struct kv_header *header, struct buf *answer);
/* The request's revision against the store: OUT_OK, OUT_COMPACTED, OUT_FUTURE_REVISION. */
int kv_check_range_revision(const struct kv *kv, const struct kv_range_request *m);

/* The txn was checked by kv_check_txn. answer may be NULL. */
int kv_txn_execute(struct kv *kv, struct kv_writer *w, struct kv_txn_request *m,
                   const struct kv_header *header, struct buf *answer);

/* ---- auth (kv_auth.c) ---- */
struct proto_payload;
/* May whoever asked for this entry have it executed? OUT_OK or the refusal. */
int kv_auth_admit_entry(struct kv *kv, const struct proto_payload *payload);
/* Entries of the Auth service; message NULL: nobody waits. */
int kv_auth_apply(struct kv *kv, const struct proto_payload *payload, uint64_t index,
                  const struct kv_header *header, struct buf *message);

/* ---- compaction ---- */
int64_t kv_compact_limit(const struct kv *kv); /* how far it may go with the pins as they are */
void kv_compact_wake(struct kv *kv);           /* the compact revision or a pin moved */
uint64_t kv_hand_over(struct kv *kv, struct buf *batch); /* outside of a turn: its sequence */

/* A batch record without tables was handed over or found; indexes rise. */
void kv_trim_note(struct kv *kv, uint64_t index, int64_t revision);
/* At open: those from before the checkpoint just loaded may be there from this revision on. */
void kv_trim_look_from(struct kv *kv, int64_t revision);

int kv_checkpoint_load(struct kv *kv, struct bytes file, char **ret_warning);

#endif
