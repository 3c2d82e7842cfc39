/*
 * The keyspace: etcd's revisioned map, executed deterministically from committed entries.
 *
 * Three parts: kv_index (every key and its revisions, in memory, ordered and counted), kv_cache
 * (encoded values under a budget), kv_engine (the two logs on disk). Entries are applied in turns;
 * a turn is one batch of the engine:
 *
 *     kv_begin_turn(kv);
 *     for each committed entry: kv_apply(kv, &entry, answer);
 *     seq = kv_end_turn(kv);           -> engine.write; answers may leave at once
 *     ... engine: written up to n      -> kv_on_written(kv, n)
 *     ... engine: durable up to n      -> kv_on_durable(kv, n), then kv_durable_index(kv)
 *
 * Answers are the bytes of the etcdserverpb response message, with header; nothing of the header
 * but the revision is state. Reads see everything applied, written by the engine or not.
 *
 * Nothing here reads a clock, and no order of a hash table is visible: equal entries give equal
 * states, answers and chain hashes on every member.
 *
 * Results: 0, a positive `enum outcome`, or a negative errno when the engine failed (then the
 * process must end). One thread (the loop's) unless a function says otherwise.
 */
#ifndef CONCLAVE_STORED_KV_H
#define CONCLAVE_STORED_KV_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include "lib/util/buf.h"
#include "lib/util/bytes.h"

struct kv;
struct kv_engine;
struct kv_range_request;
struct lease_table;
struct proto_entry;
struct store_alarms;
struct store_members;

/* What an answer's header says besides the revision. */
struct kv_header {
    uint64_t cluster_id, member_id, raft_term;
};

/* Field 1 of every answer; header NULL: only the revision (inside a txn). */
void kv_put_header(struct buf *b, const struct kv_header *header, int64_t revision);

/* ---- opening ---- */

struct kv_args {
    struct kv_engine *engine; /* borrowed; outlives the kv; what it holds now is durable */
    uint64_t cache_bytes;     /* of values; 0: 32 MiB. What is not yet written is kept above it */
    uint64_t auth_token_ttl_ms; /* of simple tokens */
    struct bytes checkpoint;  /* content of a checkpoint file, or empty; needed during kv_open only */
};

/* Loads the checkpoint, replays what is newer, cuts back at a gap in the batch chain (those
 * entries come again from the log). A checkpoint that does not verify is ignored with
 * *ret_warning (free()) set. -EBADMSG: the engine's content makes no sense; *ret_error (free())
 * says where. */
int kv_open(const struct kv_args *args, struct kv **ret_kv, char **ret_error, char **ret_warning);
void kv_free(struct kv *kv);

struct kv_state {
    uint64_t applied_index, applied_term, chain_hash;
    int64_t revision, compact_revision; /* 1 and -1 in a fresh store */
};
void kv_get_state(const struct kv *kv, struct kv_state *ret);
/* Bytes that history and records need and what the caches take, for status and metrics. */
struct kv_stats {
    uint64_t key_count;     /* live */
    uint64_t index_bytes, cache_bytes, unwritten_bytes;
    uint64_t record_bytes;  /* of all records not yet compacted away: about what is in use on disk */
    uint64_t put_total, delete_total, txn_total, range_total;
    uint64_t lease_count;
    uint64_t lease_granted_total, lease_revoked_total, lease_expired_total; /* of this process */
    uint64_t cache_hits, cache_misses;
    bool kv_compacting;
};
void kv_get_stats(const struct kv *kv, struct kv_stats *ret);
const struct store_members *kv_members(const struct kv *kv);
const struct store_alarms *kv_alarms(const struct kv *kv);
struct bytes kv_cluster_version(const struct kv *kv);
struct bytes kv_downgrade(const struct kv *kv); /* target version of the one under way, or empty */
struct lease_table *kv_leases(struct kv *kv); /* changed by kv_apply only */
/* Rises with every change of members, alarms or cluster version. */
uint64_t kv_tables_generation(const struct kv *kv);

/* ---- applying ---- */

/* Where the answer of one entry goes. */
struct kv_answer {
    const struct kv_header *header;
    struct buf *message; /* the response is appended, only when the outcome is OUT_OK */
    /* COMPACT with physical: the caller holds the answer back until kv_compact_unfinished() is
     * false or this revision is reached by kv_compact_finished_revision(); else 0 */
    int64_t wait_compact_revision;
};

void kv_begin_turn(struct kv *kv);
/* Executes one entry; one at or below the applied index is ignored with OUT_OK and no answer.
 * Entries must come without a gap (-EPROTO otherwise; nothing is executed then). answer NULL:
 * nobody waits. */
int kv_apply(struct kv *kv, const struct proto_entry *entry, struct kv_answer *answer);
/* Hands the batch to the engine. Its sequence, 0 when the turn executed nothing. */
uint64_t kv_end_turn(struct kv *kv);

void kv_on_written(struct kv *kv, uint64_t sequence);
void kv_on_durable(struct kv *kv, uint64_t sequence);
/* The applied index up to which everything survives a crash of the host. */
uint64_t kv_durable_index(const struct kv *kv);

/* ---- reading ---- */

/* Answers a range whose message is at most max_bytes: no allocation but the message's. -E2BIG:
 * larger, or needs sorting or a long walk: use kv_range_new. The request passed kv_check_range. */
int kv_range_now(struct kv *kv, const struct kv_range_request *m, const struct kv_header *header,
                 size_t max_bytes, struct buf *message);

/* Any range in slices, as of the revision at kv_range_new, while entries are applied in between.
 * It holds back what compaction would remove of its revision. Freed before the kv. */
struct kv_range;
int kv_range_new(struct kv *kv, const struct kv_range_request *m, const struct kv_header *header,
                 struct kv_range **ret_range);
void kv_range_free(struct kv_range *range);
/* Appends at most about max_bytes (one key-value may exceed it) and looks at a bounded number of
 * keys. 1: call again (perhaps nothing was appended yet); 0: that was all; negative: failed. */
int kv_range_step(struct kv_range *range, size_t max_bytes, struct buf *message);
/* Size of the whole message; 0: not known yet, and nothing was appended. */
uint64_t kv_range_total(const struct kv_range *range);

/* A read-only txn (kv_txn_is_read_only) as a whole. */
int kv_txn_read(struct kv *kv, struct bytes txn_request, const struct kv_header *header,
                struct buf *message);
/* MemberListResponse, AlarmResponse. */
void kv_member_list(struct kv *kv, const struct kv_header *header, struct buf *message);
void kv_alarm_list(struct kv *kv, struct bytes alarm_request, const struct kv_header *header,
                   struct buf *message);

/* HashKVResponse in slices, etcd's algorithm over the records up to `revision` (0: current).
 * kv_hash_step: 1: call again (the engine may have to write first), 0: message appended. */
struct kv_hash;
int kv_hash_new(struct kv *kv, int64_t revision, const struct kv_header *header,
                struct kv_hash **ret_hash);
int kv_hash_step(struct kv_hash *hash, size_t max_records, struct buf *message);
void kv_hash_free(struct kv_hash *hash);

/* ---- events: what a watcher is told (kv_events.c) ---- */

struct kv_event {
    int64_t main;
    uint32_t sub;
    bool is_delete;
    struct bytes key;
    struct bytes record; /* of a put: the KeyValue; of a deletion: empty */
};
/* Called by kv_apply for every change, in revision order, before kv_end_turn. Everything in the
 * event is borrowed for the call, and the keyspace may not be used meanwhile. fn NULL: nobody. */
typedef void (*kv_observer)(void *user, const struct kv_event *event);
void kv_set_observer(struct kv *kv, kv_observer fn, void *user);

/* Events of one key with from <= main <= to, oldest first, from the index; at most max (0: none
 * are left). Records are not read: kv_event_record does. */
struct kv_event_place {
    int64_t main;
    uint32_t sub;
    bool is_delete;
};
size_t kv_key_events(const struct kv *kv, struct bytes key, int64_t from, int64_t to,
                     struct kv_event_place *ret, size_t max);
/* Events of all keys of a range, unsorted. SIZE_MAX: more than max, or more than max_keys keys to
 * look at. Keys are borrowed until the next change. */
struct kv_key_place {
    struct kv_event_place at;
    struct bytes key;
};
size_t kv_range_events(const struct kv *kv, struct bytes key, struct bytes range_end, int64_t from,
                       int64_t to, size_t max_keys, struct kv_key_place *ret, size_t max);
/* Appends the KeyValue of a put. */
int kv_event_record(struct kv *kv, int64_t main, uint32_t sub, struct buf *ret);
/* Appends the KeyValue that the event replaced or deleted; nothing when there was none or when it
 * is compacted away. */
int kv_event_prev(struct kv *kv, struct bytes key, int64_t main, struct buf *ret);
/* Appends WatchResponse.events (field 11) with one event. prev empty: none. */
void kv_event_encode(const struct kv_event *event, struct bytes prev, struct buf *ret);

/* The log itself from (main, sub) on, as far as the engine has written it when this is called: up
 * to kv_written_revision, all of it. */
struct kv_log_iter;
int64_t kv_written_revision(const struct kv *kv);
struct kv_log_iter *kv_log_iter_new(struct kv *kv, int64_t main, uint32_t sub);
void kv_log_iter_free(struct kv_log_iter *it); /* before the kv; NULL is fine */
bool kv_log_iter_next(struct kv_log_iter *it, struct kv_event *ret); /* borrowed until the next */
int kv_log_iter_result(const struct kv_log_iter *it); /* after false: 0, or a negative errno */

/* ---- compaction of history ---- */

/* Entries of kind COMPACT move the compact revision at once; memory and disk follow in slices, in
 * the background. kv_compact_pending: there is something to do now. One step looks at about
 * max_keys keys; call it outside of a turn. It resumes after a restart by itself. */
bool kv_compact_pending(const struct kv *kv);
/* There is something to do, now or when what is applied has become durable. */
bool kv_compact_unfinished(const struct kv *kv);
int kv_compact_step(struct kv *kv, size_t max_keys);
/* Everything below this revision is physically gone (deletes handed to the engine). */
int64_t kv_compact_finished_revision(const struct kv *kv);

/* A key of the engine such that about part/parts of all versions lie below it. */
void kv_engine_border(const struct kv *kv, size_t part, size_t parts, struct buf *ret);

/* ---- checkpoint: the index as a file, so that opening does not scan history ---- */

/* The state exactly as of kv_checkpoint_new, produced in slices while entries are applied. The
 * caller writes the bytes to a new file, syncs it, and renames it into place only when
 * kv_durable_index() >= kv_checkpoint_index(); then kv_trim_batches may drop older batch records. */
struct kv_checkpoint;
struct kv_checkpoint *kv_checkpoint_new(struct kv *kv);
uint64_t kv_checkpoint_index(const struct kv_checkpoint *c);
int kv_checkpoint_step(struct kv_checkpoint *c, size_t max_bytes, struct buf *out); /* 1, 0, <0 */
void kv_checkpoint_free(struct kv_checkpoint *c);
/* Tells that the checkpoint of this index is in place, and removes batch records below it, about
 * max_records per call, outside of a turn. 1: more to do. Compaction counts on it: records of
 * deletions go only when a checkpoint that is in place knows of them. */
int kv_trim_batches(struct kv *kv, uint64_t index, size_t max_records);

/* ---- the whole state as a stream, for a follower that fell behind ---- */

struct kv_snapshot;
struct kv_snapshot_meta {
    uint64_t index, term, chain_hash;
    int64_t revision, compact_revision;
};
struct kv_snapshot *kv_snapshot_new(struct kv *kv, struct kv_snapshot_meta *ret_meta);
/* False until the engine has written everything the snapshot contains; then kv_snapshot_step may
 * be called, also from one other thread. Loop thread. */
bool kv_snapshot_ready(struct kv_snapshot *s);
/* 1: more to come, 0: that was all (the last 32 bytes are the SHA-256 of everything before). */
int kv_snapshot_step(struct kv_snapshot *s, size_t max_bytes, struct buf *out);
void kv_snapshot_free(struct kv_snapshot *s); /* loop thread */

/* Fills a fresh engine from such a stream. Nothing may use the engine's content unless
 * kv_restore_finish returned 0: then kv_open on it (without checkpoint) gives the sender's state. */
struct kv_restore;
struct kv_restore *kv_restore_new(struct kv_engine *engine);
int kv_restore_feed(struct kv_restore *r, struct bytes data); /* 0, -EBADMSG, -EIO */
/* Sequence handed to the engine last: wait for it to be written before more is fed (flow). */
uint64_t kv_restore_sequence(const struct kv_restore *r);
int kv_restore_finish(struct kv_restore *r, struct kv_snapshot_meta *ret_meta); /* 0 or -EBADMSG */
void kv_restore_free(struct kv_restore *r);

#endif
